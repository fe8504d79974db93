"""Draw scenes: supersampled inside-tests on a pixel grid, a batch at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .pairs import RELATIONS, WIDTH
from .scenes import ATTRIBUTES, BACKGROUNDS, NAMES, OBJECT

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
PAIRS_SIZE = 40  # pixels
PAIRS_SCALE = 0.78  # of an object's radius in `shapes`
PAIRS_GRAIN = 0.85  # of a texture's pitch
PAIRS_OFFSET = {"left of": (-9.5, 0.0), "right of": (9.5, 0.0), "above": (0.0, -9.5), "below": (0.0, 9.5)}  # of the first object


def render(scenes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw scenes of `shapes`, (n, 6), as images (n, 3, 32, 32) in [-0.9, 0.9].

    Place, radius and tone vary a little from draw to draw, by a generator on the CPU; a texture is fixed to its object's centre.
    Drawn where the scenes are.
    """
    column = {name: scenes[:, i] for i, name in enumerate(NAMES)}
    vary = _Varied(len(scenes), generator, scenes.device)
    radius = _look_up(RADIUS, OBJECT["size"], column["size"]) * (1 + 0.06 * vary())
    centre = SIZE / 2 + _look_up(OFFSET, ATTRIBUTES["position"], column["position"]) + vary(2)
    ink = vary.tone(OBJECT["colour"], column["colour"])
    paper = vary.tone(BACKGROUNDS, column["background"])
    picture = _paint(_canvas(paper, SIZE), centre, radius, ink, column["shape"], column["texture"])
    return (picture.clamp(0, 1) * 2 - 1) * RANGE


def render_pairs(scenes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw scenes of `pairs`, (n, 10), as images (n, 3, 40, 40) in [-0.9, 0.9]: objects a fifth smaller, that never touch."""
    vary = _Varied(len(scenes), generator, scenes.device)
    relation, background = scenes[:, -2], scenes[:, -1]
    picture = _canvas(vary.tone(BACKGROUNDS, background), PAIRS_SIZE)
    for part, side in ((scenes[:, :WIDTH], 1), (scenes[:, WIDTH : 2 * WIDTH], -1)):
        size, texture, colour, shape = part.unbind(1)
        radius = PAIRS_SCALE * _look_up(RADIUS, OBJECT["size"], size) * (1 + 0.06 * vary())
        centre = PAIRS_SIZE / 2 + side * _look_up(PAIRS_OFFSET, RELATIONS, relation) + 0.7 * vary(2)
        picture = _paint(picture, centre, radius, vary.tone(OBJECT["colour"], colour), shape, texture, PAIRS_GRAIN)
    return (picture.clamp(0, 1) * 2 - 1) * RANGE


class _Varied:
    """Uniform draws from [-1, 1] for n pictures, in the order asked for; the same on every device."""

    def __init__(self, n: int, generator: torch.Generator | None, device: torch.device) -> None:
        self.n, self.generator, self.device = n, generator, device

    def __call__(self, *shape: int) -> Tensor:
        return (torch.rand(self.n, *shape, generator=self.generator) * 2 - 1).to(self.device)

    def tone(self, words: tuple[str, ...], index: Tensor) -> Tensor:
        """A colour a picture, (n, 3), close to its word's."""
        return _look_up(PALETTE, words, index) + 0.03 * self(3)


def _canvas(paper: Tensor, size: int) -> Tensor:
    return paper[..., None, None].expand(*paper.shape, size, size)


def _paint(picture: Tensor, centre: Tensor, radius: Tensor, ink: Tensor, shape: Tensor, texture: Tensor, grain: float = 1.0) -> Tensor:
    """One object a picture over what is there, its edges softened; `grain` scales the texture."""
    size, n = picture.shape[-1], len(picture)
    axis = (torch.arange(size * SUPERSAMPLE, device=picture.device) + 0.5) / SUPERSAMPLE
    dx = (axis[None, None, :] - centre[:, 0, None, None]).expand(n, len(axis), len(axis))
    dy = (axis[None, :, None] - centre[:, 1, None, None]).expand(n, len(axis), len(axis))
    inside = _inside(dx / radius[:, None, None], dy / radius[:, None, None], shape)
    dark = _dark(dx / grain, dy / grain, texture)

    def soften(mask: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(mask.float()[:, None], SUPERSAMPLE)

    cover, shade = soften(inside), soften(inside & dark)
    return picture * (1 - cover) + ink[..., None, None] * (cover - 0.75 * shade)


def _look_up(values: dict, words: tuple[str, ...], index: Tensor) -> Tensor:
    """The values of the words that are numbered by `index`."""
    return torch.tensor([values[word] for word in words], device=index.device)[index]


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
    chosen = torch.stack([tests[word] for word in OBJECT["shape"]], dim=1)
    return chosen[torch.arange(len(shape), device=shape.device), shape]


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
    chosen = torch.stack([tests[word] for word in OBJECT["texture"]], dim=1)
    return chosen[torch.arange(len(texture), device=texture.device), texture]
