"""What a benchmark asks for: prompts with names and categories, read from the files as they are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import read_json, read_json_lines
from ...teachers.prompt_files import read_prompts
from . import dpg


@dataclass(frozen=True)
class Item:
    """One prompt. Its images are named ID_0.png, ID_1.png, ..., or ID.png where there is one."""

    id: str
    prompt: str
    category: str = ""


def plain_items(path: Path) -> list[Item]:
    """The prompts of any file that training takes, numbered from 0."""
    return numbered((prompt, "") for prompt in read_prompts(path))


def categorised_items(path: Path) -> list[Item]:
    """Prompts with categories: a folder of CATEGORY.json (lists of strings, or of objects with `prompt`), or a .jsonl or .json file
    whose rows have `prompt` and `category`. Categories come in the order of their names. Raises InputError naming the file."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise InputError(str(path), "no CATEGORY.json", "give the benchmark's folder: one list of prompts a category")
        return numbered((_prompt(row, file), file.stem) for file in files for row in _rows(file))
    rows = _rows(path)
    bare = next((row for row in rows if not isinstance(row, dict) or not row.get("category")), None)
    if bare is not None:
        raise InputError(str(path), f"a row without category, {str(bare)[:60]!r}", "give prompt and category in every row")
    return numbered(sorted(((_prompt(row, path), str(row["category"])) for row in rows), key=lambda pair: pair[1]))


def graph_items(path: Path) -> list[Item]:
    """DPG-Bench's prompts by the table's own names; `official` loses some of them only when it scores."""
    return [Item(prompt.id, prompt.text) for prompt in dpg.read_graphs(path)]


def numbered(pairs: Any) -> list[Item]:
    """Items of (prompt, category), numbered; not one is an InputError."""
    found = [Item(f"{number:06d}", prompt, category) for number, (prompt, category) in enumerate(pairs)]
    if not found:
        raise InputError("--data", "no prompts", "give the benchmark's prompts")
    return found


def _rows(path: Path) -> list[Any]:
    rows = read_json_lines(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(rows, list):
        raise InputError(str(path), f"a {type(rows).__name__}, not a list", "give a list of prompts")
    return rows


def _prompt(row: Any, path: Path) -> str:
    text = row if isinstance(row, str) else row.get("prompt") or row.get("caption") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(str(path), f"a row without a prompt, {str(row)[:60]!r}", "give strings, or objects with `prompt`")
    return text


Reader = Callable[[Path], Sequence[Item]]
