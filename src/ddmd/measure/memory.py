"""How much memory a recipe holds, from the headers of its model's files, before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..run.recipe import Recipe
from ..teachers.builtin import model_folder
from ..teachers.denoisers import check_family, family_of
from ..teachers.denoisers.parts import tensor_shapes

FLOAT, ADAM = 4, 8  # bytes a parameter: one float32; AdamW's two moments


@dataclass(frozen=True)
class Estimate:
    """Bytes by what they are for, and the keys that would lower them."""

    parts: dict[str, int]
    savings: list[str]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def estimate(recipe: Recipe) -> Estimate:
    """Resident bytes of a run: weights, gradients, optimiser states and the average. Activations come on top; see `rehearsal`.

    Text encoders stay only where a suite has more to encode.

    Raises InputError where the model's folder is missing, of an unknown family, or damaged.
    """
    folder = model_folder(recipe.model)
    check_family(folder, recipe.family, recipe.name)
    family = family_of(folder)
    shapes = tensor_shapes(folder / family.component)
    base = sum(math.prod(shape) for shape in shapes.values())
    frozen = 2 if recipe.optim.precision == "bf16" else FLOAT
    if recipe.adapters is None:
        each = dict.fromkeys(recipe.trained_roles, base)
    else:
        wide = sum(sum(shape) for name, shape in shapes.items() if _is_target(name, shape, family.lora_targets))
        each = {role: recipe.adapters.rank_of(role) * wide for role in recipe.trained_roles}
    eight = (
        sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2) if recipe.adapters and recipe.adapters.base == "int8" else 0
    )
    parts = {"teacher, frozen": frozen * (base - eight) + eight}
    moments = ADAM // 4 if recipe.optim.optimizer == "adamw8bit" else ADAM
    for role, count in each.items():
        parts[f"{role}: weights, gradients, moments"] = count * (2 * FLOAT + moments)
    parts["average of the student"] = each["student"] * FLOAT
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        if name == "vae" or (name.startswith("text_encoder") and recipe.suite):
            parts[name] = FLOAT * sum(math.prod(shape) for shape in tensor_shapes(folder / name).values())
    return Estimate(parts, _savings(recipe))


def _savings(recipe: Recipe) -> list[str]:
    """Keys still at their dearer value."""
    optim = recipe.optim
    found = {
        "adapters.rank=64": recipe.adapters is None,
        "optim.precision=bf16": optim.precision == "fp32",
        "adapters.base=int8": recipe.adapters is not None and recipe.adapters.base == "own",
        "optim.optimizer=adamw8bit": recipe.adapters is None and optim.optimizer == "adamw",
        "optim.gradient_checkpointing=true": not optim.gradient_checkpointing,
        "objective.split_teacher=true": not recipe.objective.split_teacher,
        "optim.sharded=true (several GPUs)": recipe.adapters is None and optim.optimizer == "adamw" and not optim.sharded,
        f"optim.gradient_accumulation={recipe.train.batch}": optim.gradient_accumulation < recipe.train.batch,
    }
    return [key for key, open_to in found.items() if open_to]


def _is_target(name: str, shape: tuple[int, ...], targets: tuple[str, ...]) -> bool:
    layer = name.removesuffix(".weight")
    return len(shape) == 2 and any(layer == target or layer.endswith(f".{target}") for target in targets)
