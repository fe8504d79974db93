"""What the families in variance-preserving noise share: their path, and a stock scheduler for their students."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...errors import InputError
from ...method.noise import DiffusionPath, Prediction
from ...method.student import Sampler, uniform_grid
from .base import Denoiser

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


class VPDenoiser(Denoiser):
    """A family whose network was trained on a table of a thousand noise levels."""

    path: DiffusionPath

    def __init__(self, pipeline: Any, resolution: int | None = None) -> None:
        super().__init__(pipeline, resolution)
        kind = pipeline.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise InputError("scheduler.prediction_type", repr(kind), f"a {self.family} teacher predicts one of {', '.join(PREDICTIONS)}")
        self.path = DiffusionPath(pipeline.scheduler.alphas_cumprod, PREDICTIONS[kind])

    def student_scheduler(self, grid: Sequence[float], sampler: Sampler) -> Any:
        from diffusers import DDIMScheduler, LCMScheduler

        config = dict(self.pipeline.scheduler.config)
        if sampler == "sde":
            # LCM's own grid is `original_inference_steps` equal strides of the table, the same levels as 1 - k / N.
            return LCMScheduler.from_config(config, original_inference_steps=len(grid), clip_sample=False)
        if not self._even(grid):
            raise InputError(
                "student.grid", f"{list(grid)}, which DDIM cannot be told", "use equal steps whose number divides 1000, or sampler=sde"
            )
        return DDIMScheduler.from_config(config, timestep_spacing="trailing", clip_sample=False)

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        call = super().stock_call(grid)
        if self._even(grid):
            return call
        return call | {"timesteps": self.path.time(torch.tensor(list(grid), dtype=torch.float64)).tolist()}

    def _even(self, grid: Sequence[float]) -> bool:
        """Whether the schedulers' own equal strides of the table are this grid."""
        return tuple(grid) == uniform_grid(len(grid)) and (len(self.path.table) - 1) % len(grid) == 0


class UNetDenoiser(VPDenoiser):
    """Stable Diffusion's U-Nets."""

    component = "unet"

    @property
    def feature_block(self) -> str:
        return "mid_block"
