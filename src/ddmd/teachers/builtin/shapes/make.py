"""Make the shipped weights of a drawn world again, from nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ....devices import best_device
from ....errors import InputError
from ....folders import check_replaceable
from ..training import Changes, Report, steps_and_seed
from .train import ShapesRecipe, train_teacher
from .verifier import save_verifier, train_verifier, verifier_accuracy
from .worlds import WORLDS

VERIFIER_STEPS = {"shapes": 1500, "pairs": 4000}
RECIPES = {"shapes": ShapesRecipe(), "pairs": ShapesRecipe(world="pairs", wrong=0.05)}
VERIFIER_CHECK = 20_000  # fresh renders on which its accuracy is measured


def make_teacher(world: str, folder: Path, changes: Changes, start: Path | None, report: Report) -> Path:
    """Train a world's teacher into folder/pipeline, going on from folder/state.pt; on a GPU when there is one."""
    recipe = replace(RECIPES[world], **changes)
    return train_teacher(folder, recipe, best_device(), lambda done, loss: report(done, recipe.steps, loss), start=start)


def make_verifier(world: str, folder: Path, changes: Changes, start: Path | None, report: Report) -> Path:
    """Train a world's verifier into a folder and measure it on fresh renders; it takes minutes and always begins anew."""
    if start is not None:
        raise InputError("--start", str(start), "only a teacher can begin from trained weights")
    check_replaceable(folder)
    total, seed = steps_and_seed(changes, VERIFIER_STEPS[world])
    verifier = train_verifier(WORLDS[world], total, seed, best_device(), lambda done, loss: report(done, total, loss))
    accuracy = verifier_accuracy(verifier, VERIFIER_CHECK, seed + 1)
    save_verifier(verifier.cpu(), folder, {"steps": total, "seed": seed, "renders": VERIFIER_CHECK, "accuracy": accuracy})
    return folder
