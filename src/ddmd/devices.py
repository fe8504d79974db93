"""Where networks run outside training, which asks accelerate; and which attention kernels may take gradients there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> torch.device:
    """This process's GPU (by LOCAL_RANK under torchrun), else the CPU."""
    import torch

    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


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
