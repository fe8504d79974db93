"""From a recipe to the objects of a run: model, prompts, real images, roles, optimisers and the distiller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..devices import TORCHRUN, best_device, launch
from ..errors import InputError
from ..method.batch import Condition, select
from ..method.distiller import Distiller, MeanVariance
from ..method.objective import calibrate_mean_variance
from ..method.rng import stream, stream_seed
from ..method.student import Sampler
from ..teachers.builtin import Suite, load_suite
from ..teachers.denoisers import Denoiser
from ..teachers.guidance_check import check_guidance
from ..teachers.prompt_files import read_prompts
from ..teachers.prompts import Encoded, HeldLatents, Latents, PromptTable, RealTable, encode_all, encoded_prompts
from ..teachers.reals import LatentCache, kept_teacher_latents
from ..teachers.roles import Roles
from ..teachers.sharding import alike, mean_gradients, placed_like, shard
from .assembly import build_distiller, build_roles, open_denoiser
from .checkpoint import Tensors, pack_optimizer, unpack_optimizer
from .environment import without_foreign_settings
from .recipe import Recipe

CALIBRATION = 256  # images behind the mean-variance targets
SHOWN = 8  # prompts in the sample grids
Count = Callable[[str, int, int], None]
"""(what, done, total)."""
Samples = Callable[[int], Tensor]
"""Latents of so many pictures of the teacher's own."""


@dataclass(frozen=True)
class Watched:
    """The prompts that a run is looked at by: a suite's validation prompts, and the few of the sample grids, encoded."""

    validation_prompts: list[str]
    validation: Condition
    shown_prompts: list[str]
    shown: Condition


@dataclass
class Parts:
    """Everything a run is made of."""

    recipe: Recipe
    denoiser: Denoiser
    suite: Suite | None
    prompts: PromptTable
    watched: Watched
    reals: RealTable | None
    roles: Roles
    distiller: Distiller
    sampler: Sampler

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Those of the student, the fake and the discriminator, as far as they exist."""
        adversary = self.distiller.adversary
        found = {
            "student": self.distiller.student_optimizer,
            "fake": self.distiller.fake_optimizer,
            "discriminator": adversary.optimizer if adversary else None,
        }
        return {role: optimizer for role, optimizer in found.items() if optimizer is not None}

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Conditions of any prompts, on the CPU; where the text encoders are gone, which a suite keeps, of the run's own alone."""
        if self.suite is not None:
            return encode_all(self.denoiser, prompts)
        place = {prompt: row for row, prompt in enumerate(self.prompts.prompts)}
        return self.prompts.encoded.rows(torch.tensor([place[prompt] for prompt in prompts]))

    def tensors(self) -> dict[str, Tensors]:
        """Everything trained, by name, for a checkpoint; divided among processes where the networks are."""
        found = {role: self.roles.state_dict(role) for role in self.roles.trained}
        found |= {f"{role}_optimizer": pack_optimizer(optimizer) for role, optimizer in self.optimizers.items()}
        if self.distiller.adversary is not None:
            found["head"] = self.distiller.adversary.head.state_dict()
        return found

    def load_tensors(self, saved: dict[str, Tensors]) -> None:
        """The inverse of `tensors`. Raises KeyError or RuntimeError for those of another network."""
        for role in self.roles.trained:
            self.roles.load_state_dict(role, saved[role])
        if self.distiller.adversary is not None:
            own = self.distiller.adversary.head.state_dict()
            self.distiller.adversary.head.load_state_dict({name: placed_like(value, own[name]) for name, value in saved["head"].items()})
        for role, optimizer in self.optimizers.items():
            unpack_optimizer(optimizer, saved[f"{role}_optimizer"])


def accelerator_for(recipe: Recipe) -> Any:
    """Accelerate as a recipe needs it, whatever the environment asks of it, on the CPU where there is no GPU.

    Raises InputError where it does not hold torchrun's processes together, and where one process is asked to share its networks.
    """
    from accelerate import Accelerator

    launched, device = launch(), best_device()
    # Without being told so, accelerate takes each of torchrun's processes on a machine without GPUs for one alone.
    with without_foreign_settings():
        accelerator = Accelerator(cpu=launched.by_torchrun and device.type == "cpu", mixed_precision="no")  # ddmd casts by itself
    if accelerator.num_processes != launched.processes:
        raise InputError("WORLD_SIZE", f"{launched.processes} for {accelerator.num_processes} joined processes", TORCHRUN)
    if recipe.optim.sharded and accelerator.num_processes == 1:
        raise InputError("optim.sharded", "one process", "start with torchrun --nproc-per-node N -m ddmd.cli, or leave it out")
    return accelerator


