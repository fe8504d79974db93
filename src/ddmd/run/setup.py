"""From a recipe to the objects of a run: model, prompts, real images, roles, optimisers and the distiller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..method.adversarial import Adversary, Head
from ..method.batch import Condition
from ..method.distiller import Distiller, MeanVariance, Objective, Plan
from ..method.objective import calibrate_mean_variance
from ..method.student import Sampler
from ..teachers.builtin import Suite, load_suite, model_folder
from ..teachers.denoisers import Denoiser, load_denoiser
from ..teachers.eight_bit import eight_bit_adamw
from ..teachers.guidance_check import check_guidance
from ..teachers.prompt_files import read_prompts
from ..teachers.prompts import HeldLatents, Latents, PromptTable, RealTable, encoded_prompts
from ..teachers.reals import LatentCache, kept_teacher_latents
from ..teachers.roles import CopyRoles, LoraRoles, Roles, in_bfloat16
from .checkpoint import Tensors, pack_optimizer, unpack_optimizer
from .recipe import Recipe

CALIBRATION = 256  # images behind the mean-variance targets
Count = Callable[[str, int, int], None]
"""(what, done, total)."""


@dataclass
class Parts:
    """Everything a run is made of."""

    recipe: Recipe
    denoiser: Denoiser
    suite: Suite | None
    prompts: PromptTable
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

    def tensors(self) -> dict[str, Tensors]:
        """Everything trained, by name, for a checkpoint."""
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
            self.distiller.adversary.head.load_state_dict(saved["head"])
        for role, optimizer in self.optimizers.items():
            unpack_optimizer(optimizer, saved[f"{role}_optimizer"])


def build(recipe: Recipe, accelerator: Any, count: Count = lambda what, done, total: None) -> Parts:
    """Load the model and build the run's parts on the accelerator's device. Raises InputError for anything unusable."""
    device, rank = accelerator.device, accelerator.process_index
    torch.manual_seed(recipe.seed)
    denoiser = load_denoiser(model_folder(recipe.model), recipe.resolution)
    denoiser.move(device)
    suite = load_suite(recipe.suite) if recipe.suite else None
    train = recipe.train
    texts = read_prompts(train.prompts) if train.prompts else suite.prompts("train", train.prompt_count) if suite else []
    cache = Path(train.cache) if train.cache else None
    prompts = PromptTable(
        denoiser, texts, train.batch, recipe.seed, rank, device, cache, lambda done: count("encoding prompts", done, len(texts))
    )
    reals = _reals(recipe, denoiser, suite, texts, rank, device)
    mean_variance = _mean_variance(recipe, denoiser, suite, texts)
    roles = build_roles(recipe, denoiser)
    roles.wrap(accelerator.prepare_model, device)
    engine = recipe.objective.ca_weight > 0 and (recipe.objective.alpha > 1 or recipe.objective.alpha_spread)
    if engine and not recipe.allow_distilled_teacher:
        probe = torch.Generator(device).manual_seed(recipe.seed)
        check_guidance(denoiser, roles.teacher, prompts.at(0), prompts.uncond, probe)

    optim, o, f = recipe.optim, recipe.objective, recipe.fake
    adversary = _adversary(recipe, denoiser, roles, prompts.at(0), device)
    student_optimizer = _adamw(recipe, optim.student_lr, roles.parameters("student"))
    fake_optimizer = None
    if "fake" in roles.trained:
        head = adversary.head if adversary and adversary.role == "fake" else None
        fake_optimizer = _adamw(recipe, optim.fake_lr, roles.parameters("fake"), head)
    sampler = recipe.student.sampler or denoiser.sampler
    objective = Objective(
        recipe.guidance,
        recipe.schedule,
        o.ca_weight,
        o.dm_weight,
        o.normalizer,
        o.floor,
        o.proxy_scale,
        o.noise,
        mean_variance,
        o.split_teacher,
    )
    plan = Plan(
        recipe.grid, sampler, recipe.student.source, f.space, (f.range[0], f.range[1]), f.follow, optim.clip, optim.gradient_accumulation
    )
    distiller = Distiller(
        roles, denoiser.path, objective, plan, denoiser.shape, student_optimizer, fake_optimizer,
        torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + rank), torch.Generator().manual_seed(recipe.seed), adversary,
    )  # fmt: skip
    return Parts(recipe, denoiser, suite, prompts, reals, roles, distiller, sampler)


def build_roles(recipe: Recipe, denoiser: Denoiser) -> Roles:
    """The networks that the recipe trains, on copies or on adapters."""
    if recipe.optim.gradient_checkpointing:
        network: Any = denoiser.network
        network.enable_gradient_checkpointing()
    bf16 = recipe.optim.precision == "bf16"
    call = in_bfloat16(denoiser.call) if bf16 else denoiser.call
    frozen = torch.bfloat16 if bf16 else torch.float32
    if recipe.adapters is None:
        return CopyRoles(denoiser.network, call, recipe.trained_roles, denoiser.feature_block, frozen)
    ranks = recipe.adapters
    return LoraRoles(
        denoiser.network, call, denoiser.lora_targets, ranks.rank, ranks.fake_rank, recipe.trained_roles, denoiser.feature_block, frozen,
        ranks.base == "int8",
    )  # fmt: skip


def _adamw(recipe: Recipe, lr: float, parameters: list[nn.Parameter], head: Head | None = None) -> torch.optim.Optimizer:
    optim = recipe.optim
    every = [*parameters, *(head.parameters() if head else ())]
    betas = (optim.betas[0], optim.betas[1])
    if optim.optimizer == "adamw8bit":
        return eight_bit_adamw(every, lr, betas, optim.weight_decay)
    return torch.optim.AdamW(every, lr=lr, betas=betas, weight_decay=optim.weight_decay, fused=True)


def _adversary(recipe: Recipe, denoiser: Denoiser, roles: Roles, cond: Condition, device: torch.device) -> Adversary | None:
    """The GAN term's head, as wide as the features it judges."""
    gan = recipe.objective.gan
    if gan is None:
        return None
    role: Literal["fake", "discriminator"] = "fake" if gan.where == "fake" else "discriminator"
    size = len(next(iter(cond.values())))
    with torch.no_grad():
        z = torch.zeros((size, *denoiser.shape), device=device)
        features = roles.features(role, z, z.new_ones(size, dtype=torch.float64), cond)
    head = Head(features.shape[1] if features.ndim == 4 else features.shape[-1]).to(device)
    optimizer = _adamw(recipe, recipe.optim.fake_lr, roles.parameters(role), head) if role == "discriminator" else None
    return Adversary(role, head, gan.generator_weight, gan.critic_weight, (gan.levels[0], gan.levels[1]), optimizer)


