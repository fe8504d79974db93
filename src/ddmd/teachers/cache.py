"""Encoded prompts on disk, in shards, so that the text encoders run once and then leave memory."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_atomic, write_json
from ..method.batch import Condition
from .denoisers.base import Denoiser
from .identity import model_identity

SHARD = 64  # prompts
ENCODERS = ("text_encoder", "tokenizer")  # how the names of those parts begin
OPEN = 256  # shards held open

Report = Callable[[int], None]
"""How many are done."""


def silent(done: int) -> None:
    """Report to nobody."""


class ConditionCache:
    """Conditions of many prompts, read a row at a time.

    One folder holds the caches of many models: each lies under the fingerprint of what encodes. A shard is named by its
    prompts and written whole by a rename, so writers may race and be killed; a damaged one is encoded again.
    """

    def __init__(self, folder: Path, denoiser: Denoiser, prompts: Sequence[str], report: Report = silent) -> None:
        self.folder = folder / fingerprint(denoiser, ENCODERS)
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", {"family": denoiser.family, "model": str(denoiser.folder)})
        self._shards: list[Path] = []
        self._shard = lru_cache(OPEN)(self._open)
        for start in range(0, len(prompts), SHARD):
            block = list(prompts[start : start + SHARD])
            path = self.folder / f"{hashlib.sha256(json.dumps(block).encode()).hexdigest()[:32]}.safetensors"
            if not is_whole(path):
                write_atomic(path, pack_shard(denoiser.encode(block)))
            self._shards.append(path)
            report(min(start + SHARD, len(prompts)))

    def rows(self, rows: Tensor) -> Condition:
        """The conditions of some prompts, on the CPU."""
        found = [self._row(row) for row in rows.tolist()]
        together: dict[str, Any] = {}
        for name in found[0]:
            values = [row[name] for row in found]
            together[name.removesuffix("[]")] = values if name.endswith("[]") else torch.stack(values)
        return together

    def _open(self, number: int) -> Any:
        return safe_open(self._shards[number], framework="pt")

    def _row(self, row: int) -> dict[str, Tensor]:
        number, place = divmod(row, SHARD)
        shard = self._shard(number)
        values = {}
        for name in shard.keys():  # noqa: SIM118 (not a dict)
            base, _, index = name.partition("[]")
            if not index:
                values[base] = shard.get_slice(name)[place]
            elif int(index) == place:
                values[f"{base}[]"] = shard.get_tensor(name).clone()  # else a view of the file
        return values


def pack_shard(condition: Condition) -> bytes:
    """A condition as a safetensors file: tensors as they are, a list's i-th entry as `name[]i`; a checksum in the header."""
    tensors: dict[str, Tensor] = {}
    for name, value in condition.items():
        if isinstance(value, Tensor):
            tensors[name] = value.cpu().contiguous()
        else:
            tensors |= {f"{name}[]{i}": row.cpu().contiguous() for i, row in enumerate(value)}
    return save(tensors, {"crc32": checksum(tensors)})


def checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 over names and contents."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].view(torch.uint8).numpy().data, zlib.crc32(name.encode(), crc))
    return str(crc)


def is_whole(path: Path, made_of: str = "") -> bool:
    """Whether a shard is there and undamaged and, if that is given, its header says that it was made of this."""
    try:
        with safe_open(path, framework="pt") as shard:
            metadata = shard.metadata() or {}
            if made_of and metadata.get("made_of") != made_of:
                return False
            return metadata.get("crc32") == checksum({name: shard.get_tensor(name) for name in shard.keys()})  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def fingerprint(denoiser: Denoiser, parts: tuple[str, ...]) -> str:
    """Identity of those parts of a pipeline whose names begin so, and of the way they are called."""
    identity = f"{denoiser.family} {denoiser.resolution} {model_identity(denoiser.folder, parts)}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
