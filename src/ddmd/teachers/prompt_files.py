"""Prompts from files: text, JSON lines, CSV, Parquet, or a Hugging Face dataset saved to disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

COLUMNS = ("prompt", "caption", "text")  # the first that a table has


def read_prompts(path: Path | str) -> list[str]:
    """All prompts of a file or dataset folder, blank ones skipped.

    A table's prompts are its column `prompt`, `caption` or `text`. Raises InputError for a missing, damaged or empty source.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            "prompts", f"no file {path}", "give a text file with one prompt a line, or .jsonl, .csv, .parquet, a saved dataset"
        )
    reader = _dataset if path.is_dir() else READERS.get(path.suffix.lower(), _text)
    try:
        found = [str(line).strip() for line in reader(path)]
    except ModuleNotFoundError as error:
        raise InputError(str(path), f"a format that needs {error.name}", "pip install 'decoupled-dmd[data]'") from error
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"a byte that is not UTF-8 at {error.start}", "save the file as UTF-8") from error
    prompts = [prompt for prompt in found if prompt]
    if not prompts:
        raise InputError(str(path), "no prompts", "put at least one into it")
    return prompts


def _text(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _json_lines(path: Path) -> list[str]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}", "a line that is not JSON", "write one object or string a line") from error
        rows.append({COLUMNS[0]: row} if isinstance(row, str) else row)
    return _column(path, rows)


def _csv(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as handle:
        return _column(path, list(csv.DictReader(handle)))


def _column(path: Path, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(rows)
    for column in COLUMNS:
        if rows and all(isinstance(row, dict) and isinstance(row.get(column), str) for row in rows):
            return [row[column] for row in rows]
    keys = list(rows[0]) if rows and isinstance(rows[0], dict) else "no rows"
    raise InputError(str(path), f"{keys}", f"name the column of prompts one of {', '.join(COLUMNS)}, and fill it in every row")


def _parquet(path: Path) -> list[str]:
    from pyarrow import ArrowInvalid, parquet

    try:
        return _arrow(path, parquet.read_table(path))
    except ArrowInvalid as error:
        raise InputError(str(path), "not a Parquet file", "save the table again") from error


def _dataset(path: Path) -> list[str]:
    """What `Dataset.save_to_disk` wrote: Arrow streams named by state.json."""
    try:
        import pyarrow

        names = [entry["filename"] for entry in json.loads((path / "state.json").read_text())["_data_files"]]
        tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(path / name))).read_all() for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(str(path), "not a dataset saved to disk (one split)", "save it by Dataset.save_to_disk") from error
    return [text for table in tables for text in _arrow(path, table)]


def _arrow(path: Path, table: Any) -> list[str]:
    for column in COLUMNS:
        if column in table.column_names:
            return [text or "" for text in table.column(column).to_pylist()]
    raise InputError(str(path), f"columns {', '.join(table.column_names)}", f"name the column of prompts one of {', '.join(COLUMNS)}")


READERS: dict[str, Callable[[Path], list[str]]] = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
