"""The model card that goes with an exported student."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..files import read_bytes
from ..method.noise import DiffusionPath
from ..method.student import Sampler, uniform_grid
from ..teachers.denoisers import Denoiser
from ..teachers.denoisers.comfyui import naming
from .recipe import Recipe

FAINTEST = 4.9e-8**0.5  # what ComfyUI takes for the signal of pure noise
SAMPLERS = {"sde": "each step's clean image is noised afresh (LCM's sampler)", "ode": "Euler's deterministic steps (DDIM in diffusion)"}


def model_card(recipe: Recipe, denoiser: Denoiser, sampler: Sampler, cycle: int, usage: str) -> str:
    """README.md of an export: what it is, how to draw with it, whose licence holds, and the recipe that made it."""
    call = denoiser.stock_call(recipe.grid)
    facts = {
        "teacher": Path(recipe.model).name,
        "steps": len(recipe.grid),
        "levels (1 is noise)": ", ".join(f"{u:g}" for u in recipe.grid),
        **({"time shift of the levels": f"{denoiser.shift:g}"} if denoiser.shift is not None else {}),
        "sampler": SAMPLERS[sampler],
        "guidance at inference": "none: one pass a step",
        "resolution": f"{denoiser.resolution} pixels",
        "told to the stock pipeline": json.dumps(call),
        "guidance scale taken in (alpha)": f"{recipe.objective.alpha:g}",
        "re-noise schedule": recipe.renoise.schedule,
        "training": f"{cycle} cycles of {recipe.train.batch} prompts a process, {recipe.fake.updates} fake updates each",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    licence = teacher_licence(denoiser.folder)
    head = "".join(f"{line}\n" for line in ("library_name: diffusers", "pipeline_tag: text-to-image", *_license_key(licence)))
    terms = f"the teacher's own card says `{licence}`" if licence else "see the teacher's own card"
    return (
        f"---\n{head}tags:\n- decoupled-dmd\n- distillation\n---\n\n# {recipe.name}\n\n"
        f"A {len(recipe.grid)}-step student of {facts['teacher']}, distilled by Decoupled DMD (arXiv 2511.22677) with ddmd {__version__}.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n## Use\n\n{usage}\n\n"
        f"## Licence\n\nThe student derives from its teacher's weights, so the teacher's licence holds: {terms}.\n\n"
        f"## Recipe\n\n```yaml\n{recipe.to_yaml()}```\n"
    )


def pipeline_usage(call: dict[str, Any]) -> str:
    """Plain diffusers code for a whole exported pipeline."""
    return (
        "```python\nimport torch\nfrom diffusers import DiffusionPipeline\n\n"
        'pipeline = DiffusionPipeline.from_pretrained("THIS_FOLDER", torch_dtype=torch.float32)  # or bfloat16, on a GPU\n'
        f'image = pipeline("a prompt", **{call!r}).images[0]\n```'
    )


def adapter_usage(scheduler: Any, call: dict[str, Any]) -> str:
    """Plain diffusers code for an adapter on the teacher's own pipeline, with the student's scheduler in place of the teacher's."""
    name = type(scheduler).__name__
    keys = ", ".join(f"{key}={value!r}" for key, value in scheduler_arguments(scheduler).items())
    return (
        f"```python\nimport torch\nfrom diffusers import DiffusionPipeline, {name}\n\n"
        'pipeline = DiffusionPipeline.from_pretrained("THE_TEACHER", torch_dtype=torch.float32)  # or bfloat16, on a GPU\n'
        f"pipeline.scheduler = {name}({keys})\n"
        f'pipeline.load_lora_weights("THIS_FOLDER")\nimage = pipeline("a prompt", **{call!r}).images[0]\n```'
    )


def scheduler_arguments(scheduler: Any) -> dict[str, Any]:
    """The arguments that make this scheduler: every key of its configuration that differs from its class's own default."""
    defaults = {key: option.default for key, option in inspect.signature(type(scheduler).__init__).parameters.items()}
    return {key: value for key, value in scheduler.config.items() if key in defaults and value != defaults[key]}


def comfyui_usage(denoiser: Denoiser, grid: Sequence[float], sampler: Sampler) -> str:
    """Settings of ComfyUI's stock nodes."""
    own, node = "lcm" if sampler == "sde" else "euler", naming(denoiser.family).shift_node
    model = f"{node}: shift {denoiser.shift:g}. " if node else ""
    if isinstance(denoiser.path, DiffusionPath) and denoiser.path.prediction == "v":
        model = f"ModelSamplingDiscrete: sampling `v_prediction`, zsnr `{str(denoiser.path.ends_in_noise).lower()}`. "
    if tuple(grid) == uniform_grid(len(grid)):
        steps = f"KSampler: {len(grid)} steps, cfg 1, sampler `{own}`, scheduler `simple`. "
    else:
        signal, noise = denoiser.path.coefficients(torch.tensor(list(grid), dtype=torch.float64))
        sigmas = (noise if denoiser.shift is not None else noise / signal.clamp(min=FAINTEST)).tolist()
        listed = ", ".join(f"{sigma:.4f}" for sigma in (*sigmas, 0.0))
        steps = f"SamplerCustom: cfg 1, KSamplerSelect `{own}`, ManualSigmas `{listed}` (no stock scheduler has these steps). "
    return (
        "Load the teacher, put the file into `models/loras` and apply it at strength 1 with a LoRA loader (model only). "
        f"{model}{steps}The keys are those of ComfyUI's own tables for this model; this file was not tried in a running ComfyUI."
    )


def teacher_licence(folder: Path) -> str | None:
    """The licence that a teacher's card names in its front matter."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", read_bytes(card).decode("utf-8-sig", "replace"), re.DOTALL)
    found = re.search(r"^license(?:_name)?:\s*(\S+)", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None


def _license_key(licence: str | None) -> list[str]:
    return [f"license: {licence}"] if licence else []
