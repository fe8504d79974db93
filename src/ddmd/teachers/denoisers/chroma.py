"""Chroma: Flux's packed latents without pooled text or embedded guidance; a T5 encoder of which one padding token is seen.

The unconditional is the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .packed import PackedDenoiser, image_ids, pack, unpack
from .words import check_words


class Chroma(PackedDenoiser):
    """ChromaPipeline."""

    family = "chroma"

    @property
    def feature_block(self) -> str:
        return f"{self.blocks}.{len(self.network.transformer_blocks) - 1}"  # the last before text and image share one stream

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        embeds, (height, width) = cond["embeds"], z.shape[-2:]
        tokens = pack(z)
        mask = torch.cat([cond["mask"], cond["mask"].new_ones(tokens.shape[:2])], dim=1).to(tokens.dtype)
        output = network(
            hidden_states=tokens, timestep=self.path.time(u), encoder_hidden_states=embeds, attention_mask=mask,
            txt_ids=embeds.new_zeros(embeds.shape[1], 3), img_ids=image_ids(height, width, z), return_dict=False,
        )[0]  # fmt: skip
        return unpack(output, height, width)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        embeds, _, mask, *_ = self.pipeline.encode_prompt(texts, device=self.device, do_classifier_free_guidance=False)
        return {"embeds": embeds, "mask": mask}


DENOISER = Chroma
