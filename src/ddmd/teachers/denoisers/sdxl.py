"""SDXL: two text encoders (or the second alone), pooled text and micro-conditioning, a U-Net in VP noise.

The unconditional is zeros where the pipeline says so (`force_zeros_for_empty_prompt`, SDXL's default), else the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .latents import LatentScale, factor_and_moments
from .vp import UNetDenoiser
from .words import check_words


class SDXL(UNetDenoiser):
    """StableDiffusionXLPipeline, predicting eps or v; the embedded `shapes` teacher is one."""

    family = "sdxl"

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        added = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]}
        return network(z, self.path.time(u), encoder_hidden_states=cond["embeds"], added_cond_kwargs=added, return_dict=False)[0]

    def read_latent_scale(self) -> LatentScale:
        return factor_and_moments(self.pipeline.vae.config, self.network.config.in_channels)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer_2, texts)
        embeds, _, pooled, _ = self.pipeline.encode_prompt(texts, device=self.device, do_classifier_free_guidance=False)
        if self._zero_uncond:
            said = torch.tensor([bool(text.strip()) for text in texts], device=embeds.device)
            embeds, pooled = embeds * said[:, None, None], pooled * said[:, None]
        # Original size, crop corner and target size, in pixels.
        size = self.resolution
        time_ids = embeds.new_tensor([size, size, 0, 0, size, size]).expand(len(texts), 6)
        return {"embeds": embeds, "pooled": pooled, "time_ids": time_ids}

    @property
    def _zero_uncond(self) -> bool:
        return bool(self.pipeline.config.force_zeros_for_empty_prompt)


DENOISER = SDXL
