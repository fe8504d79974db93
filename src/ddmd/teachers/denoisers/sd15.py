"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net in VP noise. The unconditional is the empty prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .vp import UNetDenoiser
from .words import check_words


class SD15(UNetDenoiser):
    """StableDiffusionPipeline, predicting eps or v."""

    family = "sd15"

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        return network(z, self.path.time(u), encoder_hidden_states=cond["embeds"], return_dict=False)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        embeds, _ = self.pipeline.encode_prompt(texts, self.device, 1, do_classifier_free_guidance=False)
        return {"embeds": embeds}


DENOISER = SD15
