"""Qwen-Image: a Qwen2.5-VL encoder behind a template, packed latents, a video autoencoder used on one frame.

The unconditional is the empty prompt in the same template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...method.batch import Condition
from .latents import LatentScale, standard_scale
from .packed import PACK, PackedDenoiser, pack, unpack
from .words import check_words


class QwenImage(PackedDenoiser):
    """QwenImagePipeline. Guidance is the plain one; the stock pipeline's rescaling is a teacher's sampling habit."""

    family = "qwen_image"

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        # Prompts keep their own lengths, and a batch is padded to its longest.
        embeds, (height, width) = pad_sequence(list(cond["embeds"]), batch_first=True), z.shape[-2:]
        mask = pad_sequence([e.new_ones(len(e), dtype=torch.long) for e in cond["embeds"]], batch_first=True)
        output = network(
            hidden_states=pack(z), timestep=self.path.time(u), encoder_hidden_states=embeds,
            encoder_hidden_states_mask=None if mask.all() else mask, img_shapes=[[(1, height // PACK, width // PACK)]] * len(z),
            return_dict=False,
        )[0]  # fmt: skip
        return unpack(output, height, width)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        check_words(self.pipeline.tokenizer, texts)
        embeds, mask = self.pipeline.encode_prompt(texts, device=self.device)
        lengths = mask.sum(1).tolist() if mask is not None else [embeds.shape[1]] * len(texts)
        return {"embeds": [row[:length] for row, length in zip(embeds, lengths, strict=True)]}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        raw = self.latent_scale.to_autoencoder(latents).to(vae.device, vae.dtype)
        return vae.decode(raw.unsqueeze(2), return_dict=False)[0][:, :, 0]

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = vae.encode(images.to(vae.device, vae.dtype).unsqueeze(2), return_dict=False)[0].mode()[:, :, 0]
        return self.latent_scale.from_autoencoder(latents)

    def read_latent_scale(self) -> LatentScale:
        config = self.pipeline.vae.config
        return standard_scale(config, config.z_dim)

    def stock_call(self, grid: Sequence[float]) -> dict[str, Any]:
        call = super().stock_call(grid)
        del call["guidance_scale"]  # it has no embedded guidance, and true guidance is off without a negative prompt
        return call


DENOISER = QwenImage
