"""Statistics of the pixels of any world's images."""

from __future__ import annotations

from torch import Tensor


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
