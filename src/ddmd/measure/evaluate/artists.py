"""Who draws a benchmark's images: any model that ddmd loads, or a published student as its authors sample it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...method.student import normal, sample
from ...run.pictures import to_pil
from ...run.results import Setting, weights_hash
from ...teachers.denoisers import Denoiser
from ...teachers.prompts import to_device
from ...teachers.sampling import bare, guided
from .generate import NONFINITE

if TYPE_CHECKING:
    from PIL import Image


class _Counted:
    """Counts the rows that a network is called on."""

    def __init__(self, network: nn.Module) -> None:
        self.rows = 0
        network.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first: Any = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        self.rows += len(first)  # a tensor or, for Z-Image, a list


class DenoiserArtist:
    """A teacher or student by ddmd's own sampler."""

    def __init__(self, label: str, folder: Path, denoiser: Denoiser, setting: Setting) -> None:
        self.label, self.denoiser, self.setting = label, denoiser, setting
        self._weights = weights_hash(folder)
        self._counted = _Counted(denoiser.network)

    @property
    def evaluations(self) -> int:
        """See `Artist`."""
        return self._counted.rows

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """See `Artist`."""
        denoiser, setting = self.denoiser, self.setting
        device = denoiser.device
        chance = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        z = normal((len(seeds), *denoiser.shape), chance, device, torch.float32)
        predict = guided(denoiser, bare(denoiser), to_device(denoiser.encode(prompts), device), setting.guidance)
        latents = sample(predict, denoiser.path, setting.grid, z, setting.sampler, chance)
        return [_shown(image) for image in denoiser.decode(latents).float().cpu()]

    def identity(self) -> dict[str, Any]:
        """See `Artist`."""
        s = self.setting
        return {
            "model": self.label, "weights_sha256": self._weights, "grid": list(s.grid), "sampler": s.sampler, "guidance": s.guidance,
            "pixels": self.denoiser.resolution,
        }  # fmt: skip


def _shown(image: Tensor) -> Image.Image:
    """An image (3, H, W) in [-1, 1] as PIL; one with a pixel that is no number says so in `info`."""
    picture = to_pil(image)
    if not image.isfinite().all():
        picture.info[NONFINITE] = True
    return picture


class PipelineArtist:
    """A diffusers pipeline by its own call."""

    def __init__(self, label: str, pipeline: Any, call: dict[str, Any], identity: dict[str, Any]) -> None:
        self.label, self.pipeline, self.call = label, pipeline, call
        self._identity = identity
        self._counted = _Counted(pipeline.unet)
        pipeline.set_progress_bar_config(disable=True)

    @property
    def evaluations(self) -> int:
        """See `Artist`."""
        return self._counted.rows

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """See `Artist`."""
        chance = [torch.Generator(self.pipeline.device).manual_seed(seed) for seed in seeds]
        drawn = self.pipeline(list(prompts), generator=chance, output_type="np", **self.call).images
        return [_shown(2 * torch.from_numpy(image).float().permute(2, 0, 1) - 1) for image in drawn]

    def identity(self) -> dict[str, Any]:
        """See `Artist`."""
        return {"model": self.label, **self._identity, **self.call}
