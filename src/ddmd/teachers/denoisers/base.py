"""The interface of a model family: the smallest set of questions the rest of ddmd asks of a real model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ...method.distiller import Condition
from ...method.noise import NoisePath
from ...method.student import Sampler

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Denoiser(ABC):
    """One diffusers pipeline, seen as a denoiser in x0 space.

    `network` is the trained part; `call` runs it (or a copy of it) and answers in diffusers' sign. Latents are scaled.
    """

    family: ClassVar[str]
    component: ClassVar[str]  # the network's name in the pipeline
    feature_block: ClassVar[str]  # the block by whose features a discriminator judges
    lora_targets: ClassVar[tuple[str, ...]]
    sampler: ClassVar[Sampler]  # the few-step sampler that the family's students use by default

    path: NoisePath  # the noise path that the network was trained on
    shape: tuple[int, ...]  # one latent at the model's own resolution

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline: Any = pipeline

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        return getattr(self.pipeline, self.component)

    @property
    def pipeline_options(self) -> dict[str, Any]:
        """Constructor arguments of the pipeline that are not components."""
        return {}

    @abstractmethod
    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """Native output for latents z (B, ...) at levels u (B,)."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Conditions of a batch of prompts; an empty prompt is the unconditional."""

    @abstractmethod
    def unconditional(self, n: int) -> Condition:
        """The family's own unconditional, n times."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] (not clamped) of scaled latents."""

    @abstractmethod
    def student_scheduler(self, grid: Sequence[float], sampler: Sampler) -> Any:
        """A stock scheduler whose own grid is the student's, so that a plain pipeline samples as ddmd does."""
