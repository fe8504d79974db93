"""The GAN regulariser (section 3.2) and DMD2's GAN term: a head that tells real images from student images by a network's features.

The features come from the fake model itself (DMD2), or from a network of its own that starts as a copy of the teacher.
Both images are re-noised to one level first, so the discriminator judges at every scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .noise import NoisePath


class Head(nn.Module):
    """Logits (B,) from features: maps (B, C, H, W) or tokens (B, L, C); every place votes and the votes are averaged."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.vote = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
        return self.vote(tokens.float()).mean(dim=(1, 2))


@dataclass(frozen=True)
class Adversary:
    """Whose features are judged, by which head, and how much the two losses weigh.

    `role` "fake" trains the head together with the fake model; "discriminator" is a network of its own, with `optimizer`.
    """

    role: Literal["fake", "discriminator"]
    head: Head
    generator_weight: float = 5e-3
    critic_weight: float = 1e-2
    levels: tuple[float, float] = (0.02, 0.98)
    optimizer: torch.optim.Optimizer | None = None

    def draw(self, n: int, path: NoisePath, generator: torch.Generator) -> Tensor:
        """Levels (n,) of a path at which images are judged."""
        return path.levels(torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64), *self.levels)


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating: -log sigmoid(logit), the student's wish to be taken for real."""
    return softplus(-fake_logits).mean()


def critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log sigmoid(real) - log(1 - sigmoid(fake))."""
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()
