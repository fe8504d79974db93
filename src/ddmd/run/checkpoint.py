"""Checkpoints: safetensors and JSON only, one folder a step, written whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..files import folder_atomic, read_object, write_json
from ..teachers.eight_bit import eight_bit_parts, eight_bit_state
from ..teachers.sharding import placed_like

Tensors = dict[str, Tensor]


def pack_optimizer(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimiser's per-parameter state as flat tensors named `index.field`."""
    state = optimizer.state_dict()["state"]
    packed: Tensors = {}
    for i, fields in state.items():
        for key, value in fields.items():
            parts = eight_bit_parts(value)
            packed |= {f"{i}.{key}.{part}": tensor for part, tensor in parts.items()} if parts else {f"{i}.{key}": torch.as_tensor(value)}
    return packed


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The inverse of `pack_optimizer`; hyper-parameters stay the optimiser's own."""
    state: dict[int, dict[str, Tensor]] = {}
    eight_bit: dict[tuple[int, str], Tensors] = {}
    for name, value in tensors.items():
        index, key, *part = name.split(".")
        if part:
            eight_bit.setdefault((int(index), key), {})[part[0]] = value
        else:
            state.setdefault(int(index), {})[key] = value
    for (number, key), parts in eight_bit.items():
        state.setdefault(number, {})[key] = eight_bit_state(parts)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, fields in state.items():
        own = parameters[number]
        state[number] = {key: placed_like(value, own) if value.shape == own.shape else value for key, value in fields.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(folder: Path, tensors: dict[str, Tensors], facts: dict[str, Any]) -> None:
    """Write each named set of tensors as NAME.safetensors and the facts as state.json."""
    from safetensors.torch import save_file

    with folder_atomic(folder) as temporary:
        for name, content in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in content.items()}, temporary / f"{name}.safetensors")
        write_json(temporary / "state.json", facts)


def load_checkpoint(folder: Path, names: list[str]) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read what `save_checkpoint` wrote. Raises InputError naming the missing or damaged file."""
    facts = read_object(folder / "state.json")
    return {name: load_tensors(folder / f"{name}.safetensors") for name in names}, facts


def load_tensors(path: Path) -> Tensors:
    """One safetensors file, on the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = "missing" if not path.is_file() else f"damaged or truncated ({str(error)[:80]})"
        raise InputError(str(path), f"a file that is {reason}", "resume from an older checkpoint: remove this step's folder") from error


def save_best(checkpoints: Path, cycle: int, tensors: dict[str, Tensors], facts: dict[str, Any]) -> None:
    """Keep the best evaluation under its own name, then drop the one it beats: at every moment one is whole."""
    save_checkpoint(checkpoints / f"best-{cycle:06d}", tensors, facts)
    for other in best_folders(checkpoints)[:-1]:
        shutil.rmtree(other)


def best_folders(checkpoints: Path) -> list[Path]:
    """Folders of the best evaluation; more than one only after a kill, the newest last."""
    return sorted(folder for folder in checkpoints.glob("best-*") if folder.is_dir())


def stored_weights(checkpoints: Path, choice: Literal["best", "last"]) -> tuple[Tensors, int]:
    """The averaged student of the best evaluation where that is asked for and there is one, else of the newest step, and its cycle.

    Raises InputError where nothing is stored.
    """
    steps, best = step_folders(checkpoints), best_folders(checkpoints)
    found = best if choice == "best" and best else steps
    if not found:
        raise InputError(str(checkpoints), "no checkpoint", "let the run reach train.checkpoint_every")
    tensors, facts = load_checkpoint(found[-1], ["average"])
    return tensors["average"], facts["cycle"]


def step_folders(checkpoints: Path) -> list[Path]:
    """Complete checkpoints in order of their cycle."""
    return sorted(folder for folder in checkpoints.glob("step-*") if folder.is_dir())


def step_folder(checkpoints: Path, cycle: int) -> Path:
    """Where the checkpoint of a cycle lives."""
    return checkpoints / f"step-{cycle:06d}"


def drop_old(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` steps, and what a kill left half-written."""
    for folder in step_folders(checkpoints)[:-keep]:
        shutil.rmtree(folder)
    for leftover in checkpoints.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
