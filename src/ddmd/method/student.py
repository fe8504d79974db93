"""The few-step student: its step grid and its walk down the grid.

Backward simulation in training and sampling at inference are the same walk: training stops it early, inference
takes it to level 0. So the student is trained on exactly the inputs it will meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .noise import NoisePath

Sampler = Literal["sde", "ode"]
Predict = Callable[[Tensor, Tensor], Tensor]
"""(z, u) -> x0 prediction; z of shape (B, ...), u of shape (B,)."""
Chance = torch.Generator | Sequence[torch.Generator]
"""One generator for a batch, or one an image, whose noise then does not depend on the others."""


def uniform_grid(steps: int) -> tuple[float, ...]:
    """Levels 1, 1 - 1/N, ..., 1/N before the time shift. On SDXL's table, four steps are indices 999, 749, 499, 249."""
    if steps < 1:
        raise ValueError(f"steps: found {steps}; at least 1 is needed")
    return tuple(1 - k / steps for k in range(steps))


def check_grid(levels: Sequence[float]) -> tuple[float, ...]:
    """A grid given by hand: falls strictly, starts at pure noise, ends above 0."""
    grid = tuple(float(level) for level in levels)
    if not grid or grid[0] != 1 or grid[-1] <= 0 or any(b >= a for a, b in pairwise(grid)):
        raise ValueError(f"grid: found {list(grid)}; levels must start at 1 and fall strictly, all above 0")
    return grid


def normal(shape: Sequence[int], chance: Chance | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal noise (B, ...), drawn image by image where there are several generators."""
    if chance is None or isinstance(chance, torch.Generator):
        return torch.randn(tuple(shape), generator=chance, device=device, dtype=dtype)
    return torch.cat([torch.randn((1, *shape[1:]), generator=one, device=device, dtype=dtype) for one in chance])


def step_down(path: NoisePath, x0: Tensor, z: Tensor, u: Tensor, u_next: Tensor, sampler: Sampler, noise: Tensor | None) -> Tensor:
    """One step of the sampler from (z, u) with clean prediction x0 to level u_next.

    `sde` re-noises the prediction with fresh noise (DDPM family, LCMScheduler); `ode` keeps the noise that z implies,
    which is Euler on a flow path and DDIM on a diffusion path. At u_next = 0 both return x0.
    """
    if sampler == "ode":
        noise = path.to_eps(x0, z, u)
    assert noise is not None, "the stochastic sampler needs fresh noise"
    return path.add_noise(x0, u_next, noise)


def walk(
    predict: Predict, path: NoisePath, levels: Sequence[float], z: Tensor, sampler: Sampler, generator: Chance | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk z from levels[0] to levels[-1]; yields (x0, z) after each step, z at the next level.

    `predict` is called len(levels) - 1 times. Fresh noise is drawn only by the stochastic sampler and never for
    level 0, in the order in which diffusers' schedulers draw it.
    """
    batch = len(z)
    for level, following in pairwise(levels):
        u, u_next = z.new_full((batch,), level, dtype=torch.float64), z.new_full((batch,), following, dtype=torch.float64)
        x0 = predict(z, u)
        if following == 0:
            z = x0
        else:
            noise = normal(z.shape, generator, z.device, z.dtype) if sampler == "sde" else None
            z = step_down(path, x0, z, u, u_next, sampler, noise)
        yield x0, z


@torch.no_grad()
def simulate(
    predict: Predict,
    path: NoisePath,
    grid: Sequence[float],
    rung: int,
    z: Tensor,
    sampler: Sampler,
    generator: Chance | None = None,
) -> Tensor:
    """Backward simulation: the student's own input at grid[rung], from pure noise z, by `rung` calls without graph."""
    return _end(z, walk(predict, path, grid[: rung + 1], z, sampler, generator))


@torch.no_grad()
def sample(
    predict: Predict, path: NoisePath, grid: Sequence[float], z: Tensor, sampler: Sampler, generator: Chance | None = None
) -> Tensor:
    """The whole walk from pure noise z to the image."""
    return _end(z, walk(predict, path, (*grid, 0.0), z, sampler, generator))


def _end(z: Tensor, steps: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    for _, reached in steps:
        z = reached
    return z