def build(recipe: Recipe, accelerator: Any, count: Count = lambda what, done, total: None) -> Parts:
    """Load the model and build the run's parts on the accelerator's device. Raises InputError for anything unusable."""
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    torch.manual_seed(stream_seed(recipe.seed, "libraries"))  # what they draw by themselves; ddmd's own streams do not follow it
    denoiser = open_denoiser(recipe)
    sampler = recipe.student.sampler or denoiser.sampler
    denoiser.student_scheduler(recipe.grid, sampler)  # a grid that no export could be told is refused now, not at the end
    denoiser.move(device)
    suite = load_suite(recipe.suite) if recipe.suite else None
    train = recipe.train
    texts = training_prompts(recipe, suite)
    cache = Path(train.cache) if train.cache else None
    prompts = PromptTable(
        denoiser, texts, train.batch, recipe.seed, rank, ranks, device, cache,
        lambda done: count("encoding prompts", done, len(texts)),
    )  # fmt: skip
    watched = _watched(recipe, denoiser, suite, prompts)
    found = _real_images(recipe, denoiser, suite)
    if suite is None:
        denoiser.drop_encoders()  # before the network comes: they can be larger than it
    roles = build_roles(recipe, denoiser)
    if recipe.adapters is not None:  # networks are of the same files in every process, adapters are drawn
        alike((p for role in roles.trained for p in roles.parameters(role)), device)
    if recipe.optim.sharded:
        roles.shard(partial(shard, device=device, processes=accelerator.num_processes))
    else:
        roles.to(device)

    def samples(number: int) -> Tensor:
        """Latents of the teacher's own pictures of the first prompts."""
        first, report = texts[:number], recipe.report
        drawn = partial(count, "drawing the teacher's samples")
        return kept_teacher_latents(
            denoiser, roles.teacher, first, prompts.encoded, report.teacher_steps, recipe.teacher_guidance, lambda n: drawn(n, len(first))
        )

    if recipe.teacher_reals:
        found = HeldLatents(samples(train.reals_count)), prompts.encoded
    reals = RealTable(*found, train.batch, recipe.seed, rank, ranks, device) if found else None
    mean_variance = _mean_variance(recipe, denoiser, suite, samples)
    engine = recipe.objective.ca_weight > 0 and (recipe.objective.alpha > 1 or recipe.objective.alpha_spread)
    if engine and not recipe.allow_distilled_teacher:
        probe = stream(recipe.seed, "guidance check", device=device)
        check_guidance(denoiser, roles.teacher, prompts.at(0), prompts.uncond, probe)

    distiller = build_distiller(recipe, denoiser, roles, prompts.at(0), mean_variance, device, rank)
    distiller.settle_gradients = mean_gradients
    return Parts(recipe, denoiser, suite, prompts, watched, reals, roles, distiller, sampler)


def training_prompts(recipe: Recipe, suite: Suite | None) -> list[str]:
    """Those of the recipe's file, else the suite's, else none."""
    train = recipe.train
    return read_prompts(train.prompts) if train.prompts else suite.prompts("train", train.prompt_count) if suite else []


def _watched(recipe: Recipe, denoiser: Denoiser, suite: Suite | None, prompts: PromptTable) -> Watched:
    validation = suite.prompts("validation", recipe.train.evaluate_prompts) if suite else []
    encoded = encode_all(denoiser, validation) if suite else {}
    if validation:
        return Watched(validation, encoded, validation[:SHOWN], select(encoded, slice(0, SHOWN)))
    shown = prompts.prompts[:SHOWN]
    return Watched([], {}, shown, prompts.encoded.rows(torch.arange(len(shown))))


def _real_images(recipe: Recipe, denoiser: Denoiser, suite: Suite | None) -> tuple[Latents, Encoded] | None:
    """Real images with their conditions, cached ones or the suite's, where the recipe needs any that are not the teacher's samples."""
    train = recipe.train
    if recipe.teacher_reals or (recipe.objective.gan is None and recipe.student.source != "data"):
        return None
    latents: Latents
    if train.reals is not None:
        latents = LatentCache(Path(train.reals), denoiser)
        captions = latents.captions
    elif suite is not None:
        images, captions = suite.pairs(train.reals_count)
        latents = HeldLatents(denoiser.encode_images(images))
    else:
        raise InputError("train.reals", "no real images and no suite", "name a folder made by `ddmd cache`, or use gan.reals=teacher")
    return latents, encoded_prompts(denoiser, captions, Path(train.cache) if train.cache else None)


def _mean_variance(recipe: Recipe, denoiser: Denoiser, suite: Suite | None, samples: Samples) -> MeanVariance | None:
    """Eq. 7's targets: as given, measured on the suite's data, or on the teacher's guided samples."""
    section = recipe.objective.mean_variance
    if section is None:
        return None
    if isinstance(section.targets, list):
        return MeanVariance(section.weight, section.targets[0], section.targets[1])
    if section.targets == "data":
        if suite is None:
            raise InputError("objective.mean_variance.targets", "data without a suite", "use teacher, or give [mean, variance]")
        latents = denoiser.encode_images(suite.pairs(CALIBRATION)[0])
    else:
        latents = samples(CALIBRATION)
    mean, variance = calibrate_mean_variance(latents)
    return MeanVariance(section.weight, mean, variance)
