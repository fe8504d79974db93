"""The interface of a model family: the smallest set of questions the rest of ddmd asks of a real model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...method.batch import Condition, select
from ...method.noise import NoisePath
from ...method.student import Sampler, uniform_grid
from .latents import LatentScale, shifted_scale
from .schedulers import Noise, check_scheduler

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Denoiser(ABC):
    """One diffusers pipeline, seen as a denoiser in x0 space.

    `network` is the trained part; `call` runs it (or a copy of it) and answers in diffusers' sign. Latents are scaled.
    """

    family: ClassVar[str]
    component: ClassVar[str] = "transformer"  # the network's name in the pipeline
    blocks: ClassVar[str] = "transformer_blocks"  # its stack of blocks
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    noise: ClassVar[Noise]  # what its schedulers must be of
    sampler: ClassVar[Sampler] = "sde"  # the few-step sampler that the family's students use by default

    folder: Path  # where it was opened; a student's export takes its other parts from there
    path: NoisePath  # the noise path that the network was trained on, at the time shift of the student's levels

    def __init__(self, pipeline: DiffusionPipeline, resolution: int | None = None) -> None:
        """Raises InputError for a resolution, in pixels, that the pipeline's latents cannot hold, and for a scheduler of another kind."""
        self.pipeline: Any = pipeline
        check_scheduler(self.pipeline.scheduler, self.noise, self.family)
        self.latent_scale = self.read_latent_scale()
        self._unconditional: Condition | None = None
        self.resolution = resolution or self.native_resolution
        if self.resolution % (self.pipeline.vae_scale_factor * self.patch):
            multiple = self.pipeline.vae_scale_factor * self.patch
            raise InputError("resolution", str(self.resolution), f"a {self.family} model needs a multiple of {multiple}")

    @property
    def feature_block(self) -> str:
        """The block by whose features a discriminator judges: the middle one of the stack."""
        return f"{self.blocks}.{len(self.network.get_submodule(self.blocks)) // 2 - 1}"

    @property
    def native_resolution(self) -> int:
        """The side of an image, in pixels, when the stock pipeline is told none."""
        return self.network.config.sample_size * self.pipeline.vae_scale_factor

    @property
    def patch(self) -> int:
        """Latent pixels on a side of one token; 1 for a U-Net."""
        return int(self.network.config.get("patch_size", 1))

    @property
    def side(self) -> int:
        """Latent pixels on a side."""
        return self.resolution // self.pipeline.vae_scale_factor

    @property
    def shape(self) -> tuple[int, ...]:
        """One latent."""
        return (self.network.config.in_channels, self.side, self.side)

    def read_latent_scale(self) -> LatentScale:
        """How the stock pipeline scales latents. Raises InputError for values that cannot be."""
        return shifted_scale(self.pipeline.vae.config)

    @property
    def network(self) -> Any:
        """The denoising network, a diffusers model."""
        return getattr(self.pipeline, self.component)

    @abstractmethod
    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """Native output for latents z (B, ...) at levels u (B,)."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Conditions of a batch of prompts; an empty prompt is the unconditional."""

    def unconditional(self, n: int) -> Condition:
        """The family's own unconditional, n times; encoded once, so that it outlives the text encoders."""
        if self._unconditional is None:
            self._unconditional = self.encode([""])
        return select(self._unconditional, torch.zeros(n, dtype=torch.long))

    @property
    def device(self) -> torch.device:
        """Where prompts are encoded and latents decoded."""
        return self.pipeline.vae.device

    def move(self, device: torch.device) -> None:
        """Move everything but the network, which the roles place."""
        for name, part in self.pipeline.components.items():
            if isinstance(part, nn.Module) and name != self.component:
                part.to(device)

    def drop_encoders(self) -> None:
        """Let go of the text encoders, once all prompts are encoded; `encode` fails from then on, `unconditional` does not."""
        self.unconditional(1)
        self.pipeline.register_modules(**{name: None for name in self.pipeline.components if name.startswith("text_encoder")})

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] (not clamped) of scaled latents."""
        vae = self.pipeline.vae
        return vae.decode(self.latent_scale.to_autoencoder(latents.to(vae.device, vae.dtype)), return_dict=False)[0]

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Scaled latents of images (B, 3, H, W) in [-1, 1]: the mean of the autoencoder's posterior."""
        vae = self.pipeline.vae
        encoded = vae.encode(images.to(vae.device, vae.dtype), return_dict=False)[0]
        latents = encoded if isinstance(encoded, Tensor) else encoded.mode()
        return self.latent_scale.from_autoencoder(latents)

    @property
    def shift(self) -> float | None:
        """The time shift between levels and noise; None for a family without one."""
        return None

    def set_shift(self, shift: float) -> None:
        """Give the levels, and so the student's grid, re-noising and export, a time shift of their own.

        Raises InputError for a family without one.
        """
        raise InputError("student.shift", f"{shift:g}", f"a {self.family} model has no time shift: leave it out")

    def teacher_grid(self, steps: int) -> tuple[float, ...]:
        """Levels at which the teacher itself is sampled: its own scheduler's, where it has such a grid."""
        return uniform_grid(steps)

    def teacher_noise(self, steps: int) -> list[float]:
        """How much noise, to six digits, there is at the levels of `teacher_grid`: the same walk at any shift of the levels."""
        levels = torch.tensor(self.teacher_grid(steps), dtype=torch.float64)
        return [round(noise, 6) for noise in self.path.coefficients(levels)[1].tolist()]

    @property
    def teacher_sampler(self) -> Sampler:
        """How the teacher itself is sampled between them."""
        return "ode"

    @property
    def not_followed(self) -> str | None:
        """In words, what the teacher's own scheduler does that its sampling here does not; None if they agree."""
        return None

    @abstractmethod
    def student_scheduler(self, grid: Sequence[float], sampler: Sampler) -> Any:
        """A stock scheduler by which a plain pipeline, called with `stock_call(grid)`, samples as ddmd does."""

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        """What the plain pipeline must be told, besides the prompt, to draw with an exported student."""
        call: dict[str, Any] = {"num_inference_steps": len(grid), "guidance_scale": 1.0}
        if self.resolution != self.native_resolution:
            call |= {"height": self.resolution, "width": self.resolution}
        return call
