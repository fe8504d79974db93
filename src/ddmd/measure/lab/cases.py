"""One case of an experiment with one seed: its recipe, its run, its samples and scores. Finished ones are re-used.

A run lies in a folder named by its recipe and by the contents of the files that it names, so that experiments share what they have in common.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from ...errors import InputError
from ...files import read_json, read_object, write_atomic, write_json
from ...run import checkpoint as ckpt
from ...run.recipe import Recipe, load_recipe
from ...run.train import Training
from ...teachers.builtin import model_folder
from ...teachers.identity import data_identity, model_identity
from ...teachers.sampling import sample_images
from .experiments import Experiment, Overrides

STRIP = 8  # pictures of a case that the page shows
LOOKED = 64  # pictures that probes compare
DONE = "case.json"
QUICK: Overrides = ("train.cycles*=0.3", "optim.ema_warmup=true", "train.evaluate_prompts=100", "report.prompts=300")
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
        """Whether its result and all that its experiment probes are there."""
        return (self.folder / DONE).is_file() and not self.unprobed

    @property
    def unprobed(self) -> list[str]:
        """Probes that have not measured this run yet."""
        return [name for name in self.probes if not self._probe_file(name).is_file()]

    def result(self) -> dict[str, Any]:
        """Cycle, scores, alarms and seconds of the run."""
        return read_object(self.folder / DONE)

    def probed(self, name: str) -> Any:
        """What a probe measured; None for one that the experiment does not ask for."""
        return read_json(self._probe_file(name)) if name in self.probes else None

    def keep(self, name: str, found: Any) -> None:
        """Write what a probe measured."""
        write_json(self._probe_file(name), found)

    def _probe_file(self, name: str) -> Path:
        return self.folder / f"probe-{name}.json"

    def samples(self) -> dict[str, Tensor]:
        """Its pictures (`images`, LOOKED of them) and every report prompt's main score (`each`), as far as there are any."""
        return ckpt.load_tensors(self.folder / "samples.safetensors")


def make_cases(experiment: Experiment, overrides: Sequence[str], seeds: int, runs: Path, quick: bool) -> list[Case]:
    """All cases with all seeds, in the order in which they are run: seed by seed, so that an early stop leaves whole comparisons.

    `recipe=NAME` among the overrides names the recipe that is varied (default `shapes`); `runs` is where runs lie, each in a
    folder of its own. Raises InputError where a case is no possible recipe.
    """
    name = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("recipe=")), "shapes")
    mine = [text for text in overrides if not text.startswith("recipe=")]
    cases, known = [], dict[str, str]()
    for seed in range(seeds):
        for label, keys in experiment.cases.items():
            keys = (*(QUICK if quick else ()), *experiment.shared, *keys, f"seed={seed}")
            recipe = _resolved(name, [*mine, *keys])
            if experiment.checkpoints:
                every = max(1, recipe.train.cycles // experiment.checkpoints)
                recipe = _resolved(name, [*mine, *keys, f"train.checkpoint_every={every}"])
            identity = hashlib.sha256(f"{recipe.to_yaml()} {_contents(recipe, known)}".encode()).hexdigest()[:12]
            cases.append(Case(label, seed, recipe, runs / identity, experiment.probes))
    return cases


def _contents(recipe: Recipe, known: dict[str, str]) -> str:
    """Identity of what a recipe only names: a run is not that of another teacher, other prompts or other real images."""
    train = recipe.train
    if recipe.model not in known:
        known[recipe.model] = model_identity(model_folder(recipe.model))
    return " ".join([known[recipe.model], *(known.setdefault(name, data_identity(name)) for name in (train.prompts, train.reals) if name)])


def _resolved(name: str, overrides: Sequence[str]) -> Recipe:
    """A recipe with overrides; `key*=factor` multiplies the recipe's own number."""
    plain = [text for text in overrides if "*=" not in text]
    recipe = load_recipe(name, plain)
    for text in overrides:
        key, separator, factor = text.partition("*=")
        if separator:
            value = _number(recipe, key)
            scaled = value * _factor(text, factor)
            plain.append(f"{key}={max(1, round(scaled)) if isinstance(value, int) else scaled}")
    return load_recipe(name, plain)


def _number(recipe: Recipe, key: str) -> int | float:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part, None) if isinstance(value, BaseModel) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(key, "no number to multiply", "name a key of the recipe that holds one, or write key=value")
    return value


def _factor(override: str, text: str) -> float:
    try:
        factor = float(text)
    except ValueError as error:
        raise InputError(override, f"a factor that is no number, {text[:40]!r}", "write key*=0.5") from error
    if not 0 <= factor < math.inf:
        raise InputError(override, f"the factor {text[:40]}", "give a finite number, 0 or more")
    return factor


class _Quiet:
    """An observer that only says when something has happened; a run's own files hold the rest."""

    def __init__(self, progressed: Callable[[], None]) -> None:
        self.progressed = progressed

    def start(self, total: int, position: int) -> None:
        self.progressed()

    def cycle(self, position: int, metrics: dict[str, float]) -> None:
        self.progressed()

    def count(self, what: str, done: int, total: int) -> None:
        self.progressed()

    def say(self, text: str) -> None:
        """Alarms and scores are in the run's own files."""


def run_case(case: Case, progressed: Callable[[], None] = lambda: None) -> None:
    """Run a case, or go on with it, and write what is not there yet: scores, alarms, times, samples, what its probes measure."""
    from safetensors.torch import save

    from .probes import PROBES

    began = time.perf_counter()
    training = Training(case.recipe, case.folder, _Quiet(progressed), resume=(case.folder / "recipe.yaml").is_file())
    training.run()
    parts, recipe = training.parts, case.recipe
    weights, cycle = ckpt.stored_weights(case.folder / "checkpoints", "last")
    training.average = {name: value.to(training.accelerator.device) for name, value in weights.items()}
    setting = training.student_setting
    prompts = parts.suite.prompts("report", recipe.report.prompts) if parts.suite else parts.prompts.prompts[:LOOKED]
    cond = parts.encode(prompts)
    found: dict[str, Any] = {"cycle": cycle, "alarms": training.alarms, "scores": {}, "train_seconds": training.seconds}
    kept: dict[str, Tensor] = {}
    with training.averaged() as network:
        images = sample_images(parts.denoiser, network, cond, setting.grid, setting.sampler, 1.0, recipe.seed)
        if parts.suite:
            found["scores"] = {name: value for name, value in parts.suite.score(images, prompts).items() if isinstance(value, float)}
            kept["each"] = parts.suite.each(images, prompts)
        kept["images"] = images[:LOOKED]
    if not (case.folder / DONE).is_file():
        write_atomic(case.folder / "samples.safetensors", save({k: v.contiguous() for k, v in kept.items()}))
        write_json(case.folder / DONE, {**found, "seconds": time.perf_counter() - began})
    for name in case.unprobed:
        case.keep(name, PROBES[name](training, images, prompts))