def _reals(recipe: Recipe, denoiser: Denoiser, suite: Suite | None, texts: list[str], rank: int, device: torch.device) -> RealTable | None:
    """Real images with their conditions, where the recipe needs any: cached ones, the suite's, or the teacher's guided samples."""
    gan, from_data, train = recipe.objective.gan, recipe.student.source == "data", recipe.train
    if gan is None and not from_data:
        return None
    latents: Latents
    if not from_data and gan is not None and gan.reals == "teacher":
        captions = texts[: train.reals_count]
        latents = HeldLatents(_teacher_samples(recipe, denoiser, captions))
    elif train.reals is not None:
        latents = LatentCache(Path(train.reals), denoiser)
        captions = latents.captions
    elif suite is not None:
        images, captions = suite.pairs(train.reals_count)
        latents = HeldLatents(denoiser.encode_images(images))
    else:
        raise InputError("train.reals", "no real images and no suite", "name a folder made by `ddmd cache`, or use gan.reals=teacher")
    encoded = encoded_prompts(denoiser, captions, Path(train.cache) if train.cache else None)
    return RealTable(latents, encoded, train.batch, recipe.seed, rank, device)


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
        latents = denoiser.encode_images(suite.pairs(CALIBRATION)[0])
    else:
        latents = _teacher_samples(recipe, denoiser, texts[:CALIBRATION])
    mean, variance = calibrate_mean_variance(latents)
    return MeanVariance(section.weight, mean, variance)


def _teacher_samples(recipe: Recipe, denoiser: Denoiser, prompts: list[str]) -> Tensor:
    return kept_teacher_latents(denoiser, prompts, recipe.report.teacher_steps, recipe.teacher_guidance)
