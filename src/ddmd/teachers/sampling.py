"""Make images with a teacher or a student, by the walk that training uses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from ..method.batch import Condition, batch_size, concatenate, select
from ..method.objective import classifier_free_guidance
from ..method.rng import sampling_seed
from ..method.student import Predict, Sampler, sample
from .cache import Report, silent
from .denoisers.base import Denoiser
from .prompts import to_device

Network = Callable[[Tensor, Tensor, Condition], Tensor]
"""(z, u, cond) -> native output."""


def bare(denoiser: Denoiser, network: nn.Module | None = None) -> Network:
    """A denoiser's own network, or another of its shape, as a plain callable."""
    module = network if network is not None else denoiser.network
    return lambda z, u, cond: denoiser.call(module, z, u, cond)


def guided(denoiser: Denoiser, network: Network, cond: Condition, alpha: float) -> Predict:
    """x0 prediction with guidance alpha: one pass at 1, else one batched pass of the conditional and the unconditional."""
    if alpha == 1:
        return lambda z, u: denoiser.path.to_x0(network(z, u, cond), z, u)
    both = concatenate([cond, to_device(denoiser.unconditional(batch_size(cond)), _device_of(cond))])

    def predict(z: Tensor, u: Tensor) -> Tensor:
        zz, uu = torch.cat([z, z]), torch.cat([u, u])
        conditional, unconditional = denoiser.path.to_x0(network(zz, uu, both), zz, uu).chunk(2)
        return classifier_free_guidance(conditional, unconditional, alpha)

    return predict


@cache
def _say(text: str) -> None:
    """Once a process, on the first of several."""
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        logging.getLogger("ddmd").warning(text)


def say_what_is_not_followed(denoiser: Denoiser) -> None:
    """One line where the teacher's own scheduler would sample it otherwise than ddmd does."""
    if denoiser.not_followed:
        _say(f"ddmd: {denoiser.not_followed}")


def initial_noise(denoiser: Denoiser, n: int, generator: torch.Generator) -> Tensor:
    """Pure noise for n images."""
    return torch.randn((n, *denoiser.shape), generator=generator, device=generator.device)


@torch.no_grad()
def sample_images(
    denoiser: Denoiser,
    network: Network,
    cond: Condition,
    grid: Sequence[float],
    sampler: Sampler,
    alpha: float,
    seed: int,
    report: Report = silent,
) -> Tensor:
    """Images (N, 3, H, W), not clamped, on the CPU, for N encoded prompts.

    Batch k, of `at_once` images, starts from seed + k, so a prompt's image depends on its place, the seed and the model only.
    """
    images, done = [], 0
    for latents in _latents(denoiser, network, cond, grid, sampler, alpha, seed):
        images.append(denoiser.decode(latents).float().cpu())
        done += len(latents)
        report(done)
    return torch.cat(images)


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    network: Network,
    cond: Condition,
    grid: Sequence[float],
    sampler: Sampler,
    alpha: float,
    seed: int,
    report: Report = silent,
) -> Tensor:
    """Scaled latents (N, ...) on the CPU: what `sample_images` would decode."""
    found, done = [], 0
    for latents in _latents(denoiser, network, cond, grid, sampler, alpha, seed):
        found.append(latents.float().cpu())
        done += len(latents)
        report(done)
    return torch.cat(found)


def at_once(denoiser: Denoiser) -> int:
    """Images drawn in one batch: 50 small ones, 4 of 1,024 pixels."""
    return max(1, min(50, 4 * 1024**2 // denoiser.resolution**2))


def _latents(
    denoiser: Denoiser, network: Network, cond: Condition, grid: Sequence[float], sampler: Sampler, alpha: float, seed: int
) -> Iterator[Tensor]:
    device, total, batch = next(denoiser.network.parameters()).device, batch_size(cond), at_once(denoiser)
    for number, start in enumerate(range(0, total, batch)):
        part = to_device(select(cond, slice(start, start + batch)), device)
        generator = torch.Generator(device).manual_seed(sampling_seed(seed + number))
        z = initial_noise(denoiser, batch_size(part), generator)
        predict = guided(denoiser, network, part, alpha)
        yield sample(predict, denoiser.path, grid, z, sampler, generator)


def _device_of(cond: Condition) -> torch.device:
    value = next(iter(cond.values()))
    return value.device if isinstance(value, Tensor) else value[0].device
