"""Teachers that ship with ddmd, so that everything runs offline, and the exact scores that their worlds allow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ...errors import InputError

WEIGHTS = Path(__file__).parent / "weights"
BUILTIN = ("shapes", "pairs", "emoji", "emoji-student")  # emoji-student is the shipped few-step student
SUITES = ("shapes", "pairs", "emoji")


class Suite(Protocol):
    """A world in which images can be scored against their prompts.

    `main` names the score that a student is chosen by (higher is better), `tolerance` a fall of it that is noise, `distance` the
    score that says how far the pictures are from the data;
    `about` explains the scores to a reader; `score` never fails on images that are not finite, it counts them (`nonfinite`) as wrong; `each` is the main score of every image, `features` what images are compared by. `reference` gives mean and std of the data's latents where the world knows them.
    """

    name: str
    main: str
    tolerance: float
    distance: str
    about: str

    def prompts(self, split: str, n: int) -> list[str]: ...
    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Any]: ...
    def each(self, images: Tensor, prompts: Sequence[str]) -> Tensor: ...
    def features(self, images: Tensor) -> Tensor: ...
    def reference(self) -> dict[str, float] | None: ...
    def pairs(self, n: int) -> tuple[Tensor, list[str]]: ...


def model_folder(model: str) -> Path:
    """The pipeline folder of a model named in a recipe or on the command line: an embedded one's name, or a path."""
    if model not in BUILTIN or Path(model).exists():
        return Path(model)
    folder = WEIGHTS / model / "pipeline"
    if (folder / "model_index.json").is_file():
        return folder
    if folder.is_dir():
        return _unpacked(model, folder)
    raise InputError(model, "no weights in this installation", f"train them with `ddmd builtin train {model}` or reinstall")


def _unpacked(model: str, packed: Path) -> Path:
    """The whole pipeline of a model whose text encoder comes in a package of its own, put together once in the user's cache."""
    from ..identity import files_under

    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files_under(packed, lambda path: True))).hexdigest()
    folder = cache_folder() / f"{model}-{digest[:16]}"
    if not (folder / "model_index.json").is_file():
        from .emoji.make import unpack

        unpack(packed, folder)
    return folder


def cache_folder() -> Path:
    """Where ddmd keeps what it fetched or put together: DDMD_CACHE, or the user's cache folder."""
    own = os.environ.get("DDMD_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddmd"


@lru_cache
def load_suite(name: str) -> Suite:
    """The suite of an embedded world by name, one a process: it keeps the features of its reference."""
    if name in ("shapes", "pairs"):
        from .shapes.suite import ShapesSuite
        from .shapes.worlds import WORLDS

        return ShapesSuite(WORLDS[name], WEIGHTS / name / "verifier")
    if name == "emoji":
        from .emoji.suite import EmojiSuite

        return EmojiSuite(WEIGHTS / "emoji" / "judge")
    raise InputError("suite", repr(name), f"use one of {', '.join(SUITES)}")
