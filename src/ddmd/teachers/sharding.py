"""Networks of several processes: whole in each, with gradients averaged, or divided by PyTorch's FSDP2 (`fully_shard`); and
tensors on their way in and out of the shards.

A tensor that is not sharded passes through every function unchanged, so that callers need not ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

BUCKET = 2**25  # values whose gradients are averaged by one message


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


@torch.no_grad()
def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give whole parameters the mean of all processes' gradients, before a step; every process must ask with the same ones.

    One process alone is left as it is.

    Not DDP: its hooks count on one forward pass to one backward pass that reaches every parameter. Here the student
    and the fake share one base, a judge reads features from inside a network, and a batch may come in parts. Once a
    step also costs one exchange however many parts there are.
    """
    if not _several():
        return
    found = [parameter.grad for parameter in parameters if parameter.grad is not None and not _sharded(parameter)]
    for bucket in _buckets(found):
        flat = torch.cat([gradient.flatten() for gradient in bucket]) if len(bucket) > 1 else bucket[0].flatten()
        torch.distributed.all_reduce(flat)  # gloo has no mean
        flat /= torch.distributed.get_world_size()
        for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            if gradient.data_ptr() != mean.data_ptr():
                gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """In order, as many at a time as `BUCKET` holds, of one type; a larger one alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (sum(t.numel() for t in bucket) + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@torch.no_grad()
def alike(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Give whole tensors the first process's values, by way of the device that processes exchange from."""
    if not _several():
        return
    for tensor in tensors:
        sent = tensor.detach().to(device).contiguous()
        torch.distributed.broadcast(sent, 0)
        tensor.copy_(sent)


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
    if not _several():
        return mine
    said: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(said, mine)
    return all(said)


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _sharded(tensor: Tensor) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
