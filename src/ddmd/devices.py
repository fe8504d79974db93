"""This process's place among torchrun's, where its networks run, and which attention kernels may take gradients there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from .errors import InputError

if TYPE_CHECKING:
    import torch

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each of its processes."""
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
TORCHRUN = "start with torchrun --nproc-per-node N -m ddmd.cli, or without any of its variables"


class Launch(NamedTuple):
    """Processes in all and on this machine, and this one's numbers among them; `by_torchrun` says whose they are."""

    processes: int = 1
    rank: int = 0
    here: int = 1
    local_rank: int = 0
    by_torchrun: bool = False


def launch() -> Launch:
    """What the environment says of this process, one alone without torchrun.

    Raises InputError for half of what torchrun says, or another launcher's processes: each would take itself for one alone.
    """
    numbers = {name: _number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *MPI_SIZES)}
    rank, processes, local_rank = numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"]
    if local_rank is None and processes in (None, 1) and rank in (None, 0):  # a container may say so much of one process
        for name in MPI_SIZES:
            if (numbers[name] or 1) > 1:
                raise InputError(name, f"{numbers[name]} processes that were not started by torchrun", TORCHRUN)
        return Launch()
    missing = [name for name in TOLD if not os.environ.get(name)]
    if rank is None or processes is None or local_rank is None or missing:
        found = next(name for name in TOLD if name not in missing)
        raise InputError(found, f"{os.environ[found]!r} without {', '.join(missing)}", TORCHRUN)
    here = numbers["LOCAL_WORLD_SIZE"] or local_rank + 1
    if not (rank < processes and local_rank < here <= processes):
        raise InputError("RANK", f"{rank} of {processes} processes, {local_rank} of {here} on this machine", TORCHRUN)
    return Launch(processes, rank, here, local_rank, by_torchrun=True)


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise InputError(name, repr(text), TORCHRUN)
    return int(text) if text else None


def best_device() -> torch.device:
    """This process's GPU (by LOCAL_RANK under torchrun), else the CPU. Raises InputError where there are fewer GPUs than processes."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    launched, found = launch(), torch.cuda.device_count()
    if launched.here > found:
        raise InputError("--nproc-per-node", f"{launched.here} processes for {found} GPUs", f"start at most {found} on this machine")
    return torch.device("cuda", launched.local_rank)


def choose_attention(device: torch.device, cudnn: bool = False) -> str | None:
    """Before gradients are taken on a GPU: allow or forbid cuDNN's attention, in this process and until the next choice.

    cuDNN's backward pass of attention with a mask in half precision answers NaN for some lengths
    and logits on Hopper (PyTorch 2.11 to 2.13, pytorch#196678). Flash and memory-efficient
    attention take over. Returns what to tell the user where this choice switched it off.
    """
    import torch

    if device.type != "cuda":
        return None
    was_on = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    if cudnn or not was_on:
        return None
    return "cuDNN's attention is off: its gradients can be NaN; optim.cudnn_attention=true leaves it on"
