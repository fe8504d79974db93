"""How a stock pipeline scales its autoencoder's latents: by keys of that one's configuration, of which each family reads its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError

Values = tuple[float, ...]


@dataclass(frozen=True)
class LatentScale:
    """The autoencoder's latents are `scaled * std / factor + mean`; mean and std are one value for all channels or one for each."""

    factor: float = 1.0
    mean: Values = (0.0,)
    std: Values = (1.0,)

    def to_autoencoder(self, scaled: Tensor) -> Tensor:
        """What is decoded, of scaled latents (B, C, H, W)."""
        mean, std = self._by_channel(scaled)
        return scaled * std / self.factor + mean

    def from_autoencoder(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, H, W) of encoded ones."""
        mean, std = self._by_channel(latents)
        return (latents - mean) * self.factor / std

    def _by_channel(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1).to(like) for values in (self.mean, self.std))
        return mean, std


def plain_scale(config: Any) -> LatentScale:
    """By `scaling_factor` alone."""
    return LatentScale(_factor(config))


def shifted_scale(config: Any) -> LatentScale:
    """By `scaling_factor` and, where there is one, `shift_factor`."""
    return LatentScale(_factor(config), _values(config, "shift_factor", 1) if config.get("shift_factor") is not None else (0.0,))


def standard_scale(config: Any, channels: int, factor: float = 1.0) -> LatentScale:
    """By `latents_mean` and `latents_std`, and a factor between them."""
    std = _values(config, "latents_std", channels)
    if 0.0 in std:
        raise _unusable("latents_std", config.get("latents_std"), "a deviation is above 0")
    return LatentScale(factor, _values(config, "latents_mean", channels), std)


def factor_and_moments(config: Any, channels: int) -> LatentScale:
    """By `scaling_factor` and, where both are there, `latents_mean` and `latents_std`."""
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return plain_scale(config)
    return standard_scale(config, channels, _factor(config))


def _factor(config: Any) -> float:
    (factor,) = _values(config, "scaling_factor", 1)
    if not factor:
        raise _unusable("scaling_factor", factor, "a factor is not 0")
    return factor


def _values(config: Any, key: str, channels: int) -> Values:
    """One number, or one for each channel."""
    given = config.get(key)
    values = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values):
        raise _unusable(key, given, "finite numbers are needed")
    if len(values) not in (1, channels):
        raise _unusable(key, f"{len(values)} values", f"its latents have {channels} channels")
    return tuple(float(value) for value in values)


def _unusable(key: str, found: Any, why: str) -> InputError:
    return InputError(f"vae.{key}", str(found)[:80], f"{why}: mend the autoencoder's config.json or download it again")
