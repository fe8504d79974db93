"""Re-noise schedules (section 4.3 of the paper): at which levels the two branches look at the student's image.

Levels are drawn before any time shift and shifted later by the path, so "restrict, then shift" holds by construction.
The paper's tau_CA > t reads `u_ca < u_gen` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .noise import NoisePath


class Rule(NamedTuple):
    """What a schedule does: is CA kept below the generator's level, is DM, and do both share one level and noise?"""

    ca_below: bool
    dm_below: bool
    coupled: bool


RULES = {
    "coupled": Rule(ca_below=False, dm_below=False, coupled=True),  # schedule 1, the original DMD
    "full": Rule(ca_below=False, dm_below=False, coupled=False),  # schedule 2
    "constrained": Rule(ca_below=True, dm_below=True, coupled=False),  # schedule 3
    "hybrid": Rule(ca_below=True, dm_below=False, coupled=False),  # schedule 4, the paper's proposal
    "coupled_constrained": Rule(ca_below=True, dm_below=True, coupled=True),  # for ablation
}
Window = tuple[float, float]


@dataclass(frozen=True)
class RenoiseSchedule:
    """Draws (u_ca, u_dm) for a batch.

    `clamp` bounds every level: at u near 0 the normaliser divides by nothing, at u near 1 there is no signal.
    A window replaces the rule's range of its branch, in levels: the paper's tau in [0, .05] is (.95, 1). It may reach
    over the clamp, which cuts it, but must not lie outside. Where the generator's level is below the clamp the rule's
    range is empty and its lower bound is used.
    """

    name: str = "hybrid"
    clamp: Window = (0.02, 0.98)
    ca_window: Window | None = None
    dm_window: Window | None = None

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ValueError(f"schedule: found {self.name!r}; use one of {', '.join(RULES)}")
        for key in ("clamp", "ca_window", "dm_window"):
            window = getattr(self, key)
            if window is not None and not 0 <= window[0] < window[1] <= 1:
                raise ValueError(f"{key}: found {window}; two increasing levels inside [0, 1] are needed")
            low, high = self.range_of(window)
            if low >= high:
                raise ValueError(f"{key}: found {window}, outside clamp {self.clamp}; let the two overlap")
        if self.coupled and (self.ca_window or self.dm_window) and self.ca_window != self.dm_window:
            raise ValueError(f"ca_window, dm_window: found {self.ca_window}, {self.dm_window}; a coupled schedule needs them equal")

    @property
    def coupled(self) -> bool:
        """Whether both branches see one and the same noisy image."""
        return RULES[self.name].coupled

    def draw(self, u_gen: Tensor, path: NoisePath, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Levels of the two branches on a path for generator levels `u_gen`; all of shape (B,)."""
        rule = RULES[self.name]
        u_ca = self._levels(u_gen, path, rule.ca_below, self.ca_window, generator)
        if rule.coupled:
            return u_ca, u_ca
        return u_ca, self._levels(u_gen, path, rule.dm_below, self.dm_window, generator)

    def range_of(self, window: Window | None) -> Window:
        """The clamp, or the part of a window inside it."""
        low, high = self.clamp
        return (low, high) if window is None else (max(low, window[0]), min(high, window[1]))

    def _levels(self, u_gen: Tensor, path: NoisePath, below: bool, window: Window | None, generator: torch.Generator | None) -> Tensor:
        draw = torch.rand(u_gen.shape, generator=generator, device=u_gen.device, dtype=u_gen.dtype)
        return path.levels(draw, *self.range_of(window), u_gen if below and window is None else None)
