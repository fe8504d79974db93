"""The model card that goes with an exported student."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import read_bytes
from ..method.student import Sampler
from ..teachers.denoisers import Denoiser
from .recipe import Recipe

SAMPLERS = {"sde": "each step's clean image is noised afresh (LCM's sampler)", "ode": "Euler's deterministic steps (DDIM in diffusion)"}


def model_card(recipe: Recipe, denoiser: Denoiser, sampler: Sampler, cycle: int, usage: str) -> str:
    """README.md of an export: what it is, how to draw with it, whose licence holds, and the recipe that made it."""
    call = denoiser.stock_call(recipe.grid)
    facts = {
        "teacher": Path(recipe.model).name,
        "steps": len(recipe.grid),
        "levels (1 is noise)": ", ".join(f"{u:g}" for u in recipe.grid),
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
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        'pipeline = DiffusionPipeline.from_pretrained("THIS_FOLDER")\n'
        f'image = pipeline("a prompt", **{call!r}).images[0]\n```'
    )


def adapter_usage(scheduler: Any, call: dict[str, Any]) -> str:
    """Plain diffusers code for an adapter on the teacher's own pipeline."""
    name, config = type(scheduler).__name__, {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    changed = {k: v for k, v in config.items() if k in ("original_inference_steps", "shift", "stochastic_sampling", "timestep_spacing")}
    return (
        f"```python\nfrom diffusers import DiffusionPipeline, {name}\n\n"
        'pipeline = DiffusionPipeline.from_pretrained("THE_TEACHER")\n'
        f"pipeline.scheduler = {name}.from_config(pipeline.scheduler.config, **{changed!r})\n"
        f'pipeline.load_lora_weights("THIS_FOLDER")\nimage = pipeline("a prompt", **{call!r}).images[0]\n```'
    )


def comfyui_usage(steps: int, sampler: Sampler) -> str:
    """Settings of ComfyUI's stock nodes."""
    own = "lcm" if sampler == "sde" else "euler"
    return (
        "Load the teacher, put the file into `models/loras` and apply it at strength 1 with a LoRA loader (model only). "
        f"KSampler: {steps} steps, cfg 1, sampler `{own}`, scheduler `sgm_uniform`; for a flow model set the shift of the levels "
        "above with its ModelSampling node. The keys follow the kohya (U-Net) and diffusers (transformer) conventions that "
        "ComfyUI reads; this file was not tried in a running ComfyUI."
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
