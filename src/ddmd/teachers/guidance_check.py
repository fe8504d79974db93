"""Whether a teacher's guidance means anything: CFG Augmentation draws on the difference that this measures."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files import read_object
from ..method.batch import Condition, batch_size
from .denoisers.base import Denoiser
from .sampling import Network, initial_noise

LEVELS = (0.8, 0.5)  # where a picture's content is settled
SILENT = 1e-3  # relative to the prediction's own size
FEW_STEP_NAME = re.compile(r"turbo|lightning|schnell|hyper|\blcm\b", re.IGNORECASE)


@torch.no_grad()
def guidance_response(denoiser: Denoiser, teacher: Network, cond: Condition, uncond: Condition, generator: torch.Generator) -> float:
    """Root mean square of (conditional - unconditional) x0 over that of the conditional, on re-noised first guesses."""
    path, n = denoiser.path, batch_size(cond)

    def x0(z: Tensor, level: float, condition: Condition) -> Tensor:
        u = torch.full((n,), level, dtype=torch.float64, device=z.device)
        return path.to_x0(teacher(z, u, condition), z, u)

    guess = x0(initial_noise(denoiser, n, generator), 1.0, cond)
    ratios = []
    for level in LEVELS:
        u = torch.full((n,), level, dtype=torch.float64, device=guess.device)
        z = path.add_noise(guess, u, initial_noise(denoiser, n, generator))
        conditional, unconditional = x0(z, level, cond), x0(z, level, uncond)
        ratios.append((conditional - unconditional).square().mean().sqrt() / conditional.square().mean().sqrt())
    return torch.stack(ratios).mean().item()


def check_guidance(denoiser: Denoiser, teacher: Network, cond: Condition, uncond: Condition, generator: torch.Generator) -> None:
    """Raise InputError for a teacher that has no guidance to distil, with what shows it."""
    mend = "distil the base model instead, or set allow_distilled_teacher=true"
    config: Any = denoiser.network.config
    if config.get("guidance_embeds", False):
        raise InputError("model", f"a guidance-distilled teacher ({denoiser.component}.guidance_embeds is true)", mend)
    index = read_object(denoiser.folder / "model_index.json")
    for name in (denoiser.folder.resolve().name, str(index.get("_name_or_path", ""))):
        if FEW_STEP_NAME.search(name):
            raise InputError("model", f"a few-step teacher by its name, {name!r}", mend)
    response = guidance_response(denoiser, teacher, cond, uncond, generator)
    if not math.isfinite(response):
        raise InputError(
            "model",
            "predictions that are not finite numbers",
            "look for damaged or overflowing weights, the text encoders' among them",
        )
    if response < SILENT:
        raise InputError(
            "model", f"a teacher deaf to its prompt (conditional and unconditional differ by {response:.1e} of their size)", mend
        )
