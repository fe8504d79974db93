"""Exact scores of `shapes` images: is what was asked for in the picture, and does the whole look like fresh renders?

Prompt scores follow DPG-Bench's categories; `overall` is strict: the share of prompts whose every stated attribute is
right. `frechet` is a Frechet distance on the verifier's features, comparable with nothing but itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pixels import pixel_statistics
from .render import RANGE, render
from .scenes import CATEGORIES, NAMES, UNSTATED, parse, random_scenes
from .verifier import Verifier

REFERENCE = 4000  # fresh renders behind the Frechet distance
BOOTSTRAP = 1000


Moments = tuple[Tensor, Tensor]
"""Mean and covariance of verifier features."""


def score_images(images: Tensor, prompts: Sequence[str], verifier: Verifier, reference: Moments) -> dict:
    """Scores of images (N, 3, 32, 32), not clamped, made for N prompts; `reference` holds the moments of fresh renders.

    Returns overall, entity, attribute, relation, global, frechet, statistics of the pixels, n, and 95 % intervals
    (bootstrap over prompts) under "intervals". A category that no prompt states is None.
    """
    device = next(verifier.parameters()).device
    shown = images.clamp(-1, 1)
    read = torch.cat([verifier.read(part.to(device)).cpu() for part in shown.split(500)])
    asked = torch.tensor([parse(prompt) for prompt in prompts])
    stated = asked != UNSTATED
    right = (read == asked) & stated

    per_prompt = {"overall": ((right | ~stated).all(1).double(), torch.ones(len(asked), dtype=torch.float64))}
    for category, names in CATEGORIES.items():
        columns = [NAMES.index(name) for name in names]
        per_prompt[category] = (right[:, columns].sum(1).double(), stated[:, columns].sum(1).double())
    scores: dict = {name: _ratio(hits, asks) for name, (hits, asks) in per_prompt.items()}
    scores["frechet"] = frechet_distance(*feature_moments(shown, verifier), *reference)
    scores |= pixel_statistics(images, RANGE)
    scores["n"] = len(asked)
    scores["intervals"] = {name: _interval(hits, asks) for name, (hits, asks) in per_prompt.items() if asks.sum() > 0}
    return scores


def strictly_right(images: Tensor, prompts: Sequence[str], verifier: Verifier) -> Tensor:
    """1 for an image whose every stated attribute is right, else 0: `overall` is the mean."""
    read = torch.cat([verifier.read(part) for part in images.clamp(-1, 1).split(500)])
    asked = torch.tensor([parse(prompt) for prompt in prompts])
    return ((read == asked) | (asked == UNSTATED)).all(1).float()


def reference_images() -> Tensor:
    """The fresh renders that samples are compared with: always the same."""
    generator = torch.Generator().manual_seed(20_000)
    return render(random_scenes(REFERENCE, generator), generator)


def feature_moments(images: Tensor, verifier: Verifier) -> Moments:
    """Mean and covariance of the verifier's features, in float64 on the CPU."""
    device = next(verifier.parameters()).device
    with torch.no_grad():
        features = torch.cat([verifier.features(part.to(device)).cpu() for part in images.split(500)]).double()
    return features.mean(0), features.T.cov()


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^1/2), in float64."""
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * inner).item()


def _ratio(hits: Tensor, asks: Tensor) -> float | None:
    return (hits.sum() / asks.sum()).item() if asks.sum() > 0 else None


def _interval(hits: Tensor, asks: Tensor) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(len(hits), (BOOTSTRAP, len(hits)), generator=generator)
    ratios = hits[pick].sum(1) / asks[pick].sum(1).clamp(min=1)
    return torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
