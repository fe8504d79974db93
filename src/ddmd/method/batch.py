"""What goes in and out of an update: conditions, batches of prompts, student outputs, real images; to cut them up and join them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Condition = Mapping[str, Any]
"""What a network is told besides the image: tensors (or lists) whose first axis is the batch."""


class Batch(NamedTuple):
    """Conditions of B prompts, the unconditional ones, and clean images where the student starts from noised data."""

    cond: Condition
    uncond: Condition | None = None
    images: Tensor | None = None


class Sample(NamedTuple):
    """A student output: clean images x (detached), the level of the call that made them, and their conditions."""

    x: Tensor
    u_gen: Tensor
    cond: Condition


class Reals(NamedTuple):
    """Real images (B, ...) in the student's space, and the conditions that belong to them."""

    images: Tensor
    cond: Condition


def batch_size(cond: Condition) -> int:
    """The length of a condition's first axis."""
    return len(next(iter(cond.values())))


def select(condition: Condition, rows: Tensor | slice) -> dict[str, Any]:
    """Rows of a condition."""
    picked: dict[str, Any] = {}
    for key, value in condition.items():
        if isinstance(value, Tensor):
            picked[key] = value[rows]
        else:
            picked[key] = value[rows] if isinstance(rows, slice) else [value[i] for i in rows.tolist()]
    return picked


def split(batch: Batch | Sample | Reals | None, parts: int) -> Iterator[Any]:
    """Equal parts of a batch, sample or reals; of none, so many times None."""
    if batch is None or parts == 1:
        yield from [batch] * parts
        return
    size = next(batch_size(field) if isinstance(field, Mapping) else len(field) for field in batch if field is not None)
    if size % parts:
        raise ValueError(f"gradient_accumulation: found {parts} for a batch of {size}; it must divide the batch")
    for start in range(0, size, size // parts):
        rows = slice(start, start + size // parts)
        fields: list[Any] = [
            select(field, rows) if isinstance(field, Mapping) else field if field is None else field[rows] for field in batch
        ]
        yield type(batch)(*fields)


def joined(samples: Sequence[Sample]) -> Sample:
    """One sample of several."""
    if len(samples) == 1:
        return samples[0]
    x, u_gen, cond = zip(*samples, strict=True)
    return Sample(torch.cat(x), torch.cat(u_gen), concatenate(cond))


def concatenate(conditions: Sequence[Condition]) -> dict[str, Any]:
    """Join conditions along the batch: tensors are concatenated, lists (unequal lengths) appended."""
    joined: dict[str, Any] = {}
    for key, first in conditions[0].items():
        parts = [condition[key] for condition in conditions]
        joined[key] = torch.cat(parts) if isinstance(first, Tensor) else [item for part in parts for item in part]
    return joined
