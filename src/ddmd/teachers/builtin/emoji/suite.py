"""`emoji` as a suite: prompts of each split, and scores by the judge, each named for what it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import InputError
from ....extras import require
from ..statistics import PIXELS, TooFewImages, bootstrap_interval, finite_images, kernel_distance, pixel_statistics
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
        require("emoji")  # scores are wanted hours from here
        self.judge, self.real = load_judge(folder)

    def prompts(self, split: str, n: int) -> list[str]:
        """The first n distinct prompts of train, validation or report; the splits share none."""
        if split not in SPLITS:
            raise InputError("split", repr(split), f"use one of {', '.join(SPLITS)}")
        return prompts_of(split, n, load_concepts())

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
        """Scores of images (N, 3, H, W), not clamped, made for N prompts; empty prompts ask for nothing and are not judged.

        An image with a pixel that is no number is counted under `nonfinite`: its cosine is 0, its concept and style are wrong;
        distance and statistics are those of the others. What must be said of a number is under `remarks`.
        """
        whole = finite_images(images.cpu())
        features = picture_features(images.cpu().nan_to_num(0.0))
        asked = [self._asked.get(prompt, (None, style_of(prompt))) for prompt in prompts]
        said = torch.tensor([bool(prompt.strip()) for prompt in prompts])
        cosine = (self._cosines(features, prompts) * whole)[said]
        scores: dict[str, Any] = {"text_image": cosine.mean().item() if len(cosine) else None}
        known = [i for i, (concept, _) in enumerate(asked) if concept is not None]
        if known:
            right = torch.tensor([asked[i][0] for i in known])
            seen = [i for i in known if whole[i]]
            among = recall(self.judge.see(features[seen]), self._names, right[whole[known]], (RECALL,))[f"recall@{RECALL}"] if seen else 0.0
            scores["recall"] = among * len(seen) / len(known)
        styled = {i: list(STYLES).index(style) for i, (_, style) in enumerate(asked) if style is not None}
        if styled:
            read = self.judge.style(features[list(styled)]).argmax(1)
            scores["style"] = ((read == torch.tensor(list(styled.values()))) & whole[list(styled)]).float().mean().item()
        intervals, remarks = {"text_image": bootstrap_interval(cosine)}, {}
        try:
            scores["kid_lite0"], intervals["kid_lite0"] = kernel_distance(self.real, features[whole])
        except TooFewImages as error:
            scores["kid_lite0"], remarks["kid_lite0"] = None, f"left out: {error.found}, {error.mend}"
        scores |= pixel_statistics(images[whole], reach=1.0) if whole.any() else dict.fromkeys(PIXELS)
        scores |= {"n": len(prompts), "nonfinite": int((~whole).sum()), "remarks": remarks}
        return {**scores, "intervals": {name: found for name, found in intervals.items() if found is not None}}

    def each(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """100 x cosine of every picture and its prompt."""
        return self._cosines(picture_features(images.cpu().nan_to_num(0.0)), prompts) * finite_images(images.cpu())

    def _cosines(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * (self.judge.see(features) * self.judge.hear(text_features(prompts))).sum(-1)

    def features(self, images: Tensor) -> Tensor:
        """Lite0's features, (N, 1280)."""
        return picture_features(images.cpu().nan_to_num(0.0))

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
