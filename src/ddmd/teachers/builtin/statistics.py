"""Statistics of images and features that the suites share: pixels, Frechet and kernel distance, bootstrap intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError

BOOTSTRAP = 1000
KID_SUBSETS, KID_SIZE = 20, 500
KID_LEAST = 50  # images: of fewer, the unbiased estimate is mostly chance, and often far below 0
FRECHET_LEAST = 2  # images: one has no covariance
PIXELS = ("mean", "std", "saturation", "detail", "clipped")

Moments = tuple[Tensor, Tensor]
"""Mean and covariance of features."""


class TooFewImages(InputError):
    """A number that would say nothing of so few images; tables go on without it, and say so."""


def finite_images(images: Tensor) -> Tensor:
    """Which images (N, ...) hold nothing but numbers: booleans (N,)."""
    return images.flatten(1).isfinite().all(1)


def pixel_statistics(images: Tensor, reach: float) -> dict[str, float]:
    """Mean, standard deviation, saturation (mean spread of the three colours), high-frequency energy, share of clipped values.

    High-frequency energy is the mean square of each pixel less the mean of its four neighbours; clipped means beyond
    `reach`, the largest value that the world's own images take, by 5 % of it.
    """
    inner = images[..., 1:-1, 1:-1]
    around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return {
        "mean": images.mean().item(),
        "std": images.std().item(),
        "saturation": (images.amax(1) - images.amin(1)).mean().item(),
        "detail": (inner - around / 4).square().mean().item(),
        "clipped": (images.abs() > 1.05 * reach).float().mean().item(),
    }


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^1/2), in float64.

    It falls as the number of images behind the moments grows: compare equal numbers only.
    """
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * inner).item()


def frechet_remark(n: int, width: int) -> str | None:
    """What a Frechet distance of n images on so many features must be told with, if anything."""
    if n > width:
        return None
    return f"of {n} images on {width} features: mostly an effect of their number"


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, list[float]]:
    """1000 x unbiased squared maximum mean discrepancy (cubic kernel, as KID), and its 95 % range.

    Both are taken over random subsets of at most half of either set, so that the range, a jackknife
    that deletes half, tells what other images would have given. Raises TooFewImages.
    """
    from torchmetrics.image.kid import poly_mmd

    if (n := min(len(real), len(fake))) < KID_LEAST:
        raise TooFewImages("kid", f"{n} images", f"{KID_LEAST} or more are needed")
    generator = torch.Generator().manual_seed(0)
    size = min(KID_SIZE, n // 2)
    values = []
    for _ in range(KID_SUBSETS):
        a, b = (x[torch.randperm(len(x), generator=generator)[:size]] for x in (real, fake))
        values.append(1000 * poly_mmd(a, b).item())
    return sum(values) / len(values), _range(torch.tensor(values))


def bootstrap_interval(values: Tensor, weights: Tensor | None = None, reach: tuple[float, float] | None = None) -> list[float] | None:
    """95 % interval of sum(values) / sum(weights), a mean where no weights are given, drawing the
    entries anew.

    `reach` bounds what one entry can say (per weight). Where all say that bound, drawing them anew
    knows no spread: the interval is then the exact one of a share of 0 or 1. None for less than two
    entries of weight, unless they are at a bound.
    """
    weights = torch.ones_like(values) if weights is None else weights
    n = int((weights > 0).sum())
    if n and reach is not None:
        (low, high), room = reach, (reach[1] - reach[0]) * (1 - 0.025 ** (1 / n))
        if (values <= low * weights).all():
            return [low, low + room]
        if (values >= high * weights).all():
            return [high - room, high]
    if n < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(len(values), (BOOTSTRAP, len(values)), generator=generator)
    return _range(values[pick].sum(1) / weights[pick].sum(1).clamp(min=1))


def _range(values: Tensor) -> list[float]:
    return torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
