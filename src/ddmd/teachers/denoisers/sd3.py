"""Stable Diffusion 3 and 3.5: two CLIP encoders side by side, a T5 encoder after them, pooled CLIP text, an MMDiT.

The unconditional is the encoded empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from ...method.student import uniform_grid
from .flow import FlowDenoiser
from .words import check_words

T5_TOKENS = 256  # the stock pipeline's default


class SD3(FlowDenoiser):
    """StableDiffusion3Pipeline and everything saved in its shape."""

    family = "sd3"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    stock_sigmas = False  # its own grid runs down to the table's last level, not to 1/N

    def __init__(self, pipeline: Any, resolution: int | None = None) -> None:
        super().__init__(pipeline, resolution)
        longest = pipeline.tokenizer_3.model_max_length if pipeline.tokenizer_3 is not None else T5_TOKENS
        self.t5_tokens = min(T5_TOKENS, longest)

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        time = 1000 * self.path.time(u)
        return network(z, timestep=time, encoder_hidden_states=cond["embeds"], pooled_projections=cond["pooled"], return_dict=False)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            texts, None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=self.t5_tokens
        )
        return {"embeds": embeds, "pooled": pooled}

    def _grid_keys(self, grid: Sequence[float]) -> dict[str, Any]:
        # An unshifted grid of N equal steps is the table's own, stretched to end at 1/N.
        return {"shift_terminal": grid[-1]} if self._ends_at_last_level(grid) else {}

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        call = super().stock_call(grid)
        if len(grid) == 1 or self._ends_at_last_level(grid):
            del call["sigmas"]
        return call if self.t5_tokens == T5_TOKENS else call | {"max_sequence_length": self.t5_tokens}

    def _ends_at_last_level(self, grid: Sequence[float]) -> bool:
        return self.path.shift == 1 and len(grid) > 1 and tuple(grid) == uniform_grid(len(grid))


DENOISER = SD3
