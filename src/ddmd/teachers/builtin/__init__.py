"""Teachers that ship with ddmd, so that everything runs offline, and the exact scores that their worlds allow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ...errors import InputError

WEIGHTS = Path(__file__).parent / "weights"
BUILTIN = ("shapes",)


class Suite(Protocol):
    """A world in which images can be scored against their prompts."""

    name: str

    def prompts(self, split: str, n: int) -> list[str]: ...
    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Any]: ...
    def reference(self) -> dict[str, float]: ...
    def pairs(self, n: int) -> tuple[Tensor, list[str]]: ...


def model_folder(model: str) -> Path:
    """The pipeline folder of a model named in a recipe or on the command line: an embedded teacher's name, or a path."""
    if model in BUILTIN and not Path(model).exists():
        folder = WEIGHTS / model / "pipeline"
        if not folder.is_dir():
            raise InputError(model, "no weights in this installation", f"train them with `ddmd builtin train {model}` or reinstall")
        return folder
    return Path(model)


@lru_cache
def load_suite(name: str) -> Suite:
    """The suite of an embedded world by name, one a process: it keeps the features of its reference."""
    if name != "shapes":
        raise InputError("suite", repr(name), f"use one of {', '.join(BUILTIN)}")
    from .shapes.suite import ShapesSuite

    return ShapesSuite(WEIGHTS / "shapes" / "verifier")
