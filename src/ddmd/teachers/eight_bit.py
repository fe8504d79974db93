"""Eight bits instead of sixteen or thirty-two, by torchao: a frozen base's weights, and AdamW's moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

LEAST = 32  # features on a side below which quantising a layer saves nothing


def quantize_linears(network: nn.Module) -> None:
    """Hold the weights of a frozen network's linear layers in int8, a scale a row; they are widened again as they are used.

    Raises InputError where torchao is not installed.
    """
    quantization = _torchao("quantization", "adapters.base")
    quantization.quantize_(
        network,
        quantization.Int8WeightOnlyConfig(),
        filter_fn=lambda module, name: isinstance(module, nn.Linear) and min(module.in_features, module.out_features) >= LEAST,
    )


def eight_bit_adamw(
    parameters: Sequence[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW whose moments are held in eight bits, in blocks with a scale each. Raises InputError where torchao is not installed."""
    optim = _torchao("optim", "optim.optimizer")
    return optim.AdamW8bit(parameters, lr=lr, betas=betas, weight_decay=weight_decay)


def eight_bit_parts(value: Any) -> dict[str, Tensor]:
    """The plain tensors that an eight-bit moment is made of; none of any other value."""
    if type(value).__name__ != "OptimState8bit":  # torchao's, which need not be installed
        return {}
    names, (signed, *_) = value.__tensor_flatten__()
    return {name: getattr(value, name) for name in names} | {"signed": torch.tensor(signed)}


def eight_bit_state(parts: dict[str, Tensor]) -> Tensor:
    """The inverse of `eight_bit_parts`."""
    state = _torchao("optim.subclass_8bit", "optim.optimizer").OptimState8bit
    return state(parts["codes"], parts["scale"], parts["qmap"], bool(parts["signed"]), torch.float32)


def _torchao(module: str, key: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"torchao.{module}")
    except ModuleNotFoundError as error:
        raise InputError(key, "a setting that needs torchao", "pip install 'decoupled-dmd[quant]'") from error
