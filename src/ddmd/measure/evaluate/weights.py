"""Weights as others publish them: read without running anything, and identified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ...errors import InputError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def read_states(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file or of a checkpoint that holds nothing but plain values. Raises InputError for any other."""
    import torch
    from safetensors.torch import load_file

    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises depends on the byte
        raise InputError(
            str(path), f"a file that is damaged or holds more than tensors ({type(error).__name__})", "get it again"
        ) from error


def sha256_of(path: Path) -> str:
    """Identity of a file, or of all weights in a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES):
        digest.update(file.name.encode())
        with open(file, "rb") as handle:
            while part := handle.read(1 << 22):
                digest.update(part)
    return digest.hexdigest()
