"""Exact scores of images of a drawn world: is what was asked for in the picture, and does the whole look like fresh renders?

Prompt scores follow DPG-Bench's categories; `overall` is strict: the share of prompts whose every stated attribute is
right. `frechet` is a Frechet distance on the verifier's features, comparable with nothing but itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..statistics import (
    FRECHET_LEAST,
    PIXELS,
    Moments,
    bootstrap_interval,
    finite_images,
    frechet_distance,
    frechet_remark,
    pixel_statistics,
)
from .render import RANGE
from .verifier import FEATURES, Verifier
from .world import UNSTATED, World

REFERENCE = 4000  # fresh renders behind the Frechet distance


def score_images(images: Tensor, prompts: Sequence[str], verifier: Verifier, reference: Moments) -> dict:
    """Scores of images (N, 3, H, W), not clamped, made for N prompts; `reference` holds the moments of fresh renders.

    Returns overall, entity, attribute, relation, global, frechet, statistics of the pixels, n, nonfinite, and 95 % intervals
    (bootstrap over prompts) under "intervals". A category that no prompt states is None. An image with a pixel that is no number
    (they are counted under "nonfinite") is wrong in all; distance and statistics are those of the others, None of none; what
    must be said of a number is under "remarks".
    """
    right, stated = _read(images, prompts, verifier)
    per_prompt = {"overall": (_strictly(right, stated).double(), torch.ones(len(right), dtype=torch.float64))}
    world = verifier.world
    for category, names in world.categories.items():
        columns = [world.columns.index(name) for name in names]
        per_prompt[category] = (right[:, columns].sum(1).double(), stated[:, columns].sum(1).double())
    scores: dict = {name: _ratio(hits, asks) for name, (hits, asks) in per_prompt.items()}
    whole = images[finite_images(images)]
    remarks = {}
    if len(whole) >= FRECHET_LEAST:
        scores["frechet"] = frechet_distance(*feature_moments(whole.clamp(-1, 1), verifier), *reference)
        remark = frechet_remark(len(whole), FEATURES)
    else:
        scores["frechet"], remark = None, f"left out: {len(whole)} images of finite pixels, {FRECHET_LEAST} or more are needed"
    if remark:
        remarks["frechet"] = remark
    scores |= pixel_statistics(whole, RANGE) if len(whole) else dict.fromkeys(PIXELS)
    scores |= {"n": len(right), "nonfinite": len(images) - len(whole), "remarks": remarks}
    intervals = {name: bootstrap_interval(hits, asks, (0.0, 1.0)) for name, (hits, asks) in per_prompt.items()}
    scores["intervals"] = {name: found for name, found in intervals.items() if found is not None}
    return scores


def strictly_right(images: Tensor, prompts: Sequence[str], verifier: Verifier) -> Tensor:
    """1 for an image whose every stated attribute is right, else 0: `overall` is the mean."""
    return _strictly(*_read(images, prompts, verifier)).float()


def _read(images: Tensor, prompts: Sequence[str], verifier: Verifier) -> tuple[Tensor, Tensor]:
    """(N, columns): which attributes are stated and right, and which are stated at all; none is right where a pixel is no number."""
    device, world = next(verifier.parameters()).device, verifier.world
    shown = images.nan_to_num(0.0).clamp(-1, 1)
    read = torch.cat([verifier.read(part.to(device)).cpu() for part in shown.split(500)])
    asked = torch.tensor([world.parse(prompt) for prompt in prompts])
    return world.right(read, asked) & finite_images(images)[:, None], asked != UNSTATED


def _strictly(right: Tensor, stated: Tensor) -> Tensor:
    return (right | ~stated).all(1)


def reference_images(world: World) -> Tensor:
    """The fresh renders that samples are compared with: always the same."""
    generator = torch.Generator().manual_seed(20_000)
    return world.render(world.scenes(REFERENCE, generator), generator)


def feature_moments(images: Tensor, verifier: Verifier) -> Moments:
    """Mean and covariance of the verifier's features, in float64 on the CPU."""
    device = next(verifier.parameters()).device
    with torch.no_grad():
        features = torch.cat([verifier.features(part.to(device)).cpu() for part in images.split(500)]).double()
    return features.mean(0), features.T.cov()


def _ratio(hits: Tensor, asks: Tensor) -> float | None:
    return (hits.sum() / asks.sum()).item() if asks.sum() > 0 else None
