"""Prompts from files: text, JSON, tables, Parquet, or a Hugging Face dataset saved to disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import json_kind, parse_json, read_json, read_lines
from ..tables import read_table

COLUMNS = ("prompt", "caption", "text")  # the first that a table has, in capitals or not
FORMATS = ".txt (one prompt a line), .jsonl, .json, .csv, .tsv, .parquet, or a saved dataset's folder"
Rows = Sequence[tuple[str, Any]]
"""(where it stands, row)."""


def read_prompts(path: Path | str) -> list[str]:
    """All prompts of a file or dataset folder, empty ones (and nulls) skipped.

    A table's prompts are its column `prompt`, `caption` or `text`. Raises InputError for a missing, damaged or empty
    source, for one of an unknown kind, and for a row whose prompt is missing or no text.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError("prompts", f"no file {path}", f"give {FORMATS}")
    reader = _dataset if os.path.isdir(path) else READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(str(path), f"a file of the kind {path.suffix}", f"give {FORMATS}")
    try:
        found = [prompt.strip() for prompt in reader(path)]
    except ModuleNotFoundError as error:
        raise InputError(str(path), f"a format that needs {error.name}", "pip install 'decoupled-dmd[data]'") from error
    prompts = [prompt for prompt in found if prompt]
    if not prompts:
        raise InputError(str(path), "no prompts", "put at least one into it")
    return prompts


def _json_lines(path: Path) -> list[str]:
    lines = [(f"{path}:{number}", line) for number, line in enumerate(read_lines(path), 1)]
    return _from_json(path, [(where, parse_json(line, where)) for where, line in lines if line.strip()])


def _json(path: Path) -> list[str]:
    value = read_json(path)
    if isinstance(value, dict):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        if len(lists) != 1:
            raise InputError(str(path), f"an object with {len(lists)} lists", "give a list of strings or objects")
        value = lists[0]
    if not isinstance(value, list):
        raise InputError(str(path), f"{json_kind(value)}, not a list", "give a list of strings or objects")
    return _from_json(path, [(f"{path}, row {number}", row) for number, row in enumerate(value, 1)])


def _from_json(path: Path, rows: Rows) -> list[str]:
    """Strings as they are, and the texts of objects."""
    for where, row in rows:
        if row is not None and not isinstance(row, str | dict):
            raise InputError(where, json_kind(row), "give strings, or objects with `prompt`")
    column = _column(path, list(dict.fromkeys(key for _, row in rows if isinstance(row, dict) for key in row)), rows)
    return [_text(where, _field(where, row, column) if isinstance(row, dict) else row) for where, row in rows]


def _delimited(delimiter: str) -> Callable[[Path], list[str]]:
    def read(path: Path) -> list[str]:
        names, found = read_table(path, delimiter)
        rows = [(f"{path}:{row.line}", row.fields) for row in found]
        column = _column(path, names, rows)
        return [_field(where, fields, column) for where, fields in rows]

    return read


def _column(path: Path, names: Sequence[str], rows: Rows = ()) -> str:
    """The name of the column of prompts, as the table writes it; of JSON, where any row is an object."""
    spelled = {column: [name for name in names if name.strip().casefold() == column] for column in COLUMNS}
    found = next((column for column in COLUMNS if spelled[column]), None)
    if found is None:
        if rows and not any(isinstance(row, dict) for _, row in rows):
            return ""
        listed = ", ".join(repr(name)[:40] for name in names[:8]) or "none"
        raise InputError(str(path), f"columns {listed}", f"name that of the prompts one of {', '.join(COLUMNS)}")
    if len(spelled[found]) > 1:
        raise InputError(str(path), f"columns {' and '.join(spelled[found])}", "leave the one that holds the prompts")
    return spelled[found][0]


def _field(where: str, row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise InputError(where, f"a row without {column}", "fill it in every row, or take the row out")
    return row[column]


def _text(where: str, value: Any) -> str:
    """A prompt; null is the empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(where, f"{json_kind(value)} for a prompt", "give text")
    if "\0" in value:
        raise InputError(where, "a NUL character", "take it out")
    return value


def _parquet(path: Path) -> list[str]:
    from .arrow_files import parquet_texts

    return _arrow(path, parquet_texts)


def _dataset(path: Path) -> list[str]:
    from .arrow_files import dataset_texts

    return _arrow(path, dataset_texts)


def _arrow(path: Path, read: Callable[[Path, Callable[[Sequence[str]], str]], list[Any]]) -> list[str]:
    texts = read(path, lambda names: _column(path, names))
    return [_text(f"{path}, row {number}", text) for number, text in enumerate(texts, 1)]


READERS: dict[str, Callable[[Path], list[str]]] = {
    "": read_lines,
    ".txt": read_lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
