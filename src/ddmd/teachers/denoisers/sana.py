"""Sana: a Gemma encoder behind an instruction, a linear-attention transformer, a deep-compression autoencoder.

A prompt is preceded by the pipeline's own instruction; the unconditional is the empty text without one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .flow import FlowDenoiser
from .latents import LatentScale, plain_scale
from .words import check_words, encode_after_preamble


class Sana(FlowDenoiser):
    """SanaPipeline. Its scheduler may name the time shift `flow_shift`."""

    family = "sana"
    stock_sigmas = False  # the pipeline leaves the grid to the scheduler

    def __init__(self, pipeline: Any, resolution: int | None = None) -> None:
        super().__init__(pipeline, resolution)
        self.instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        time = 1000 * self.network.config.timestep_scale * self.path.time(u)
        output = network(z, cond["embeds"], timestep=time, encoder_attention_mask=cond["mask"], return_dict=False)[0]
        return output[:, : z.shape[1]]

    def read_latent_scale(self) -> LatentScale:
        return plain_scale(self.pipeline.vae.config)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        return encode_after_preamble(self.pipeline, texts, device=self.device, complex_human_instruction=self.instruction)

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        # Left to itself, the pipeline draws 1024 pixels whatever the model's size, and moves others to a bin of its own.
        size = {"height": self.resolution, "width": self.resolution}
        return super().stock_call(grid) | size | {"use_resolution_binning": False}


DENOISER = Sana
