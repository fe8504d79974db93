"""From a recipe to the objects of a run: model, prompts, roles, optimisers and the distiller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError
from ..method.distiller import Distiller, MeanVariance, Objective, Plan
from ..method.objective import calibrate_mean_variance
from ..method.student import Sampler
from ..teachers.builtin import Suite, load_suite, model_folder
from ..teachers.denoisers import Denoiser, load_denoiser
from ..teachers.prompts import PromptTable, encode_all, read_prompts, select
from ..teachers.roles import CopyRoles, LoraRoles, Roles
from ..teachers.sampling import bare, sample_images
from .recipe import Recipe

SHOWN = 8  # prompts in the sample grids
CALIBRATION = 256  # images behind the mean-variance targets


@dataclass
class Parts:
    """Everything a run is made of."""

    recipe: Recipe
    denoiser: Denoiser
    suite: Suite | None
    prompts: PromptTable
    roles: Roles
    distiller: Distiller
    sampler: Sampler
    student_optimizer: torch.optim.Optimizer
    fake_optimizer: torch.optim.Optimizer | None


def build(recipe: Recipe, accelerator: Any) -> Parts:
    """Load the model and build the run's parts on the accelerator's device. Raises InputError for anything unusable."""
    device, rank = accelerator.device, accelerator.process_index
    torch.manual_seed(recipe.seed)
    denoiser = load_denoiser(model_folder(recipe.model))
    suite = load_suite(recipe.suite) if recipe.suite else None
    train = recipe.train
    texts = read_prompts(train.prompts) if train.prompts else suite.prompts("train", train.prompt_count) if suite else []
    prompts = PromptTable(denoiser, texts, train.batch, recipe.seed, rank, device)
    if recipe.student.source == "data" and suite is None:
        raise InputError("student.source", "data", "real images come from a suite; use simulate, which needs prompts alone")
    mean_variance = _mean_variance(recipe, denoiser, suite, texts)

    if recipe.optim.gradient_checkpointing:
        network: Any = denoiser.network
        network.enable_gradient_checkpointing()
    with_fake = recipe.objective.dm_weight > 0
    roles: Roles
    if recipe.adapters:
        rank_of = recipe.adapters
        roles = LoraRoles(denoiser.network, denoiser.call, denoiser.lora_targets, rank_of.rank, rank_of.fake_rank, with_fake)
    else:
        roles = CopyRoles(denoiser.network, denoiser.call, with_fake)
    roles.wrap(accelerator.prepare_model, device)

    optim = recipe.optim
    betas = (optim.betas[0], optim.betas[1])

    def adamw(role: str, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(roles.parameters(role), lr=lr, betas=betas, weight_decay=optim.weight_decay, fused=True)

    student_optimizer = adamw("student", optim.student_lr)
    fake_optimizer = adamw("fake", optim.fake_lr) if with_fake else None
    o, f = recipe.objective, recipe.fake
    sampler = recipe.student.sampler or denoiser.sampler
    distiller = Distiller(
        roles, denoiser.path,
        Objective(recipe.guidance, recipe.schedule, o.ca_weight, o.dm_weight, o.normalizer, o.floor, o.proxy_scale, o.noise, mean_variance, o.split_teacher),
        Plan(recipe.grid, sampler, recipe.student.source, f.space, (f.range[0], f.range[1]), f.follow, optim.clip),
        denoiser.shape, student_optimizer, fake_optimizer,
        torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + rank), torch.Generator().manual_seed(recipe.seed),
    )  # fmt: skip
    return Parts(recipe, denoiser, suite, prompts, roles, distiller, sampler, student_optimizer, fake_optimizer)


def _mean_variance(recipe: Recipe, denoiser: Denoiser, suite: Suite | None, texts: list[str]) -> MeanVariance | None:
    """Eq. 7's targets: as given, measured on the suite's data, or on the teacher's guided samples."""
    section = recipe.objective.mean_variance
    if section is None:
        return None
    if isinstance(section.targets, list):
        return MeanVariance(section.weight, section.targets[0], section.targets[1])
    if section.targets == "data":
        if suite is None:
            raise InputError("objective.mean_variance.targets", "data without a suite", "use teacher, or give [mean, variance]")
        images = suite.images(CALIBRATION)
    else:
        cond = select(encode_all(denoiser, texts[:CALIBRATION]), slice(0, CALIBRATION))
        settings = [1 - k / recipe.report.teacher_steps for k in range(recipe.report.teacher_steps)]
        images = sample_images(denoiser, bare(denoiser), cond, settings, "ode", recipe.objective.alpha, recipe.seed)
    mean, variance = calibrate_mean_variance(images)
    return MeanVariance(section.weight, mean, variance)
