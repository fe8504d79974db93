"""PixArt-Sigma: a T5 encoder with its mask, a cross-attending transformer in VP noise that may predict a variance as well.

The unconditional is the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .vp import VPDenoiser
from .words import check_words


class PixArtSigma(VPDenoiser):
    """PixArtSigmaPipeline. The variance half of its output is left alone: it has no part in the method."""

    family = "pixart_sigma"

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        output = network(
            z, encoder_hidden_states=cond["embeds"], encoder_attention_mask=cond["mask"], timestep=self.path.time(u),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None}, return_dict=False,
        )[0]  # fmt: skip
        return output[:, : z.shape[1]]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        embeds, mask, _, _ = self.pipeline.encode_prompt(texts, do_classifier_free_guidance=False, device=self.device)
        return {"embeds": embeds, "mask": mask}

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        # Left to itself, the pipeline moves sizes to a bin of its own and cleans captions where two more packages are installed.
        return super().stock_call(grid) | {"use_resolution_binning": False, "clean_caption": False}


DENOISER = PixArtSigma
