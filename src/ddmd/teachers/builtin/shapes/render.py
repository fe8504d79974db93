"""Draw scenes: supersampled inside-tests on a pixel grid, a batch at a time, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .scenes import ATTRIBUTES, NAMES

SIZE = 32  # pixels
SUPERSAMPLE = 3
RANGE = 0.9  # colours stay inside [-RANGE, RANGE], so that over-saturation can be seen
PALETTE = {
    "red": (0.90, 0.10, 0.10), "orange": (1.00, 0.55, 0.05), "yellow": (0.98, 0.92, 0.15), "green": (0.10, 0.65, 0.20),
    "cyan": (0.15, 0.85, 0.90), "blue": (0.15, 0.25, 0.95), "purple": (0.58, 0.15, 0.78),
    "gray": (0.50, 0.50, 0.50), "black": (0.06, 0.06, 0.06), "white": (0.96, 0.96, 0.96), "pink": (1.00, 0.72, 0.80),
}  # fmt: skip
RADIUS = {"small": 7.5, "large": 10.5}
OFFSET = {"center": (0.0, 0.0), "left": (-5.5, 0.0), "right": (5.5, 0.0), "top": (0.0, -5.5), "bottom": (0.0, 5.5)}


def render(scenes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw scenes (n, 6) as images (n, 3, 32, 32) in [-0.9, 0.9].

    Place, radius and tone vary a little from draw to draw; a texture is fixed to its object's centre.
    """
    column = {name: scenes[:, i] for i, name in enumerate(NAMES)}
    n = len(scenes)

    def jitter(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * 2 - 1

    radius = _table(RADIUS, "size")[column["size"]] * (1 + 0.06 * jitter())
    centre = SIZE / 2 + _table(OFFSET, "position")[column["position"]] + jitter(2)
    ink = _table(PALETTE, "colour")[column["colour"]] + 0.03 * jitter(3)
    paper = _table(PALETTE, "background")[column["background"]] + 0.03 * jitter(3)

    axis = (torch.arange(SIZE * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    dx = (axis[None, None, :] - centre[:, 0, None, None]).expand(n, len(axis), len(axis))
    dy = (axis[None, :, None] - centre[:, 1, None, None]).expand(n, len(axis), len(axis))
    inside = _inside(dx / radius[:, None, None], dy / radius[:, None, None], column["shape"])
    dark = _dark(dx, dy, column["texture"])

    def soften(mask: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(mask.float()[:, None], SUPERSAMPLE)

    cover, shade = soften(inside), soften(inside & dark)
    tone = paper[..., None, None] * (1 - cover) + ink[..., None, None] * (cover - 0.75 * shade)
    return (tone.clamp(0, 1) * 2 - 1) * RANGE


def _table(values: dict, attribute: str) -> Tensor:
    return torch.tensor([values[word] for word in ATTRIBUTES[attribute]])


def _inside(x: Tensor, y: Tensor, shape: Tensor) -> Tensor:
    """Inside-test of every shape in the unit disc, chosen per image by index."""
    ax, ay = x.abs(), y.abs()
    # A star is five-fold: fold the angle into one half-spike and test the edge from its tip to the inner corner.
    angle = torch.atan2(x, -y)
    folded = ((angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5).abs()
    rho = torch.hypot(x, y)
    px, py = rho * torch.cos(folded), rho * torch.sin(folded)
    tip, inner = 1.15, 0.5
    ex, ey = inner * math.cos(math.pi / 5) - tip, inner * math.sin(math.pi / 5)
    tests = {
        "circle": rho < 0.95,
        "square": torch.maximum(ax, ay) < 0.85,
        "triangle": (y < 0.8) & (ax * 1.75 - y < 1.0),
        "star": ex * py - ey * (px - tip) > 0,
        "cross": (torch.minimum(ax, ay) < 0.36) & (torch.maximum(ax, ay) < 1.0),
    }
    chosen = torch.stack([tests[word] for word in ATTRIBUTES["shape"]], dim=1)
    return chosen[torch.arange(len(shape)), shape]


def _dark(x: Tensor, y: Tensor, texture: Tensor) -> Tensor:
    """Where the darker tone of a texture falls; x and y in pixels from the object's centre."""
    pitch = 6.0
    nearest = torch.hypot((x + pitch / 2) % pitch - pitch / 2, (y + pitch / 2) % pitch - pitch / 2)
    tests = {
        "solid": torch.zeros_like(x, dtype=torch.bool),
        "striped": y % 6 < 3,
        "dotted": nearest < 1.9,
        "checkered": (torch.floor(x / 4) + torch.floor(y / 4)) % 2 == 0,
    }
    chosen = torch.stack([tests[word] for word in ATTRIBUTES["texture"]], dim=1)
    return chosen[torch.arange(len(texture)), texture]
