"""Tables as text, CSV and TSV: read strictly, so that no field is cut, shifted or swallowed in silence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .files import read_text, split_lines

LONGEST_FIELD = 2**31 - 1  # the csv module's own limit, 131,072 characters, is below some published notes

DOUBLED = 'write a quote inside a quoted field twice, ""'
FAULTS = (  # part of the csv module's message, what it means, the mend
    ("unexpected end of data", "a quote that does not close", DOUBLED),
    ("new-line character", "a carriage return in a field", "end lines with a newline, or quote the field"),
    ("", "a character after a closing quote", DOUBLED),
)


@dataclass(frozen=True)
class Row:
    """The fields of one row, by the names of the columns as they are written; `line` is where it ends."""

    line: int
    fields: dict[str, str]


def read_table(path: Path | str, delimiter: str = ",") -> tuple[list[str], list[Row]]:
    """Column names and rows of a UTF-8 table whose first row is its header; empty rows are skipped.

    A row may leave out its last fields. Raises InputError, by line, for a row with more fields than the header, for
    quotes that do not close, and for a header that is missing or names a column twice.
    """
    text = read_text(path)
    found = _plain(text) if delimiter == "\t" else None
    numbered = iter(found) if found is not None else _quoted(path, text, delimiter)
    _, names = next(numbered, (0, []))
    names = [name.strip() for name in names]
    if not any(names):
        raise InputError(str(path), "no header", "name the columns in the first row")
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise InputError(str(path), f"the column {twice[:60]!r} twice", "leave one")
    rows = []
    for line, fields in numbered:
        if len(fields) > len(names):
            found_text = f"{len(fields)} fields under a header of {len(names)}"
            raise InputError(f"{path}:{line}", found_text, _mend(delimiter))
        if any(fields):
            rows.append(Row(line, dict(zip(names, fields))))
    return names, rows


def _mend(delimiter: str) -> str:
    if delimiter == "\t":
        return "quote a field that holds a tab, or take the tab out"
    return 'quote a field that holds a comma, as in "a red circle, at the top"'


def _plain(text: str) -> list[tuple[int, list[str]]] | None:
    """Rows of a TSV without line breaks in its fields: as many fields in each as in the first, else None.

    Most published ones are made without quoting, so that a quote means nothing; a field quoted whole is freed of it.
    """
    rows = [line.split("\t") for line in split_lines(text)]
    if any(len(row) != len(rows[0]) for row in rows if row != [""]):
        return None
    return [(number, [_unquoted(field) for field in row]) for number, row in enumerate(rows, 1)]


def _unquoted(field: str) -> str:
    inner = field[1:-1].replace('""', "")
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if whole else field


def _quoted(path: Path | str, text: str, delimiter: str) -> Iterator[tuple[int, Sequence[str]]]:
    lines = (line for line in io.StringIO(text, newline="\n"))  # a newline alone ends a line
    with _long_fields():
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            yield from [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            found, mend = next(told for reason, *told in FAULTS if reason in str(error))
            raise InputError(f"{path}:{reader.line_num}", found, mend) from error


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
