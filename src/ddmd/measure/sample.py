"""Draw prompts with any model that ddmd knows, by its own settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..method.student import uniform_grid
from ..run.results import Setting, teacher_setting
from ..teachers.denoisers import Denoiser
from ..teachers.sampling import bare, sample_images
from .evaluate import open_model, resolve, student_setting

TEACHER_STEPS, TEACHER_GUIDANCE = 50, 3.0


def draw(
    model: str, prompts: Sequence[str], steps: int | None, guidance: float | None, seed: int, report: Callable[[int], None]
) -> tuple[str, Tensor, float]:
    """One image a prompt, each from the same seed, as the stock pipeline would draw it with that generator.

    Returns a label, images (N, 3, H, W) in [-1, 1] and seconds per image.
    """
    folder = resolve(model)
    denoiser = open_model(folder)
    setting = _setting(folder, denoiser, steps, guidance)
    images = []
    start = time.perf_counter()
    for i, prompt in enumerate(prompts):
        cond = denoiser.encode([prompt])
        images.append(sample_images(denoiser, bare(denoiser), cond, setting.grid, setting.sampler, setting.guidance, seed))
        report(i + 1)
    seconds = (time.perf_counter() - start) / len(prompts)
    return f"{model.rstrip('/').split('/')[-1]}\n{setting.steps} steps", torch.cat(images), seconds


def _setting(folder: Path, denoiser: Denoiser, steps: int | None, guidance: float | None) -> Setting:
    own = student_setting(folder)
    if own is None:
        return teacher_setting(denoiser, steps or TEACHER_STEPS, guidance or TEACHER_GUIDANCE)
    if guidance not in (None, 1.0):
        raise InputError("--guidance", str(guidance), "a distilled student has its guidance inside: leave it at 1")
    return Setting(uniform_grid(steps), own.sampler, 1.0) if steps else own
