"""model_index.json: what a pipeline's folder says that it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import read_json

INDEX = "model_index.json"


@dataclass(frozen=True)
class PipelineIndex:
    """A pipeline's class, its parts as name -> (library, class), the names of those that it goes without, and its plain options."""

    class_name: str
    parts: dict[str, tuple[str, str]]
    absent: tuple[str, ...]
    options: dict[str, Any]
    named: str  # where it was saved from, as far as it says


def read_index(folder: Path) -> PipelineIndex:
    """Read a pipeline folder's index.

    Keys that begin with an underscore are notes of diffusers (`_ignore_files` is a list, but no part).
    Raises InputError where there is none, or it is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        found = "no such folder" if not folder.is_dir() else f"no {INDEX} in it"
        raise InputError(str(folder), found, "give the folder of a diffusers pipeline")
    try:
        content = read_json(path)
    except InputError as error:
        raise _damaged(path, error.found) from error
    if not isinstance(content, dict):
        raise _damaged(path, "no JSON object")
    name = content.get("_class_name")
    if not isinstance(name, str):
        raise _damaged(path, "no _class_name" if name is None else f"_class_name {name!r}"[:80])
    parts, options = {}, {}
    absent = []
    for key, value in content.items():
        if key.startswith("_"):
            continue
        if not isinstance(value, list):
            options[key] = value
        elif _is_pair(value):
            parts[key] = (value[0], value[1])
        elif value == [None, None]:
            absent.append(key)
        else:
            raise _damaged(path, f"{key} {value!r}"[:80] + ", which is no [library, class]")
    return PipelineIndex(name, parts, tuple(absent), options, str(content.get("_name_or_path") or ""))


def _is_pair(value: list[Any]) -> bool:
    return len(value) == 2 and all(isinstance(entry, str) and entry for entry in value)


def _damaged(path: Path, found: str) -> InputError:
    return InputError(str(path), f"not a pipeline index: {found}", "download or save the pipeline again")
