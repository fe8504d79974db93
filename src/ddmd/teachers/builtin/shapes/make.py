"""Make the shipped weights of `shapes` again, from nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ....errors import InputError
from .train import ShapesRecipe, train_teacher
from .verifier import save_verifier, train_verifier, verifier_accuracy

Report = Callable[[int, int, float], None]
"""(done, total, loss)."""
VERIFIER_STEPS = 1500
VERIFIER_CHECK = 20_000  # fresh renders on which its accuracy is measured


def make_teacher(folder: Path, steps: int | None, seed: int, start: Path | None, report: Report) -> Path:
    """Train the teacher into folder/pipeline, going on from folder/state.pt; on a GPU when there is one."""
    recipe = ShapesRecipe(seed=seed) if steps is None else ShapesRecipe(seed=seed, steps=steps)
    return train_teacher(folder, recipe, _device(), lambda done, loss: report(done, recipe.steps, loss), start=start)


def make_verifier(folder: Path, steps: int | None, seed: int, start: Path | None, report: Report) -> Path:
    """Train the verifier into a folder and measure it on fresh renders; it takes two minutes and always begins anew."""
    if start is not None:
        raise InputError("--start", str(start), "only a teacher can begin from trained weights")
    total = steps or VERIFIER_STEPS
    verifier = train_verifier(total, seed, _device(), lambda done, loss: report(done, total, loss))
    accuracy = verifier_accuracy(verifier, VERIFIER_CHECK, seed + 1)
    save_verifier(verifier.cpu(), folder, {"steps": total, "seed": seed, "renders": VERIFIER_CHECK, "accuracy": accuracy})
    return folder


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
