"""What the trainings of embedded teachers share: levels, learning rate, averaged weights, and a position that survives a kill."""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...devices import choose_attention
from ...errors import InputError
from ...files import folder_atomic, write_atomic
from ...folders import check_replaceable, lock_folder
from ...method.rng import stream

Report = Callable[[int, int, float], None]
"""(done, total, loss)."""
Changes = Mapping[str, Any]
"""Keys of a recipe that a caller sets otherwise; `steps` and `seed` alone where there is no TeacherRecipe."""

FREE_KEYS = ("steps", "decay", "lr")  # what a resumed training may change
READ_EVERY = 20  # steps after which a GPU is waited for


@dataclass(frozen=True)
class TeacherRecipe:
    """One stage of training. `shift` multiplies the noise at which the network trains, not its table."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.6  # the last share of the steps, over which the learning rate falls to zero
    ema: float = 0.999
    drop_caption: float = 0.1
    shift: float = 1.0
    seed: int = 0


def steps_and_seed(changes: Changes, steps: int) -> tuple[int, int]:
    """The steps and the seed of a training that has no other keys. Raises InputError where others are set."""
    for key in changes.keys() - {"steps", "seed"}:
        raise InputError(f"--{key}", str(changes[key]), "only a teacher's can be chosen")
    return changes.get("steps", steps), changes.get("seed", 0)


def training_levels(n: int, steps: int, shift: float, generator: torch.Generator) -> Tensor:
    """Indices of a cosine table of `steps` levels at which to train: noise over signal is shift * tan(pi r / 2), r uniform."""
    r = torch.rand(n, generator=generator, dtype=torch.float64)
    place = 2 / math.pi * torch.atan(shift * torch.tan(math.pi / 2 * r))
    return (place * steps).long().clamp(max=steps - 1)


def learning_rate(recipe: TeacherRecipe, step: int) -> float:
    """Warm-up, plateau, linear decay to zero."""
    rising = (step + 1) / recipe.warmup
    falling = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return recipe.lr * min(1.0, rising, falling)


class TeacherTraining(ABC):
    """Networks, optimiser, average and position of one training; `step` advances it, `save` and `load` carry it over a kill."""

    def __init__(self, recipe: Any, pipeline: Any, trained: tuple[str, ...], device: torch.device) -> None:
        """`trained` names the pipeline's parts that learn; `recipe` is a TeacherRecipe, perhaps with more keys."""
        choose_attention(device)
        self.recipe, self.device, self.position, self.seconds = recipe, device, 0, 0.0
        self.pipeline = pipeline.to(device)
        self.networks = nn.ModuleDict({name: getattr(pipeline, name) for name in trained}).train()
        self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
        self.average = self._current()
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.abar = pipeline.scheduler.alphas_cumprod.to(device)
        self.curve: list[dict] = []

    @abstractmethod
    def loss(self, generator: torch.Generator) -> Tensor:
        """The loss of one batch, drawn by a generator on the CPU."""

    def velocity_loss(self, images: Tensor, predict: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator) -> Tensor:
        """Mean squared error of predict(noisy, index) against v, at levels drawn by the recipe."""
        index = training_levels(len(images), len(self.abar), self.recipe.shift, generator).to(self.device)
        noise = torch.randn(images.shape, generator=self._generator_here(generator), device=self.device)
        a = self.abar[index].sqrt()[:, None, None, None]
        s = (1 - self.abar[index]).sqrt()[:, None, None, None]
        noisy = (a * images + s * noise).contiguous(memory_format=torch.channels_last)
        return (predict(noisy, index).float() - (a * noise - s * images)).square().mean()

    def _generator_here(self, generator: torch.Generator) -> torch.Generator:
        """For draws too many to make on the CPU and carry over: itself on the CPU, one of the same seed on a GPU."""
        if self.device.type == "cpu":
            return generator
        return torch.Generator(self.device).manual_seed(generator.initial_seed())

    def step(self) -> Tensor:
        """One update; returns the loss, not waited for. A loss that is not finite spoils the weights: read it before they are saved."""
        generator = stream(self.recipe.seed, "teacher", self.position)  # so a resumed run sees the same data
        loss = self.loss(generator)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.position)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.recipe.ema, (self.position + 1) / (self.position + 10))
        current = [parameter.detach() for parameter in self.networks.parameters()]
        get_ema_multi_avg_fn(decay)(list(self.average.values()), current, self.position)
        self.position += 1
        return loss.detach()

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers pipeline, with the recipe and the training curve beside it."""
        with self.averaged(), folder_atomic(folder) as temporary:
            self.write(temporary)
            facts = {"recipe": asdict(self.recipe), "steps": self.position, "seconds": round(self.seconds), "curve": self.curve}
            (temporary / "training.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")

    def write(self, folder: Path) -> None:
        """Write the pipeline's files."""
        self.pipeline.save_pretrained(folder)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The networks with their averaged weights for the time of the block."""
        live = self._current()
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(live)

    def start_average(self) -> None:
        """Begin the average anew from the networks as they are, after weights were loaded."""
        self.average = self._current()

    def _current(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.networks.named_parameters()}

    def _assign(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.networks.named_parameters():
                parameter.copy_(values[name])

    def save(self, path: Path) -> None:
        """Everything a resumed run needs, in one file."""
        state = {
            "networks": self.networks.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "position": self.position, "seconds": self.seconds, "curve": self.curve, "recipe": asdict(self.recipe),
        }  # fmt: skip
        content = io.BytesIO()
        torch.save(state, content)
        write_atomic(path, content.getvalue())

    def load(self, path: Path) -> None:
        """Go on from `save`. The number of steps, the rate and its decay may differ; all else must be the same recipe."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            known = state["recipe"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            found = f"no state of a training ({type(error).__name__})"
            raise InputError(str(path), found, "move it elsewhere to begin anew") from error
        for key, value in asdict(self.recipe).items():
            if key not in FREE_KEYS and known.get(key) != value:
                raise InputError(str(path), f"{key}={known.get(key)}", f"this run asks for {value}; train into another folder")
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.position, self.seconds, self.curve = state["position"], state["seconds"], state["curve"]


def run_training(
    training: TeacherTraining, folder: Path, report: Callable[[int, float], None], save_every: int, begin: Callable[[], None] | None = None
) -> Path:
    """Train to the recipe's last step; returns the pipeline's folder.

    Goes on from `folder` when it holds a state; `begin` is called where it holds none.
    """
    lock = lock_folder(folder)  # held as long as this trains
    check_replaceable(folder / "pipeline", "move it elsewhere: the training writes there")
    state = folder / "state.pt"
    if state.exists():
        training.load(state)
    elif begin is not None:
        begin()
    read_every = READ_EVERY if training.device.type == "cuda" else 1
    recent: Tensor | None = None
    start = time.perf_counter()
    while training.position < training.recipe.steps:
        loss = training.step()
        recent = loss if recent is None else recent.lerp(loss, 0.02)
        save = training.position % save_every == 0 or training.position == training.recipe.steps
        if not save and training.position % read_every:
            continue
        value = recent.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {training.position}; {state} is as it was saved before")
        report(training.position, value)
        if save:
            training.seconds += time.perf_counter() - start
            training.curve.append({"step": training.position, "loss": value, "seconds": training.seconds})
            training.save(state)
            training.export(folder / "pipeline")
            start = time.perf_counter()
    del lock
    return folder / "pipeline"
