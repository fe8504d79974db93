"""Networks divided among processes by PyTorch's FSDP2 (`fully_shard`), and tensors on their way in and out of the shards.

A tensor that is not sharded passes through every function unchanged, so that callers need not ask.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


def shard(network: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Divide a network's parameters among all processes, block by block, in place; blocks are those that diffusers keeps whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    blocks = set(getattr(network, "_no_split_modules", None) or ())
    for module in reversed(list(network.modules())):
        if module is not network and type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    # Not even the root stays whole between calls: adapters are switched there, on the parameters that optimisers know.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    return network.to(device)  # buffers; parameters are there already


def backward_from_inside(network: nn.Module, features: Tensor) -> None:
    """Let a backward pass begin at features from inside a divided network, whose outermost parameters wait for its output's gradient."""

    def gather(gradient: Tensor) -> Tensor:
        cast(Any, network).unshard()
        return gradient

    if features.requires_grad:
        features.register_hook(gather)


def local(tensor: Tensor) -> Tensor:
    """This process's part, sharing its memory."""
    return tensor.to_local() if _sharded(tensor) else tensor  # type: ignore[attr-defined]  # a DTensor's


def whole(tensor: Tensor, keep: bool = True) -> Tensor | None:
    """All parts together; every process must ask. On the CPU where it was sharded, and None for those that need not keep it."""
    if not _sharded(tensor):
        return tensor
    gathered = tensor.full_tensor()  # type: ignore[attr-defined]  # a DTensor's
    return gathered.cpu() if keep else None


def gathered(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """`whole` of every tensor, one at a time; empty for a process that need not keep them."""
    found = {name: whole(tensor, keep) for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None and keep}


def placed_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same in every process, divided and placed as a parameter is."""
    if not _sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    target: Any = parameter
    return distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def everywhere(mine: bool) -> bool:
    """Whether it is so in every process: before work that all must do together or none."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mine
    said: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(said, mine)
    return all(said)


def _sharded(tensor: Tensor) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
