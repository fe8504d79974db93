"""Draw prompts with any model that ddmd knows, by its own settings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ..errors import InputError
from ..method.student import uniform_grid
from ..run.pictures import FORMATS
from ..run.results import Setting, teacher_setting
from ..teachers.denoisers import Denoiser
from ..teachers.sampling import bare, sample_images
from .evaluate import open_model, resolve, student_setting

TEACHER_STEPS, TEACHER_GUIDANCE = 50, 3.0


def draw(
    model: str, prompts: Sequence[str], steps: int | None, guidance: float | None, seed: int, report: Callable[[int], None]
) -> tuple[str, Tensor, float]:
    """One image a prompt, each from the same seed, as the stock pipeline would draw it with that generator.

    Returns a label, images (N, 3, H, W) in [-1, 1] and seconds per image: the median over prompts, after a step that warms up,
    without the text's encoding; so the models of one call compare, though each has the memory for itself.
    """
    folder = resolve(model)
    denoiser = open_model(folder)
    setting = _setting(folder, denoiser, steps, guidance)
    images: list[Tensor] = []
    times: list[float] = []
    for i, prompt in enumerate(prompts):
        cond = denoiser.encode([prompt])
        if not times:
            sample_images(denoiser, bare(denoiser), cond, setting.grid[:1], setting.sampler, setting.guidance, seed)
        start = time.perf_counter()
        images.append(sample_images(denoiser, bare(denoiser), cond, setting.grid, setting.sampler, setting.guidance, seed))
        times.append(time.perf_counter() - start)
        report(i + 1)
    return f"{model.rstrip('/').split('/')[-1]}\n{setting.steps} steps", torch.cat(images), median(times)


def check_picture_name(path: Path) -> None:
    """Raise InputError where a picture cannot be written at `path`, before any is drawn."""
    if path.is_dir():
        raise InputError("--out", f"{path}, a folder", f"name a picture, such as {path / 'sample.png'}")
    if path.suffix.lower() not in FORMATS:
        raise InputError("--out", repr(path.name), f"end the name with {', '.join(FORMATS)}")
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError("--out", f"{place}, which is no folder", "give another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError("--out", f"{place}, where nothing can be written", "give another folder")


def _setting(folder: Path, denoiser: Denoiser, steps: int | None, guidance: float | None) -> Setting:
    own = student_setting(folder)
    if own is None:
        return teacher_setting(denoiser, steps or TEACHER_STEPS, guidance or TEACHER_GUIDANCE)
    if guidance not in (None, 1.0):
        raise InputError("--guidance", str(guidance), "a distilled student has its guidance inside: leave it at 1")
    return Setting(uniform_grid(steps), own.sampler, 1.0) if steps else own
