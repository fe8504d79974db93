"""What the families in variance-preserving noise share: their path, and a stock scheduler for their students."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import InputError
from ...method.noise import DiffusionPath, Prediction
from ...method.student import Sampler, uniform_grid
from .base import Denoiser
from .latents import LatentScale, plain_scale

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# What a network was trained on. Everything else in a scheduler's file is a way of sampling, and no student inherits it.
TRAINED_ON = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)
GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def trained_on(scheduler: Any) -> dict[str, Any]:
    """The keys of a scheduler that belong to the network's path, as any other scheduler of diffusion understands them."""
    from diffusers import DDIMScheduler

    # A file may hold keys that its own class does not know and does not act on.
    known = inspect.signature(type(scheduler).__init__).parameters
    keys = {key: scheduler.config[key] for key in TRAINED_ON if key in known}
    own = keys | {"trained_betas": scheduler.betas.tolist(), "rescale_betas_zero_snr": False}
    try:
        table = DDIMScheduler(**keys).alphas_cumprod
    except NotImplementedError:  # DDIM's word for a `beta_schedule` that it cannot make
        return own
    # The last entry of a table with zero terminal SNR is nudged by some schedulers.
    same = torch.allclose(table[:-1], scheduler.alphas_cumprod[:-1], rtol=1e-4, atol=0)
    return keys if same else own


class VPDenoiser(Denoiser):
    """A family whose network was trained on a table of a thousand noise levels."""

    path: DiffusionPath
    noise = "vp"

    def __init__(self, pipeline: Any, resolution: int | None = None) -> None:
        super().__init__(pipeline, resolution)
        from diffusers import DDIMScheduler

        kind = pipeline.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise InputError("scheduler.prediction_type", repr(kind), f"a {self.family} teacher predicts one of {', '.join(PREDICTIONS)}")
        self._trained_on = trained_on(pipeline.scheduler)
        self.path = DiffusionPath(DDIMScheduler(**self._trained_on).alphas_cumprod, PREDICTIONS[kind])
        if self.path.ends_in_noise and self.path.prediction == "eps":
            found = "true beside prediction_type=epsilon"
            raise InputError("scheduler.rescale_betas_zero_snr", found, "pure noise predicts no image: correct one of them")

    @property
    def not_followed(self) -> str | None:
        config = self.pipeline.scheduler.config
        keys = [key for key in GRIDS if config.get(key)]
        return f"the teacher is sampled by DDIM at equal strides, without its scheduler's {', '.join(keys)}" if keys else None

    def read_latent_scale(self) -> LatentScale:
        return plain_scale(self.pipeline.vae.config)

    def student_scheduler(self, grid: Sequence[float], sampler: Sampler) -> Any:
        from diffusers import DDIMScheduler, LCMScheduler

        # The last step leads to the clean image, and nothing is clipped on the way.
        own = {"set_alpha_to_one": True, "clip_sample": False, "thresholding": False}
        # Neither scheduler reads the offset at these settings, but old pipelines warn of any other.
        own |= self._trained_on | {"steps_offset": 1}
        if sampler == "sde":
            # LCM's own grid is `original_inference_steps` equal strides of the table, the same levels as 1 - k / N.
            return LCMScheduler(**own, original_inference_steps=len(grid))
        if not self._even(grid):
            raise InputError(
                "student.grid", f"{list(grid)}, which DDIM cannot be told", "use equal steps whose number divides 1000, or sampler=sde"
            )
        return DDIMScheduler(**own, timestep_spacing="trailing")

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
