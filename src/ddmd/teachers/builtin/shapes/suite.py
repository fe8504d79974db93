"""A drawn world as a suite: prompts of each split, exact scores, and what fresh renders look like."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import InputError
from ..statistics import Moments, pixel_statistics
from .render import RANGE
from .score import feature_moments, reference_images, score_images, strictly_right
from .verifier import load_verifier
from .world import OMIT, SPLITS, World


class ShapesSuite:
    """See `ddmd.teachers.builtin.Suite`."""

    main = "overall"
    tolerance = 0.02
    distance = "frechet"
    about = (
        "overall: share of prompts whose every stated attribute is right, with its 95 % interval; frechet: on the verifier's "
        "features against fresh renders, comparable only within this suite and between equal numbers of images, since it falls as "
        "they grow."
    )

    def __init__(self, world: World, verifier_folder: Path) -> None:
        self.name, self.world = world.name, world
        if not (verifier_folder / "verifier.safetensors").is_file():
            raise InputError(
                f"suite {self.name}", f"no verifier in {verifier_folder}", f"train it with `ddmd builtin train {self.name}-verifier`"
            )
        self.verifier = load_verifier(verifier_folder, world)

    def prompts(self, split: str, n: int) -> list[str]:
        """The first n distinct prompts of train, validation or report; the splits share none."""
        if split not in SPLITS:
            raise InputError("split", repr(split), f"use one of {', '.join(SPLITS)}")
        return self.world.take(split, n)

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
        """Exact scores; see `score_images`."""
        return score_images(images.cpu(), prompts, self.verifier, self._reference[0])

    def each(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """1 where every stated attribute is right, else 0."""
        return strictly_right(images.cpu(), prompts, self.verifier)

    def features(self, images: Tensor) -> Tensor:
        """The verifier's features, (N, 128)."""
        with torch.no_grad():
            return self.verifier.features(images.cpu().nan_to_num(0.0).clamp(-1, 1))

    def reference(self) -> dict[str, float]:
        """Pixel statistics of fresh renders; this world's latents are its pixels."""
        return self._reference[1]

    @cached_property
    def _reference(self) -> tuple[Moments, dict[str, float]]:
        images = reference_images(self.world)
        return feature_moments(images, self.verifier), pixel_statistics(images, RANGE)

    def pairs(self, n: int) -> tuple[Tensor, list[str]]:
        """The data of this world: fresh renders and captions that are true of them."""
        generator = torch.Generator().manual_seed(30_000)
        scenes = self.world.scenes(n, generator)
        said = self.world.statements(scenes, OMIT, wrong=0.0, generator=generator)
        return self.world.render(scenes, generator), [self.world.caption(row) for row in said.tolist()]
