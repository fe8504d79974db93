"""What flow-matching families share: the time shift of their scheduler, and a stock scheduler for their students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from ...method.noise import FlowPath
from ...method.student import Sampler, uniform_grid
from .base import Denoiser


def own_shift(scheduler: Any, tokens: int) -> float:
    """The time shift at which a pipeline samples: fixed in its scheduler, or grown with the number of image tokens.

    A dynamic shift is mu, linear in the tokens; "exponential" makes it e^mu, by the same map as a fixed one.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift") or config.get("flow_shift") or 1.0)
    low, high = config.base_image_seq_len, config.max_image_seq_len
    mu = config.base_shift + (config.max_shift - config.base_shift) * (tokens - low) / (high - low)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


class FlowDenoiser(Denoiser):
    """A family whose network predicts a velocity on a shifted flow path.

    `stock_sigmas` says whether its stock pipeline, told only the number of steps, asks the scheduler for 1, 1 - 1/N, ..., 1/N.
    """

    path: FlowPath
    sampler: ClassVar[Sampler] = "ode"
    stock_sigmas = True

    def __init__(self, pipeline: Any, resolution: int | None = None) -> None:
        super().__init__(pipeline, resolution)
        self.path = FlowPath(own_shift(pipeline.scheduler, (self.side // self.patch) ** 2))

    def student_scheduler(self, grid: Sequence[float], sampler: Sampler) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(shift=self.path.shift, stochastic_sampling=sampler == "sde")

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        if self.stock_sigmas and tuple(grid) == uniform_grid(len(grid)):
            return super().stock_call(grid)
        return super().stock_call(grid) | {"sigmas": list(grid)}
