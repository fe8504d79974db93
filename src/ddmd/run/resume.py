"""What may change when a run goes on, and what must be the very same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, unwritable
from ..folders import is_bare
from ..teachers.identity import data_identity, model_identity
from ..teachers.reals import LatentCache
from . import checkpoint as ckpt
from .recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from .setup import Parts

FREE = frozenset(
    [
        "name",
        "about",
        "allow_distilled_teacher",
        "optim.gradient_checkpointing",
        "optim.cudnn_attention",
        "train.cycles",
        "train.cache",
        "train.log_every",
        "train.evaluate_every",
        "train.evaluate_prompts",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.export",
        "train.stop_on_alarm",
        "report.prompts",
        "report.student_steps",
    ]
)  # length, looks and housekeeping
TEACHER = frozenset(["report.teacher_steps", "report.teacher_guidance"])
PLACES = frozenset(["model", "train.prompts", "train.reals"])  # their contents count
MOVED = {
    "model": "other weights under the teacher's name",
    "train.prompts": "other prompts",
    "train.reals": "other real images",
}


def check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Refuse a folder that holds something else; on resume, one that does not hold this run."""
    saved = folder / "recipe.yaml"
    with unwritable(folder):
        if not resume and not is_bare(folder):
            what = "another run" if saved.is_file() else "a folder that is not empty"
            raise InputError("--out", f"{what} in {folder}", "choose another folder, or go on with --resume")
    if resume and not saved.is_file():
        raise InputError("--resume", f"no run in {folder}", "name the run's folder with --out, or start without --resume")
    if resume:
        check_same(saved, recipe, bool(ckpt.step_folders(folder / "checkpoints")))


def check_same(saved: Path, recipe: Recipe, begun: bool) -> None:
    """Raise InputError naming every key, with both values, that may not differ from a run's own recipe.

    With `begun`, paths may: `check_identities` compares what is in them.
    """
    old, new = _flat(load_recipe(str(saved)).model_dump()), _flat(recipe.model_dump())
    free = FREE | (PLACES if begun else frozenset()) | (TEACHER if _looks_only(recipe) else frozenset())
    keys = [key for key in {**old, **new} if key not in free and old.get(key) != new.get(key)]
    if keys:
        found = ", ".join(f"{key}={_word(new, key)} where the run has {_word(old, key)}" for key in keys)
        raise InputError("--resume", found, "give the run's own values, or begin another run")


def identities(parts: Parts) -> dict[str, str]:
    """What a run learns from, by contents."""
    prompts = hashlib.sha256(json.dumps(parts.prompts.prompts).encode()).hexdigest()
    found = {"model": model_identity(parts.denoiser.folder), "train.prompts": prompts}
    if parts.reals is not None and isinstance(parts.reals.latents, LatentCache):
        found["train.reals"] = data_identity(parts.reals.latents.folder)
    return found


def check_identities(known: dict[str, str], found: dict[str, str]) -> None:
    """Raise InputError where a run would go on with another teacher, other prompts or other real images."""
    for key, value in known.items():
        if found.get(key) != value:
            mend = "put the ones back that the run was started with, or begin another run"
            raise InputError(key, f"{MOVED.get(key, 'other contents')} than the run was started with", mend)


def _looks_only(recipe: Recipe) -> bool:
    """Whether the teacher's settings of the report steer no training."""
    targets = recipe.objective.mean_variance.targets if recipe.objective.mean_variance else None
    return not recipe.teacher_reals and targets != "teacher"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as `a.b` keys; a section that is null is one key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _word(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"
