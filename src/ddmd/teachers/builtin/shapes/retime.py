"""Move a trained U-Net to another table of noise levels: the same network, told the time on another clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

ADAM_STEPS, LBFGS_STEPS = 2000, 2000


def retime(unet: Any, old_abar: Tensor, new_abar: Tensor) -> float:
    """Refit `unet.time_embedding` so that index i of the new table says what the old said at the same noise.

    Both tables are cumulative alphas, shape (T,). Nothing else changes. Returns the fit's root mean square error over the
    embedding's standard deviation.
    """
    indices = np.arange(len(old_abar), dtype=np.float64)
    # abar falls along a table, and interpolation wants rising places.
    same_noise = np.interp(_noise(new_abar), _noise(old_abar), indices)
    embedding = unet.time_embedding
    with torch.no_grad():
        target = embedding(unet.time_proj(torch.from_numpy(same_noise).float())).double()
        clock = unet.time_proj(torch.arange(len(new_abar))).double()
    embedding.double().requires_grad_(True)

    def loss() -> Tensor:
        return (embedding(clock) - target).square().mean()

    adam = torch.optim.Adam(embedding.parameters(), lr=3e-3)
    for step in range(ADAM_STEPS):
        adam.param_groups[0]["lr"] = 3e-3 * (1 - step / ADAM_STEPS)
        adam.zero_grad()
        loss().backward()
        adam.step()
    lbfgs = torch.optim.LBFGS(embedding.parameters(), max_iter=LBFGS_STEPS, history_size=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        lbfgs.zero_grad()
        value = loss()
        value.backward()
        return value

    lbfgs.step(closure)
    with torch.no_grad():
        error = (loss().sqrt() / target.std()).item()
    embedding.float()
    return error


def _noise(abar: Tensor) -> np.ndarray:
    """Log of noise over signal, in power."""
    abar = abar.double().cpu()
    return torch.log((1 - abar) / abar).numpy()
