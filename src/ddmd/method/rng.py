"""Named random streams: who draws what is decided by a hash, so that no two consumers share their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

BITS = 32  # torch's CPU generator reads the low 32 bits of a seed and drops the rest


def stream_seed(seed: int, purpose: str, *place: int) -> int:
    """The seed of one stream: a hash of (seed, purpose, *place), below 2 ** 32.

    `seed` may have any size and sign; `place` is a rank, a position, an epoch ... whatever tells
    streams of one purpose apart.
    """
    words = " ".join((str(seed), purpose, *map(str, place)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[: BITS // 8])


def stream(seed: int, purpose: str, *place: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the stream of (seed, purpose, *place)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, *place))


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Torch's own generator on the CPU at the start of a stream for the time of the block, and then as it was before.

    For layers that draw their first weights from it: whatever else drew in this process has no say.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, purpose))
        yield


def sampling_seed(seed: int) -> int:
    """A seed of any size as torch takes it: itself below 2 ** 32, as a stock pipeline would use it, else a hash."""
    return seed if 0 <= seed < 1 << BITS else stream_seed(seed, "sampling")
