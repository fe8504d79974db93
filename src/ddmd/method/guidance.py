"""The guidance scale alpha over training: constant, warmed up, or drawn per sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GuidanceScale:
    """The paper's alpha, where CFG is uncond + alpha * (cond - uncond) and 1 is no guidance.

    `warmup` cycles lead linearly from 1 to `value`; `spread` draws alpha uniformly from (low, high) per sample instead.
    """

    value: float
    warmup: int = 0
    spread: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low = self.spread[0] if self.spread else self.value
        if low < 1:
            raise ValueError(f"alpha: found {low}; it must be at least 1 (1 is no guidance)")
        if self.spread and self.spread[1] < self.spread[0]:
            raise ValueError(f"alpha spread: found {self.spread}; low must not exceed high")

    def at(self, cycle: int, like: Tensor, generator: torch.Generator | None = None) -> float | Tensor:
        """Alpha of this cycle: a number, or shape (B, 1, ...) when it is drawn per sample."""
        warm = min(1.0, cycle / self.warmup) if self.warmup else 1.0
        if self.spread is None:
            return 1 + warm * (self.value - 1)
        low, high = self.spread
        draw = torch.rand(len(like), generator=generator, device=like.device, dtype=like.dtype)
        return 1 + warm * (low + (high - low) * draw - 1).view(-1, *(1,) * (like.ndim - 1))
