"""`emoji` as a suite: prompts of each split, and scores by the judge, each named for what it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import InputError
from ..statistics import bootstrap_interval, kernel_distance, pixel_statistics
from .concepts import SPLITS, STYLES, captions, load_concepts, prompts_of
from .judge import load_judge, picture_features, recall, text_features

RECALL = 5


class EmojiSuite:
    """See `ddmd.teachers.builtin.Suite`."""

    name = "emoji"
    main = "text_image"
    tolerance = 1.0
    distance = "kid_lite0"
    about = (
        "text_image: 100 x cosine of picture and prompt by a small CLIP-like head on EfficientNet-Lite0 and MiniLM, with its 95 % "
        "interval; recall: share of pictures whose own concept is among the five nearest of all; style: share drawn in the style "
        "that was asked for; kid_lite0: 1000 x kernel distance to real emoji on Lite0 features. None is a CLIP score, FID or KID "
        "as published."
    )

    def __init__(self, folder: Path) -> None:
        if not (folder / "judge.safetensors").is_file():
            raise InputError("suite emoji", f"no judge in {folder}", "train it with `ddmd builtin train emoji-judge`")
        self.judge, self.real = load_judge(folder)

    def prompts(self, split: str, n: int) -> list[str]:
        """The first n distinct prompts of train, validation or report; the splits share none."""
        if split not in SPLITS:
            raise InputError("split", repr(split), f"use one of {', '.join(SPLITS)}")
        return prompts_of(split, n, load_concepts())

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
        """Scores of images (N, 3, H, W), not clamped, made for N prompts; empty prompts ask for nothing and are not judged."""
        features = picture_features(images.cpu())
        asked = [self._asked.get(prompt, (None, style_of(prompt))) for prompt in prompts]
        said = torch.tensor([bool(prompt.strip()) for prompt in prompts])
        cosine = self._cosines(features, prompts)[said]
        scores: dict[str, Any] = {"text_image": cosine.mean().item()}
        known = [i for i, (concept, _) in enumerate(asked) if concept is not None]
        if known:
            right = torch.tensor([asked[i][0] for i in known])
            scores["recall"] = recall(self.judge.see(features[known]), self._names, right, (RECALL,))[f"recall@{RECALL}"]
        styled = {i: list(STYLES).index(style) for i, (_, style) in enumerate(asked) if style is not None}
        if styled:
            read = self.judge.style(features[list(styled)]).argmax(1)
            scores["style"] = (read == torch.tensor(list(styled.values()))).float().mean().item()
        scores["kid_lite0"], spread = kernel_distance(self.real, features)
        scores |= pixel_statistics(images, reach=1.0)
        interval = bootstrap_interval(cosine)
        return {**scores, "n": len(prompts), "intervals": {"text_image": interval, "kid_lite0": spread}}

    def each(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """100 x cosine of every picture and its prompt."""
        return self._cosines(picture_features(images.cpu()), prompts)

    def _cosines(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * (self.judge.see(features) * self.judge.hear(text_features(prompts))).sum(-1)

    def features(self, images: Tensor) -> Tensor:
        """Lite0's features, (N, 1280)."""
        return picture_features(images.cpu())

    def reference(self) -> None:
        """Unknown here: the data's latents do not ship. A run then measures its teacher's samples."""

    def pairs(self, n: int) -> tuple[Tensor, list[str]]:
        """Real pictures do not ship with ddmd."""
        raise InputError("suite emoji", "no real pictures in the package", "run `ddmd builtin fetch emoji`, then `ddmd cache latents`")

    @cached_property
    def _asked(self) -> dict[str, tuple[int, str]]:
        """Caption -> (row of its concept, style)."""
        return {
            c: (row, style) for row, concept in enumerate(load_concepts()) for style in concept.styles for c in captions(concept, style)
        }

    @cached_property
    def _names(self) -> Tensor:
        """The judge's vectors of all concepts' names."""
        return self.judge.hear(text_features([f"an emoji of {concept.name}" for concept in load_concepts()]))


def style_of(prompt: str) -> str | None:
    """The style that a prompt asks for, if any; the longer name counts where one contains the other."""
    for style in sorted(STYLES, key=lambda s: -len(STYLES[s])):
        if f"{STYLES[style]} emoji" in prompt.lower():
            return style
    return None
