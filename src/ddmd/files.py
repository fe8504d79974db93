"""Writes that a kill cannot tear: temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write a whole file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with open(temporary, "wb") as handle:
        handle.write(content.encode() if isinstance(content, str) else content)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    return path


def write_json(path: Path | str, value: Any) -> Path:
    """Write JSON atomically, indented, keys in the order given."""
    return write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def folder_atomic(path: Path | str) -> Iterator[Path]:
    """Fill a temporary folder, then put it at `path` by renames; an existing folder there is replaced whole.

    A kill between the two renames leaves the new folder under its temporary name and none under `path`;
    callers that must survive that write each state under a name of its own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
