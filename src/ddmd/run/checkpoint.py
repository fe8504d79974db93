"""Checkpoints: safetensors and JSON only, one folder a step, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..files import folder_atomic, read_object, write_json
from ..folders import MANIFEST, changed
from ..teachers.eight_bit import eight_bit_parts, eight_bit_state
from ..teachers.sharding import local, placed_like

Tensors = dict[str, Tensor]
Say = Callable[[str], None]
"""Who is told in a sentence."""


def silent(text: str) -> None:
    """Tell nobody."""


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
    """Write each named set of tensors as NAME.safetensors, the facts as state.json, and checksums of all."""
    from safetensors.torch import save_file

    with folder_atomic(folder, ours=True) as temporary:
        for name, content in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in content.items()}, temporary / f"{name}.safetensors")
        write_json(temporary / "state.json", {"checksums": MANIFEST, **facts})


def damage(folder: Path) -> str | None:
    """The name of a damaged, missing or unknown file of a checkpoint, or None.

    A checkpoint of an older version, whose facts name no checksums, passes if its facts can be read.
    """
    if not (folder / MANIFEST).is_file():
        try:
            facts = json.loads((folder / "state.json").read_bytes())
            return MANIFEST if "checksums" in facts else None
        except (OSError, ValueError, TypeError):
            return "state.json"
    return changed(folder)


def newest_whole(folders: Sequence[Path], say: Say = silent) -> Path:
    """The last of these checkpoints that is undamaged; says which file of each later one is damaged.

    Raises InputError where none is whole.
    """
    damaged = None
    for number, folder in reversed(list(enumerate(folders))):
        if (name := damage(folder)) is None:
            return folder
        damaged = folder / name
        if number:
            say(f"{damaged} is damaged or missing: going back to {folders[number - 1].name}")
    mend = "no checkpoint before it is whole: restore the folder from a backup, or begin a new run"
    raise InputError(str(damaged), "a file that is damaged or missing", mend)


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


def not_finite(tensors: dict[str, Tensors]) -> str | None:
    """The set and name of a tensor that holds a value which is not finite, or None."""
    for name, content in tensors.items():
        floating = {key: local(value) for key, value in content.items() if value.is_floating_point()}
        whole = [value.isfinite().all() for value in floating.values()]
        if whole and not torch.stack(whole).all():  # waits for a device once a set
            return f"{name}: {next(key for key, fine in zip(floating, whole, strict=True) if not fine)}"
    return None


def save_best(checkpoints: Path, cycle: int, tensors: dict[str, Tensors], facts: dict[str, Any]) -> None:
    """Keep the best evaluation under its own name, then drop the one it beats: at every moment one is whole."""
    save_checkpoint(checkpoints / f"best-{cycle:06d}", tensors, facts)
    for other in best_folders(checkpoints)[:-1]:
        remove(other)


def best_folders(checkpoints: Path) -> list[Path]:
    """Folders of the best evaluation; more than one only after a kill, the newest last."""
    return sorted(folder for folder in checkpoints.glob("best-*") if folder.is_dir())


def stored_weights(checkpoints: Path, choice: Literal["best", "last"], say: Say = silent) -> tuple[Tensors, int]:
    """The averaged student of the best evaluation where that is asked for and there is one, else of the newest step, and its cycle.

    A damaged checkpoint is named by `say`, and the one before it is used. Raises InputError where nothing is stored, or nothing whole.
    """
    steps, best = step_folders(checkpoints), best_folders(checkpoints)
    found = [*steps, *best] if choice == "best" and best else steps
    if not found:
        raise InputError(str(checkpoints), "no checkpoint", "let the run reach train.checkpoint_every")
    folder = newest_whole(found, say)
    tensors, facts = load_checkpoint(folder, ["average"])
    if (name := not_finite(tensors)) is not None:
        raise InputError(str(folder), f"values that are not finite in {name}", "begin a new run with a lower optim.student_lr")
    return tensors["average"], facts["cycle"]


def step_folders(checkpoints: Path) -> list[Path]:
    """Complete checkpoints in order of their cycle."""
    return sorted(folder for folder in checkpoints.glob("step-*") if folder.is_dir())


def step_folder(checkpoints: Path, cycle: int) -> Path:
    """Where the checkpoint of a cycle lives."""
    return checkpoints / f"step-{cycle:06d}"


def drop_old(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` steps."""
    for folder in step_folders(checkpoints)[:-keep]:
        remove(folder)


def put_aside(folder: Path) -> None:
    """Take a damaged checkpoint out of the way under a name that says so; its owner may still want to look at it."""
    aside = folder.with_name(f"damaged-{folder.name}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-again")
    os.replace(folder, aside)


def remove(folder: Path) -> None:
    """Remove a checkpoint, or of one in which others keep files, the files that are a checkpoint's."""
    for file in [*folder.glob("*.safetensors"), folder / "state.json", folder / MANIFEST]:
        file.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    else:
        put_aside(folder)


def expected_bytes(optimizers: Iterable[torch.optim.Optimizer], average: Tensors) -> int:
    """About how large a checkpoint will be: what is trained and its two moments, and the averaged student."""
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    return sum(3 * p.numel() * p.element_size() for p in parameters) + sum(p.numel() * p.element_size() for p in average.values())


def check_room(folder: Path, needed: int) -> None:
    """Raise InputError where a disk has fewer bytes free than needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        found = f"{free / 2**30:.2f} GiB free, {needed / 2**30:.2f} GiB needed for checkpoints"
        raise InputError(str(folder), found, "free some space, write to another disk, or lower train.keep_checkpoints")
