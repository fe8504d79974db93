"""Lumina-Image-2.0, the paper's flow teacher: a Gemma encoder with its mask, a single-stream transformer in reversed time.

A prompt is preceded by the pipeline's system prompt; the unconditional is the empty text without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...method.distiller import Condition
from .flow import FlowDenoiser
from .words import check_words


class Lumina2(FlowDenoiser):
    """Lumina2Pipeline. Guidance is the plain one; the stock pipeline's `cfg_normalization` is a teacher's sampling habit."""

    family = "lumina2"
    component = "transformer"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, pipeline: Any, resolution: int | None = None) -> None:
        super().__init__(pipeline, resolution)
        self.feature_block = f"layers.{pipeline.transformer.config.num_layers // 2 - 1}"

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        # Its time is 0 at noise and its velocity points to the data: both are turned round here.
        time = 1 - self.path.time(u)
        return -network(z, time, encoder_hidden_states=cond["embeds"], encoder_attention_mask=cond["mask"], return_dict=False)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        embeds, mask, empty, empty_mask = self.pipeline.encode_prompt(texts, device=self.device)
        said = torch.tensor([bool(text.strip()) for text in texts], device=embeds.device)
        return {"embeds": torch.where(said[:, None, None], embeds, empty), "mask": torch.where(said[:, None], mask, empty_mask)}


DENOISER = Lumina2
