"""Weights as others publish them: read without running anything, and identified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...teachers.identity import files_under

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
    """Identity of a file, or of all weights in a folder. Raises InputError where there is none."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else files_under(path, lambda found: found.suffix in SUFFIXES):
        digest.update(file.name.encode())
        with open(file, "rb") as handle:
            while part := handle.read(1 << 22):
                digest.update(part)
    return digest.hexdigest()
