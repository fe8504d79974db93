"""Whether a teacher's guidance means anything: CFG Augmentation draws on the difference that this measures."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..method.batch import Condition, batch_size
from .denoisers.base import Denoiser
from .denoisers.index import read_index
from .sampling import Network, initial_noise

LEVELS = (0.8, 0.5)  # where a picture's content is settled
SILENT = 1e-3  # relative to the prediction's own size
SETTINGS = "ddmd.json"  # beside a student that ddmd exported
# A model's name in words: few-step models end in one of these, but for what says which base, version, steps or format it is.
MARKS = re.compile(r"turbo|lightning|schnell|hyper|flash")
METHODS = re.compile(r"lcm")  # an acronym that means nothing else, anywhere in a name
NEUTRAL = re.compile(
    r"\d+|[vxbkm]|xl|sd|sdxl|flux|qwen|image|z|lumina|sana|pixart|chroma|dev|steps?|fp|bf|diffusers|pipeline|model|unet|transformer|"
    r"lora|fused|merged|dpm\w*|sde|karras|baked|vae|alpha|beta|final|main|large|medium|small|preview"
)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
HUB = re.compile(r"models--(?:.+--)?(.+)")  # a repository's folder in the hub's cache


def names_of(folder: Path) -> list[str]:
    """What a pipeline is called: its folder, where links lead, its repository in the hub's cache, and what its index says."""
    recorded = read_index(folder).named.replace("\\", "/")
    found = []
    for place in (folder.absolute(), folder.resolve(), PurePosixPath(recorded)):
        repository = next((match[1] for part in reversed(place.parts) if (match := HUB.fullmatch(part))), None)
        found.append(repository or place.name)
    return list(dict.fromkeys(name for name in found if name))


def is_few_step(name: str) -> bool:
    """Whether a name says that its model needs few steps: by whole words at its end, `sdxl-turbo` but not `turbo-cars-xl-base`."""
    words = [word.lower() for word in WORD.findall(name)]
    if any(METHODS.fullmatch(word) for word in words):
        return True
    while words and not MARKS.fullmatch(words[-1]) and NEUTRAL.fullmatch(words[-1]):
        words.pop()
    return bool(words) and MARKS.fullmatch(words[-1]) is not None


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
    if config.get("time_cond_proj_dim") is not None:  # latent consistency models
        raise InputError("model", f"a guidance-distilled teacher ({denoiser.component}.time_cond_proj_dim is set)", mend)
    if (denoiser.folder / SETTINGS).is_file():
        raise InputError("model", f"a few-step student that ddmd exported ({SETTINGS} lies beside it)", mend)
    for name in names_of(denoiser.folder):
        if is_few_step(name):
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
