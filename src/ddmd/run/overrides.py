"""The text of a `key=value` override, read as the type of its key asks."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from ..errors import InputError
from .plain_yaml import parse_yaml

SHOWN = reprlib.Repr()  # what was found, short whatever it is
SHOWN.maxstring = SHOWN.maxother = 80


def read_value(model: type[BaseModel], keys: Sequence[str], text: str) -> Any:
    """An override's value as the type of its key asks. Raises InputError where that is neither text nor YAML."""
    kind = _annotation(model, keys)
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    optional = type(None) in options
    if optional and text in ("", "null"):
        return None
    if all(_is_text(option) for option in options if option is not type(None)):
        return text
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise InputError(".".join(keys), f"{SHOWN.repr(text)}, which is not YAML ({error})", "mend the value") from error


def _is_text(kind: Any) -> bool:
    """Whether a type is a string, or one of some strings."""
    if get_origin(kind) is Annotated:
        return _is_text(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return kind is str


def _annotation(model: Any, keys: Sequence[str]) -> Any:
    """The type of a key; None where there is no such key."""
    for key in keys[:-1]:
        field = model.model_fields.get(key) if model else None
        model = section_of(field.annotation) if field else None
    field = model.model_fields.get(keys[-1]) if model else None
    return field.annotation if field else None


def section_of(annotation: Any) -> Any:
    """The model among a type's alternatives, or None."""
    return next((kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
