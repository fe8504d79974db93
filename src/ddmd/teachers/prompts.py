"""Prompts of a run: read, encoded once, and handed out in an order that needs no memory to resume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..method.batch import Condition, Reals, concatenate, select
from ..method.rng import stream
from .cache import ConditionCache, Report, silent
from .denoisers.base import Denoiser

ENCODE_BATCH = 256


def to_device(condition: Condition, device: torch.device) -> dict[str, Any]:
    """A condition moved to a device."""
    return {k: v.to(device) if isinstance(v, Tensor) else [i.to(device) for i in v] for k, v in condition.items()}


def encode_all(denoiser: Denoiser, prompts: Sequence[str], report: Report = silent) -> Condition:
    """Encode many prompts in batches, kept on the CPU."""
    parts = []
    for start in range(0, len(prompts), ENCODE_BATCH):
        parts.append(to_device(denoiser.encode(prompts[start : start + ENCODE_BATCH]), torch.device("cpu")))
        report(min(start + ENCODE_BATCH, len(prompts)))
    return concatenate(parts)


def rows_at(
    position: int,
    total: int,
    batch: int,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    purpose: str = "prompts",
) -> Tensor:
    """Rows (batch,) of the batch at a position: each epoch meets each of `total` rows once, over all ranks.

    A function of its arguments alone, so that resuming needs no memory. The ranks deal out one
    endless sequence, a new shuffle an epoch, which `seed` and `purpose` decide.
    """
    first = (position * ranks + rank) * batch
    slots = range(first, first + batch)
    return torch.stack([_shuffled(total, seed, purpose, slot // total)[slot % total] for slot in slots])


@lru_cache(4)
def _shuffled(total: int, seed: int, purpose: str, epoch: int) -> Tensor:
    """The order of an epoch; cached, since every batch of the epoch asks for it."""
    return torch.randperm(total, generator=stream(seed, purpose, epoch))


class EncodedPrompts:
    """Conditions of many prompts, kept in memory."""

    def __init__(self, denoiser: Denoiser, prompts: Sequence[str], report: Report = silent) -> None:
        self.encoded = encode_all(denoiser, prompts, report)

    def rows(self, rows: Tensor) -> Condition:
        """The conditions of some prompts, on the CPU."""
        return select(self.encoded, rows)


Encoded = EncodedPrompts | ConditionCache


def encoded_prompts(denoiser: Denoiser, prompts: Sequence[str], cache: Path | None, report: Report = silent) -> Encoded:
    """Conditions of prompts: in memory, or in a cache on disk."""
    return ConditionCache(cache, denoiser, prompts, report) if cache else EncodedPrompts(denoiser, prompts, report)


class PromptTable:
    """Training prompts encoded once, in memory or in a cache on disk, and the unconditional."""

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: Sequence[str],
        batch: int,
        seed: int,
        rank: int,
        ranks: int,
        device: torch.device,
        cache: Path | None = None,
        report: Report = silent,
    ) -> None:
        self.prompts, self.device = list(prompts), device
        self.order = partial(rows_at, total=len(self.prompts), batch=batch, seed=seed, rank=rank, ranks=ranks)
        self.encoded = encoded_prompts(denoiser, self.prompts, cache, report)
        self.uncond = to_device(denoiser.unconditional(batch), device)

    def at(self, position: int) -> Condition:
        """The conditions of the batch at a position."""
        return to_device(self.encoded.rows(self.order(position)), self.device)


class Latents(Protocol):
    """Real images as latents, in memory or on disk."""

    def __len__(self) -> int: ...
    def rows(self, rows: Tensor) -> Tensor: ...


class HeldLatents:
    """Latents (N, ...) kept in memory."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, rows: Tensor) -> Tensor:
        """Some of them."""
        return self.latents[rows]


class RealTable:
    """Real images with the conditions that belong to them."""

    def __init__(self, latents: Latents, encoded: Encoded, batch: int, seed: int, rank: int, ranks: int, device: torch.device) -> None:
        self.latents, self.encoded, self.device = latents, encoded, device
        self.order = partial(rows_at, total=len(latents), batch=batch, seed=seed, rank=rank, ranks=ranks, purpose="real images")

    def at(self, position: int) -> Reals:
        """The pairs of the batch at a position."""
        rows = self.order(position)
        return Reals(self.latents.rows(rows).to(self.device), to_device(self.encoded.rows(rows), self.device))
