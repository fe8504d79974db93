"""Equations 2 to 8 of the paper as pure functions on tensors.

Everything is in x0 space: `real_cond`, `real_uncond` and `fake_cond` are clean-image predictions, shape (B, ...), of the
teacher with and without the prompt and of the fake model, for the student's re-noised image. A direction points
where the student's image should go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Normalizer = Literal["per_branch", "none", "dmd2", "shared"]


def classifier_free_guidance(cond: Tensor, uncond: Tensor, alpha: float | Tensor) -> Tensor:
    """Eq. 4: uncond + alpha * (cond - uncond)."""
    return uncond + alpha * (cond - uncond)


def distribution_matching(real_cond: Tensor, fake_cond: Tensor) -> Tensor:
    """First bracket of Eq. 6, the regulariser: teacher minus fake."""
    return real_cond - fake_cond


def cfg_augmentation(real_cond: Tensor, real_uncond: Tensor, alpha: float | Tensor) -> Tensor:
    """Second bracket of Eq. 6, the engine: (alpha - 1) * (conditional - unconditional)."""
    return (alpha - 1) * (real_cond - real_uncond)


def mean_abs(x: Tensor) -> Tensor:
    """|x|_1mean: mean absolute value of each sample, shape (B, 1, ...)."""
    return x.abs().mean(dim=tuple(range(1, x.ndim)), keepdim=True)


@dataclass(frozen=True)
class Branches:
    """What the networks said about the student's image `x`; None for a pass that the objective does not need."""

    x: Tensor
    cond_dm: Tensor | None = None
    fake_dm: Tensor | None = None
    cond_ca: Tensor | None = None
    uncond_ca: Tensor | None = None


@dataclass(frozen=True)
class Direction:
    """The update in x0 space, its two parts, and the share of values that were not finite.

    Such values are zero in all three: the caller must look at the share (0-d), since a batch without
    a finite value is no direction at all.
    """

    total: Tensor
    dm: Tensor
    ca: Tensor
    nonfinite: Tensor


@torch.no_grad()
def decoupled_direction(
    branches: Branches,
    alpha: float | Tensor,
    normalizer: Normalizer = "per_branch",
    floor: float = 1e-6,
    ca_weight: float = 1.0,
    dm_weight: float = 1.0,
) -> Direction:
    """Eq. 8: DM at its level plus CA at its own, each divided by its normaliser. On a coupled schedule it is Eq. 6.

    `none` leaves the equation as printed. `per_branch` divides each branch by |x - teacher's conditional x0| at that
    branch's level (the author's practice). `dmd2` divides the sum by |x - x0_cfg| at the CA level, which on a coupled
    schedule is DMD's Eq. 8. `shared` divides both by the DM branch's |x - conditional x0|. No normaliser costs a pass.
    """
    x = branches.x.detach()
    dm = ca = torch.zeros_like(x)
    if branches.cond_dm is not None and branches.fake_dm is not None:
        dm = dm_weight * distribution_matching(branches.cond_dm, branches.fake_dm)
    if branches.cond_ca is not None and branches.uncond_ca is not None:
        ca = ca_weight * cfg_augmentation(branches.cond_ca, branches.uncond_ca, alpha)
    by_dm, by_ca = _denominators(branches, x, alpha, normalizer)
    dm, ca = dm / by_dm.clamp(min=floor), ca / by_ca.clamp(min=floor)
    finite = torch.isfinite(dm + ca)
    dm, ca = torch.where(finite, dm, 0), torch.where(finite, ca, 0)
    return Direction(dm + ca, dm, ca, 1 - finite.float().mean())


def _denominators(branches: Branches, x: Tensor, alpha: float | Tensor, normalizer: Normalizer) -> tuple[Tensor, Tensor]:
    one = x.new_ones(())
    # A run of one branch alone has only that branch's prediction to measure by.
    near_dm = branches.cond_dm if branches.cond_dm is not None else branches.cond_ca
    near_ca = branches.cond_ca if branches.cond_ca is not None else branches.cond_dm
    if normalizer == "none" or near_dm is None or near_ca is None:
        return one, one
    if normalizer == "per_branch":
        return mean_abs(x - near_dm), mean_abs(x - near_ca)
    if normalizer == "shared":
        return mean_abs(x - near_dm), mean_abs(x - near_dm)
    if normalizer == "dmd2":
        guided = near_ca if branches.uncond_ca is None else classifier_free_guidance(near_ca, branches.uncond_ca, alpha)
        return mean_abs(x - guided), mean_abs(x - guided)
    raise ValueError(f"normalizer: found {normalizer!r}; use per_branch, none, dmd2 or shared")


def proxy_loss(x: Tensor, direction: Tensor, scale: float = 0.5) -> Tensor:
    """Algorithm 1: scale * mean |x - sg(x + direction)|^2, whose gradient is -2 * scale * direction / numel."""
    target = (x + direction).detach()
    return scale * (x - target).square().mean()


def mean_variance_loss(x: Tensor, mean: float, variance: float) -> Tensor:
    """Eq. 7: KL( N(mu_i, sigma_i^2) || N(mean, variance) ) of each image's own statistics, averaged over the batch."""
    dims = tuple(range(1, x.ndim))
    mu, var = x.mean(dims), x.var(dims, correction=0)
    ratio = var / variance
    return 0.5 * ((mu - mean).square() / variance + ratio - 1 - torch.log(ratio)).mean()


def calibrate_mean_variance(images: Tensor) -> tuple[float, float]:
    """Targets of Eq. 7 from real data or teacher samples, shape (N, ...): averages of per-image mean and variance."""
    flat = images.detach().double().flatten(1)
    return flat.mean(1).mean().item(), flat.var(1, correction=0).mean().item()


def fake_loss(output: Tensor, target: Tensor) -> Tensor:
    """Denoising regression of the fake model on the student's images: mean squared error in the space of its arguments."""
    return (output.float() - target.float()).square().mean()
