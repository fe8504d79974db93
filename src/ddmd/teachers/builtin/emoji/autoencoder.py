"""Train the autoencoder of the `emoji` teacher: a stock AutoencoderTiny with a little noise on its latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .build import DOWN, build_autoencoder
from .pictures import Pictures

CROP = 32  # pixels: the network is convolutional, and crops are four times cheaper than whole pictures
BATCH = 64
LATENT_NOISE = 0.1  # a diffusion model's latents are never exact; the decoder must not mind
SPREAD_WEIGHT = 2e-3  # on the latents' mean square: else the encoder outshouts the noise
EDGE_WEIGHT = 1.0


def to_unit(images: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return images.float() / 127.5 - 1


def train_autoencoder(
    pictures: Pictures, rows: list[int], steps: int, seed: int, report: Callable[[int, float], None], encoder_of: Any = None
) -> Any:
    """Learn to reproduce crops of the given pictures; its latents come out with unit variance (scaling_factor).

    With `encoder_of`, a trained autoencoder, only a decoder is learnt, for that one's latents: networks trained on them stay good.
    """
    torch.manual_seed(seed)
    vae = build_autoencoder().to(memory_format=torch.channels_last).train()
    if encoder_of is not None:
        vae.encoder.load_state_dict(encoder_of.encoder.state_dict())
        vae.encoder.requires_grad_(False)
    learning = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(seed)
    source = pictures.images[rows]
    for step in range(steps):
        x = random_crops(source, generator)
        with torch.autocast("cpu", torch.bfloat16):
            z = vae.encode(x).latents
            restored = vae.decode(z + LATENT_NOISE * torch.randn(z.shape, generator=generator)).sample
        loss = reconstruction_loss(restored.float(), x) + SPREAD_WEIGHT * z.float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        report(step + 1, loss.item())
    vae.eval().requires_grad_(False)
    scale = encoder_of.config.scaling_factor if encoder_of is not None else 1 / latent_spread(vae, to_unit(source[:1000]))
    vae.register_to_config(scaling_factor=scale)
    return vae


def random_crops(source: Tensor, generator: torch.Generator) -> Tensor:
    """A batch of crops in [-1, 1], half of them mirrored."""
    rows = torch.randint(len(source), (BATCH,), generator=generator)
    places = torch.randint(source.shape[-1] - CROP + 1, (BATCH, 2), generator=generator)
    crops = torch.stack([source[r, :, y : y + CROP, x : x + CROP] for r, (y, x) in zip(rows.tolist(), places.tolist())])
    mirror = torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5
    x = to_unit(crops)
    return torch.where(mirror, x.flip(-1), x).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(restored: Tensor, x: Tensor) -> Tensor:
    """Absolute error of colours and of their differences to the neighbours, so that edges stay sharp."""
    difference = restored - x
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + EDGE_WEIGHT * edges


@torch.no_grad()
def latent_spread(vae: Any, images: Tensor) -> float:
    """Standard deviation of the latents of images."""
    return torch.cat([vae.encode(part).latents for part in images.split(100)]).std().item()


@torch.no_grad()
def reconstruction_error(vae: Any, images: Tensor) -> dict[str, float]:
    """Peak signal-to-noise ratio (dB, over the colour range) and mean absolute error (of 255 levels) on whole pictures."""
    restored = torch.cat([vae.decode(vae.encode(part).latents).sample.clamp(-1, 1) for part in images.split(100)])
    square = ((restored - images) / 2).square().mean(dim=(1, 2, 3))
    return {"psnr": (-10 * square.log10()).mean().item(), "absolute": 127.5 * (restored - images).abs().mean().item(), "down": DOWN}
