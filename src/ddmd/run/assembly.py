"""The networks, optimisers and distiller of a recipe, around a model that is open already. Nothing here reads data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputError
from ..method.adversarial import Adversary, Head
from ..method.batch import Condition
from ..method.distiller import Distiller, MeanVariance, Objective, Plan
from ..method.noise import NoisePath
from ..method.rng import seeded, stream
from ..teachers.builtin import model_folder
from ..teachers.denoisers import Denoiser, check_family, load_denoiser
from ..teachers.eight_bit import eight_bit_adamw
from ..teachers.roles import CopyRoles, LoraRoles, Roles, in_bfloat16
from ..teachers.sharding import alike
from .recipe import Recipe

MakeOptimizer = Callable[[Recipe, float, list[nn.Parameter]], torch.optim.Optimizer]
"""(recipe, learning rate, what it trains)."""


def open_denoiser(recipe: Recipe) -> Denoiser:
    """The recipe's model, at its resolution and its student's time shift. Raises InputError for one that is unusable."""
    folder = model_folder(recipe.model)
    check_family(folder, recipe.family, recipe.name)
    return shifted(load_denoiser(folder, recipe.resolution), recipe)


def shifted(denoiser: Denoiser, recipe: Recipe) -> Denoiser:
    """An open model at the time shift of the recipe's student."""
    if recipe.student.shift is not None:
        denoiser.set_shift(recipe.student.shift)
    return denoiser


def build_roles(recipe: Recipe, denoiser: Denoiser, trained: Sequence[str] | None = None) -> Roles:
    """The networks that the recipe trains, or those of them that are named, on copies or on adapters."""
    trained = trained or recipe.trained_roles
    if recipe.optim.gradient_checkpointing:
        network: Any = denoiser.network
        network.enable_gradient_checkpointing()
    bf16 = recipe.optim.precision == "bf16"
    call = in_bfloat16(denoiser.call) if bf16 else denoiser.call
    frozen = torch.bfloat16 if bf16 else torch.float32
    if recipe.adapters is None:
        return CopyRoles(denoiser.network, call, trained, denoiser.feature_block, frozen)
    ranks = recipe.adapters
    with seeded(recipe.seed, "adapters"):
        return LoraRoles(
            denoiser.network, call, denoiser.lora_targets, ranks.rank, ranks.fake_rank, trained, denoiser.feature_block, frozen,
            ranks.base == "int8",
        )  # fmt: skip


def adamw(recipe: Recipe, lr: float, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimiser."""
    optim = recipe.optim
    betas = (optim.betas[0], optim.betas[1])
    if optim.optimizer == "adamw8bit":
        return eight_bit_adamw(parameters, lr, betas, optim.weight_decay)
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=optim.weight_decay, fused=True)


def build_distiller(
    recipe: Recipe,
    denoiser: Denoiser,
    roles: Roles,
    cond: Condition,
    mean_variance: MeanVariance | None,
    device: torch.device,
    rank: int = 0,
    optimizer: MakeOptimizer = adamw,
) -> Distiller:
    """The recipe's updates on its roles; `cond` is any batch's, to see how wide features are.

    Raises InputError for levels that the model's path does not have.
    """
    check_levels(recipe, denoiser.path)
    optim, o, f = recipe.optim, recipe.objective, recipe.fake
    adversary = _adversary(recipe, denoiser, roles, cond, device, optimizer)
    student_optimizer = optimizer(recipe, optim.student_lr, roles.parameters("student"))
    fake_optimizer = None
    if "fake" in roles.trained:
        head = adversary.head.parameters() if adversary and adversary.role == "fake" else ()
        fake_optimizer = optimizer(recipe, optim.fake_lr, [*roles.parameters("fake"), *head])
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
    return Distiller(
        roles, denoiser.path, objective, plan, denoiser.shape, student_optimizer, fake_optimizer,
        stream(recipe.seed, "noise", rank, device=device), stream(recipe.seed, "exit step"), adversary,
    )  # fmt: skip


def check_levels(recipe: Recipe, path: NoisePath) -> None:
    """Raise InputError for a range or a grid that falls between the entries of the model's noise table, or together on one."""
    schedule, gan = recipe.schedule, recipe.objective.gan
    ranges = {
        "renoise.clamp": schedule.range_of(None),
        "renoise.ca_window": schedule.range_of(schedule.ca_window),
        "renoise.dm_window": schedule.range_of(schedule.dm_window),
        "fake.range": (recipe.fake.range[0], recipe.fake.range[1]),
        "objective.gan.levels": (gan.levels[0], gan.levels[1]) if gan else (0.0, 1.0),
    }
    for key, (low, high) in ranges.items():
        if not path.holds(low, high):
            raise InputError(key, f"[{low}, {high}], between two entries of the model's noise table", "widen it")
    noise = path.coefficients(torch.tensor(recipe.grid, dtype=torch.float64))[1].tolist()
    if any(later >= earlier for earlier, later in pairwise([*noise, 0.0])):
        raise InputError("student.grid", f"{list(recipe.grid)}, of which the model's noise table tells some not apart", "spread its levels")


def _adversary(
    recipe: Recipe, denoiser: Denoiser, roles: Roles, cond: Condition, device: torch.device, optimizer: MakeOptimizer
) -> Adversary | None:
    """The GAN term's head, as wide as the features it judges."""
    gan = recipe.objective.gan
    if gan is None:
        return None
    role: Literal["fake", "discriminator"] = "fake" if gan.where == "fake" else "discriminator"
    size = len(next(iter(cond.values())))
    with torch.no_grad():
        z = torch.zeros((size, *denoiser.shape), device=device)
        features = roles.features(role, z, z.new_ones(size, dtype=torch.float64), cond)
    with seeded(recipe.seed, "discriminator head"):
        head: Any = Head(features.shape[1] if features.ndim == 4 else features.shape[-1]).to(device)
    alike(head.parameters(), device)
    head = roles.divide(head) if roles.divide else head
    own = None
    if role == "discriminator":
        own = optimizer(recipe, recipe.optim.fake_lr, [*roles.parameters(role), *head.parameters()])
    return Adversary(role, head, gan.generator_weight, gan.critic_weight, (gan.levels[0], gan.levels[1]), own)
