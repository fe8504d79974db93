"""Lumina-Image-2.0, the paper's flow teacher: a Gemma encoder with its mask, a single-stream transformer in reversed time.

A prompt is preceded by the pipeline's system prompt; the unconditional is the empty text without one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .flow import FlowDenoiser
from .words import check_words, encode_after_preamble


class Lumina2(FlowDenoiser):
    """Lumina2Pipeline. Guidance is the plain one; the stock pipeline's `cfg_normalization` is a teacher's sampling habit."""

    family = "lumina2"
    blocks = "layers"

    @property
    def _tokens(self) -> int:
        return int(self.shape[0])  # the stock pipeline grows a dynamic shift with the channels, where it means the tokens

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        # Its time is 0 at noise and its velocity points to the data: both are turned round here.
        time = 1 - self.path.time(u)
        return -network(z, time, encoder_hidden_states=cond["embeds"], encoder_attention_mask=cond["mask"], return_dict=False)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        return encode_after_preamble(self.pipeline, texts, device=self.device)


DENOISER = Lumina2
