"""Z-Image: a Qwen encoder behind a chat template, prompts of unequal length in lists, a single-stream transformer in reversed time.

The unconditional is the empty prompt in the same template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...method.batch import Condition
from .flow import FlowDenoiser
from .words import check_words


class ZImage(FlowDenoiser):
    """ZImagePipeline."""

    family = "z_image"
    blocks = "layers"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3")

    @property
    def native_resolution(self) -> int:
        return 1024  # the stock pipeline's default

    @property
    def patch(self) -> int:
        return int(self.network.config.all_patch_size[0])

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        # Its time is 0 at noise and its velocity points to the data: both are turned round here. Images have a frame axis.
        images = list(z.unsqueeze(2).unbind(0))
        output = network(images, 1 - self.path.time(u), cond["embeds"], return_dict=False)[0]
        return -torch.stack(output).squeeze(2)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        check_words(self.pipeline.tokenizer, list(prompts))
        # The pipeline overwrites the list it is given, so it gets one of its own.
        embeds, _ = self.pipeline.encode_prompt(list(prompts), device=self.device, do_classifier_free_guidance=False)
        return {"embeds": embeds}

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        return super().stock_call(grid) | {"guidance_scale": 0.0}  # it counts alpha - 1


DENOISER = ZImage
