"""Latents in 2 x 2 packs, as Flux, Chroma and Qwen-Image feed them to their transformers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from .flow import FlowDenoiser

PACK = 2


class PackedDenoiser(FlowDenoiser):
    """A flow family whose tokens are packs; outside `call`, ddmd's latents stay unpacked."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    @property
    def native_resolution(self) -> int:
        return self.pipeline.default_sample_size * self.pipeline.vae_scale_factor

    @property
    def patch(self) -> int:
        return PACK

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.network.config.in_channels // PACK**2, self.side, self.side)


def pack(z: Tensor) -> Tensor:
    """(B, C, H, W) -> tokens (B, H/2 * W/2, 4 C), row by row."""
    return pixel_unshuffle(z, PACK).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`, for latents of H x W."""
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // PACK, width // PACK)), PACK)


def image_ids(height: int, width: int, like: Tensor) -> Tensor:
    """Places (H/2 * W/2, 3) of the tokens: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height // PACK), torch.arange(width // PACK), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(like)
