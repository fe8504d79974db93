"""Flux.1: pooled CLIP text, a T5 encoder, packed latents, and guidance that its dev model takes as an input.

The unconditional is the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .packed import PackedDenoiser, image_ids, pack, unpack
from .words import check_words

EMBEDDED_GUIDANCE = 3.5  # the stock pipeline's default, told to every role alike; alpha acts on top of it


class Flux(PackedDenoiser):
    """FluxPipeline, with or without embedded guidance."""

    family = "flux"

    @property
    def feature_block(self) -> str:
        return f"{self.blocks}.{len(self.network.transformer_blocks) - 1}"  # the last before text and image share one stream

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        embeds, (height, width) = cond["embeds"], z.shape[-2:]
        guidance = z.new_full((len(z),), EMBEDDED_GUIDANCE, dtype=torch.float32) if self.network.config.guidance_embeds else None
        output = network(
            hidden_states=pack(z), timestep=self.path.time(u), guidance=guidance, pooled_projections=cond["pooled"],
            encoder_hidden_states=embeds, txt_ids=embeds.new_zeros(embeds.shape[1], 3), img_ids=image_ids(height, width, z),
            return_dict=False,
        )[0]  # fmt: skip
        return unpack(output, height, width)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer_2, texts)
        embeds, pooled, _ = self.pipeline.encode_prompt(texts, None, device=self.device)
        return {"embeds": embeds, "pooled": pooled}

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        return super().stock_call(grid) | {"guidance_scale": EMBEDDED_GUIDANCE}


DENOISER = Flux
