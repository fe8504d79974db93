"""Folders of ddmd's own: checksums of what is in them, one process at a time, and no rubble of killed ones."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

from .errors import InputError, unwritable

MANIFEST = "manifest.json"  # checksums of a folder's files, written last
LOCK = ".ddmd-lock"
LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)")
YOUNG = 1.0  # seconds in which a temporary file may not have its lock yet


def check_replaceable(path: Path | str, mend: str = "give a folder of its own") -> None:
    """Raise InputError unless `path` is absent, an empty folder, or one in which all is as `folder_atomic` wrote it."""
    path = Path(path)
    with unwritable(path):
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(str(path), "a file", mend)
        if is_bare(path):
            return
    if not (path / MANIFEST).is_file():
        raise InputError(str(path), "a folder with files that ddmd did not write", mend)
    if (change := changed(path)) is not None:
        raise InputError(str(path / change), "a file that is not as ddmd wrote it", mend)


def write_manifest(folder: Path) -> None:
    """Checksums of every file in a folder, with one of their own."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)
    with ThreadPoolExecutor(4) as pool:
        sums = dict(zip((file.relative_to(folder).as_posix() for file in files), pool.map(checksum, files), strict=True))
    (folder / MANIFEST).write_text(_manifest(sums), encoding="utf-8")


def changed(folder: Path) -> str | None:
    """The first file that is missing, damaged or added since the manifest was written, by name.

    None if there is none. The manifest is one of the files.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        sums = json.loads(text)["sha256"]
        if text != _manifest(sums).encode():
            return MANIFEST
    except (OSError, ValueError, KeyError, TypeError):
        return MANIFEST
    files = [file.relative_to(folder) for file in folder.rglob("*") if not file.is_dir()]
    found = {file.as_posix() for file in files if not LEFTOVER.fullmatch(file.parts[0])} - {MANIFEST}
    if found != sums.keys():
        return sorted(found ^ sums.keys())[0]
    with ThreadPoolExecutor(4) as pool:
        for name, now in zip(sums, pool.map(lambda name: _readable(folder / name), sums), strict=True):
            if now != sums[name]:
                return name
    return None


def checksum(file: Path) -> str:
    """SHA-256 of a file's contents."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _readable(file: Path) -> str | None:
    with suppress(OSError):  # a block that the disk cannot read is damage too
        return checksum(file)
    return None


def _manifest(sums: dict[str, str]) -> str:
    own = hashlib.sha256(json.dumps(sums).encode()).hexdigest()
    return json.dumps({"written by": "ddmd", "sha256": sums, "own": own}, indent=1) + "\n"


def check_writable(folder: Path | str) -> Path:
    """Make a folder and see that files can be made in it. Raises InputError where not: before the work whose result goes there."""
    folder = Path(folder)
    with unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = beside(folder / "probe", "tmp")
        probe.touch()
        probe.unlink()
    return folder


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left in a folder (of one name, if given); what a living one fills is locked, and stays."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            match = LEFTOVER.fullmatch(entry.name)
            if match is None or name not in (None, match["name"]) or time.time() - entry.stat().st_mtime < YOUNG:
                continue
            with locked(entry) as mine:
                if not mine:
                    continue
                if match["kind"] == "old" and not (folder / match["name"]).exists():
                    os.replace(entry, folder / match["name"])  # killed between two renames
                elif entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


class Lock:
    """A folder held by this process until nothing refers to the lock any more; the system lets it go when the process dies."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle


_held: WeakValueDictionary[Path, Lock] = WeakValueDictionary()


def lock_folder(folder: Path) -> Lock:
    """Hold a folder, made if need be; once for all that this process does there. Raises InputError where another process holds it."""
    folder = folder.resolve()
    if (held := _held.get(folder)) is not None:
        return held
    with unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 (open as long as the lock is held)
    if try_lock(handle) is False:
        handle.seek(0)
        raise InputError(str(folder), f"another process at work in it ({handle.read().strip() or 'just begun'})", "wait until it ends")
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    handle.flush()
    lock = _held[folder] = Lock(handle)
    return lock


def is_bare(folder: Path) -> bool:
    """Whether a folder is absent or holds nothing but a lock and what a killed process left."""
    return not folder.exists() or all(entry.name == LOCK or LEFTOVER.fullmatch(entry.name) for entry in folder.iterdir())


def try_lock(handle: IO[Any] | int) -> bool | None:
    """Whether this handle now has its file to itself; None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a file or folder for the time of the block, if nobody else does; says whether."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield try_lock(descriptor) is True
    finally:
        os.close(descriptor)


def beside(path: Path, kind: str) -> Path:
    """A temporary name next to a path, which `remove_leftovers` knows."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def sync(path: Path) -> None:
    """Put a file or a folder's entries on the disk; some file systems cannot for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(*([OSError] if path.is_dir() else [])):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
