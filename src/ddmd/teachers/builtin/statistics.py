"""Statistics of images and features that the suites share: pixels, Frechet and kernel distance, bootstrap intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError

BOOTSTRAP = 1000
KID_SUBSETS, KID_SIZE = 20, 500

Moments = tuple[Tensor, Tensor]
"""Mean and covariance of features."""


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
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^1/2), in float64."""
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * inner).item()


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, list[float]]:
    """1000 x unbiased squared maximum mean discrepancy (cubic kernel, as KID), and the 95 % range over random subsets."""
    from torchmetrics.image.kid import poly_mmd

    generator = torch.Generator().manual_seed(0)
    size = min(KID_SIZE, len(real), len(fake))
    if size < 2:
        raise InputError("kid_lite0", f"{len(fake)} images", "give two or more")
    values = []
    for _ in range(KID_SUBSETS):
        a, b = (x[torch.randperm(len(x), generator=generator)[:size]] for x in (real, fake))
        values.append(1000 * poly_mmd(a, b).item())
    return sum(values) / len(values), torch.quantile(torch.tensor(values), torch.tensor([0.025, 0.975])).tolist()


def bootstrap_interval(values: Tensor, weights: Tensor | None = None) -> list[float]:
    """95 % interval of sum(values) / sum(weights), a mean where no weights are given, drawing the entries anew."""
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(len(values), (BOOTSTRAP, len(values)), generator=generator)
    weights = torch.ones_like(values) if weights is None else weights
    ratios = values[pick].sum(1) / weights[pick].sum(1).clamp(min=1)
    return torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
