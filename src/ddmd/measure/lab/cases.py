"""One case of an experiment with one seed: its recipe, its run, its samples and scores. Finished ones are re-used."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import InputError
from ...files import write_json
from ...run import checkpoint as ckpt
from ...run.recipe import Recipe, load_recipe
from ...run.train import Training
from ...teachers.prompts import encode_all
from ...teachers.sampling import sample_images
from .experiments import Experiment, Overrides

STRIP = 8  # pictures of a case that the page shows
LOOKED = 64  # pictures that probes compare
DONE = "case.json"
QUICK: Overrides = ("train.cycles*=0.7", "train.evaluate_prompts=100", "report.prompts=300")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """What is run once."""

    label: str
    seed: int
    recipe: Recipe
    folder: Path
    probes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether its result is there."""
        return (self.folder / DONE).is_file()

    def result(self) -> dict[str, Any]:
        """What `run_case` wrote."""
        return json.loads((self.folder / DONE).read_text())

    def samples(self) -> dict[str, Tensor]:
        """Its pictures (`images`, LOOKED of them) and every report prompt's main score (`each`), as far as there are any."""
        return ckpt.load_tensors(self.folder / "samples.safetensors")


def make_cases(experiment: Experiment, overrides: Sequence[str], seeds: int, folder: Path, quick: bool) -> list[Case]:
    """All cases with all seeds, in the order in which they are run: seed by seed, so that an early stop leaves whole comparisons.

    `recipe=NAME` among the overrides names the recipe that is varied (default `shapes`). Raises InputError where a case is no
    possible recipe, or `folder` holds one that was made by other keys.
    """
    name = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("recipe=")), "shapes")
    mine = [text for text in overrides if not text.startswith("recipe=")]
    cases = []
    for seed in range(seeds):
        for label, keys in experiment.cases.items():
            keys = (*(QUICK if quick else ()), *experiment.shared, *keys, f"seed={seed}")
            recipe = _resolved(name, [*mine, *keys])
            if experiment.checkpoints:
                every = max(1, recipe.train.cycles // experiment.checkpoints)
                recipe = load_recipe_with(recipe, {"train": {"checkpoint_every": every}})
            place = folder / "runs" / f"{_slug(label)}-seed{seed}"
            cases.append(Case(label, seed, recipe, place, experiment.probes))
    for case in cases:
        saved = case.folder / "recipe.yaml"
        if saved.is_file() and saved.read_text() != case.recipe.to_yaml():
            raise InputError(str(saved), "a run by other keys", "give another folder with --out, or remove this one")
    return cases


def _resolved(name: str, overrides: Sequence[str]) -> Recipe:
    """A recipe with overrides; `key*=factor` multiplies the recipe's own number."""
    plain = [text for text in overrides if "*=" not in text]
    recipe = load_recipe(name, plain)
    for text in overrides:
        key, separator, factor = text.partition("*=")
        if separator:
            value: Any = recipe
            for part in key.split("."):
                value = getattr(value, part)
            scaled = value * float(factor)
            plain.append(f"{key}={max(1, round(scaled)) if isinstance(value, int) else scaled}")
    return load_recipe(name, plain)


def load_recipe_with(recipe: Recipe, changes: dict[str, dict[str, Any]]) -> Recipe:
    """A recipe with some keys of some sections changed."""
    values = recipe.model_dump(mode="json")
    for section, keys in changes.items():
        values[section] |= keys
    return Recipe.model_validate(values)


def _slug(label: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in label).split()).lower()


class _Quiet:
    """An observer that keeps what a run says."""

    def __init__(self, tell: Callable[[str, int, int], None]) -> None:
        self.tell = tell

    def start(self, total: int, position: int) -> None:
        self.total = total

    def cycle(self, position: int, metrics: dict[str, float]) -> None:
        self.tell("distilling", position, self.total)

    def count(self, what: str, done: int, total: int) -> None:
        self.tell(what, done, total)

    def say(self, text: str) -> None:
        """Alarms and scores are in the run's own files."""


def run_case(case: Case, tell: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Run a case, or go on with it, and write its result: scores, alarms, times, samples."""
    from .probes import PROBES

    began = time.perf_counter()
    training = Training(case.recipe, case.folder, _Quiet(tell), resume=(case.folder / "recipe.yaml").is_file())
    training.run()
    parts, recipe = training.parts, case.recipe
    weights, cycle = ckpt.stored_weights(case.folder / "checkpoints", "last")
    training.average = {name: value.to(training.accelerator.device) for name, value in weights.items()}
    setting = training.student_setting
    prompts = parts.suite.prompts("report", recipe.report.prompts) if parts.suite else parts.prompts.prompts[:LOOKED]
    cond = encode_all(parts.denoiser, prompts)
    found: dict[str, Any] = {"label": case.label, "seed": case.seed, "cycle": cycle, "alarms": training.alarms, "scores": {}}
    found["train_seconds"] = training.seconds
    kept: dict[str, Tensor] = {}
    with training.averaged() as network:
        images = sample_images(parts.denoiser, network, cond, setting.grid, setting.sampler, 1.0, recipe.seed)
        if parts.suite:
            found["scores"] = {name: value for name, value in parts.suite.score(images, prompts).items() if isinstance(value, float)}
            kept["each"] = parts.suite.each(images, prompts)
        kept["images"] = images[:LOOKED]
    for name in case.probes:
        found[name] = PROBES[name](training, images, prompts)
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in kept.items()}, case.folder / "samples.safetensors")
    found["seconds"] = time.perf_counter() - began
    write_json(case.folder / DONE, found)
    return found
