"""What flow-matching families share: the scheduler's time shift and grid, and a stock scheduler for their students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ...errors import InputError
from ...method.noise import FlowPath, shift_level, unshift_level
from ...method.student import Sampler, uniform_grid
from .base import Denoiser

TIMES = 1000  # what a level of 1 is called by the networks, and by every scheduler published for them


def dynamic_mu(scheduler: Any, tokens: int) -> float | None:
    """The dynamic shift mu of a scheduler, linear in the number of image tokens; None for a scheduler with a fixed shift."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return None
    low, high = config.base_image_seq_len, config.max_image_seq_len
    return config.base_shift + (config.max_shift - config.base_shift) * (tokens - low) / (high - low)


def own_shift(scheduler: Any, tokens: int) -> float:
    """The time shift at which a pipeline samples: fixed in its scheduler, or grown with the number of image tokens.

    A dynamic shift is mu; "exponential" makes it e^mu, by the same map as a fixed one.
    """
    config, mu = scheduler.config, dynamic_mu(scheduler, tokens)
    if mu is not None:
        return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu
    # A solver that was made for diffusion keeps its shift under another name.
    return float(config.get("shift") or config.get("flow_shift") or 1.0)


class FlowDenoiser(Denoiser):
    """A family whose network predicts a velocity on a shifted flow path.

    `stock_sigmas` says whether its stock pipeline, told only the number of steps, asks the scheduler for 1, 1 - 1/N, ..., 1/N.
    """

    path: FlowPath
    noise = "flow"
    sampler: ClassVar[Sampler] = "ode"
    stock_sigmas = True

    def __init__(self, pipeline: Any, resolution: int | None = None) -> None:
        super().__init__(pipeline, resolution)
        config = pipeline.scheduler.config
        if config.get("invert_sigmas"):
            raise InputError("scheduler.invert_sigmas", "true", "levels fall from noise to the image here: no family needs it")
        if config.num_train_timesteps != TIMES:
            found = str(config.num_train_timesteps)
            raise InputError("scheduler.num_train_timesteps", found, f"a {self.family} network counts time to {TIMES}")
        self.path = FlowPath(self._teacher_shift)

    @property
    def shift(self) -> float:
        return self.path.shift

    def set_shift(self, shift: float) -> None:
        self.path = FlowPath(shift)

    @property
    def _tokens(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def _teacher_shift(self) -> float:
        return own_shift(self.pipeline.scheduler, self._tokens)

    @property
    def _euler(self) -> bool:
        """Whether the teacher's own scheduler takes Euler's steps, as ddmd does."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        return isinstance(self.pipeline.scheduler, FlowMatchEulerDiscreteScheduler)

    def teacher_grid(self, steps: int) -> tuple[float, ...]:
        """Levels, on this path, of the noise that the teacher's own scheduler goes through, with all of its keys."""
        even = torch.tensor(uniform_grid(steps), dtype=torch.float64)
        if not self._euler or steps == 1:  # one step is from pure noise by any key
            sigmas = shift_level(even, self._teacher_shift)
        else:
            scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
            requested = {"sigmas": even.tolist()} if self.stock_sigmas else {"num_inference_steps": steps}
            scheduler.set_timesteps(**requested, mu=dynamic_mu(scheduler, self._tokens))
            sigmas = scheduler.sigmas[:-1].double()
        levels = unshift_level(sigmas, self.path.shift).clamp(max=1)
        # Schedulers count in float32: a grid that is even but for that is meant to be even.
        return tuple((even if torch.allclose(levels, even, rtol=0, atol=1e-6) else levels).tolist())

    @property
    def teacher_sampler(self) -> Sampler:
        return "sde" if self.pipeline.scheduler.config.get("stochastic_sampling") else "ode"

    @property
    def not_followed(self) -> str | None:
        kind = type(self.pipeline.scheduler).__name__
        return None if self._euler else f"the teacher is sampled by Euler's steps at equal levels, not by its {kind}"

    def student_scheduler(self, grid: Sequence[float], sampler: Sampler) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(shift=self.path.shift, stochastic_sampling=sampler == "sde", **self._grid_keys(grid))

    def _grid_keys(self, grid: Sequence[float]) -> dict[str, Any]:
        """What else the student's scheduler is told, where the stock pipeline takes no sigmas for this grid."""
        return {}

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        if self.stock_sigmas and tuple(grid) == uniform_grid(len(grid)):
            return super().stock_call(grid)
        return super().stock_call(grid) | {"sigmas": list(grid)}
