"""One noise axis, and every conversion between what networks predict.

Inside ddmd a noise level is `u` in [0, 1], before any time shift: 1 is pure noise, 0 is clean data. The paper's time
is tau = 1 - u. A `NoisePath` turns a level into the signal and noise coefficients of

    x_u = a(u) * x0 + s(u) * eps

and into the time argument of a network. Levels are float64 tensors of shape (B,), images have shape (B, ...).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["v", "eps", "x0"]


def shift_level(u: Tensor, shift: float) -> Tensor:
    """Time shift of flow models: sigma = shift * u / (1 + (shift - 1) * u). On the paper's axis it is the same map."""
    return shift * u / (1 + (shift - 1) * u)


def unshift_level(sigma: Tensor, shift: float) -> Tensor:
    """The inverse of `shift_level`, which is the shift by its reciprocal."""
    return shift_level(sigma, 1 / shift)


def level_from_tau(tau: Tensor) -> Tensor:
    """The paper's time (0 noise, 1 clean) as a level."""
    return 1 - tau


class NoisePath(ABC):
    """A family of noisy versions of an image and the algebra between x0, eps, v and the score on it.

    `prediction` names what the network answers, in diffusers' sign: eps, x0, or v = da/du-like velocity, which is
    eps - x0 on a flow path and a * eps - s * x0 on a diffusion path.
    """

    def __init__(self, prediction: Prediction) -> None:
        if prediction not in get_args(Prediction):
            raise ValueError(f"prediction: found {prediction!r}; use one of {', '.join(get_args(Prediction))}")
        self.prediction = prediction

    @abstractmethod
    def coefficients(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Signal a(u) and noise s(u), in float64, shaped as `u`."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """What the network is told: sigma on a flow path, the integer index on a diffusion path."""

    @abstractmethod
    def levels(self, draw: Tensor, low: float, high: float, below: Tensor | None = None) -> Tensor:
        """Levels between two others, spread as `draw` (B,) is spread over [0, 1), at which a network may be asked.

        With `below` (B,) they are strictly under those levels too. Where nothing is left, `low` is used.
        """

    @abstractmethod
    def holds(self, low: float, high: float) -> bool:
        """Whether there are any levels between two others."""

    @abstractmethod
    def _v_to_x0(self, v: Tensor, x: Tensor, a: Tensor, s: Tensor) -> Tensor: ...

    @abstractmethod
    def _x0_eps_to_v(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor: ...

    def _broadcast(self, u: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (like.ndim - 1)
        a, s = self.coefficients(u)
        # At least float32, so that bf16 networks do not round the differences that the method is made of.
        dtype = torch.promote_types(like.dtype, torch.float32)
        return a.to(like.device, dtype).view(shape), s.to(like.device, dtype).view(shape)

    def add_noise(self, x0: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """x_u = a * x0 + s * eps."""
        a, s = self._broadcast(u, x0)
        return a * x0 + s * eps

    def to_x0(self, output: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """The network's output as a prediction of the clean image, in float32 or better."""
        a, s = self._broadcast(u, x)
        output, x = output.to(a.dtype), x.to(a.dtype)
        if self.prediction == "x0":
            return output
        if self.prediction == "eps":
            return (x - s * output) / a
        return self._v_to_x0(output, x, a, s)

    def target(self, x0: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """What a perfect network would output for x_u made of x0 and eps: the regression target in native space."""
        if self.prediction == "x0":
            return x0
        if self.prediction == "eps":
            return eps
        a, s = self._broadcast(u, x0)
        return self._x0_eps_to_v(x0, eps, a, s)

    def to_eps(self, x0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """The noise implied by a clean prediction: eps = (x - a * x0) / s. Undefined at u = 0."""
        a, s = self._broadcast(u, x)
        return (x - a * x0) / s

    def to_output(self, x0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """The inverse of `to_x0`: a clean prediction in the network's own space."""
        return self.target(x0, self.to_eps(x0, x, u), u) if self.prediction != "x0" else x0

    def score(self, x0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """grad log p_u(x) = (a * x0 - x) / s^2. Its differences have the sign of x0 differences."""
        a, s = self._broadcast(u, x)
        return (a * x0 - x) / s**2


class FlowPath(NoisePath):
    """Flow matching: a = 1 - sigma, s = sigma, with sigma the time-shifted level; v = eps - x0."""

    def __init__(self, shift: float = 1.0, prediction: Prediction = "v") -> None:
        super().__init__(prediction)
        if shift <= 0:
            raise ValueError(f"shift: found {shift}; it must be positive (1 is no shift)")
        self.shift = shift

    def sigma(self, u: Tensor) -> Tensor:
        """The shifted level, in float64."""
        return shift_level(u.double(), self.shift)

    def coefficients(self, u: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma(u)
        return 1 - sigma, sigma

    def time(self, u: Tensor) -> Tensor:
        return self.sigma(u).float()

    def levels(self, draw: Tensor, low: float, high: float, below: Tensor | None = None) -> Tensor:
        """On [low, high), every level alike; see `NoisePath.levels`."""
        upper = torch.full_like(draw, high)
        if below is not None:
            upper = torch.minimum(upper, below)
        # Rounding can lift low + (upper - low) * draw to upper itself; the level stays strictly below it.
        inside = torch.minimum(low + (upper - low) * draw, torch.nextafter(upper, torch.zeros_like(upper)))
        return inside.clamp(min=low)

    def holds(self, low: float, high: float) -> bool:
        return low < high

    def _v_to_x0(self, v: Tensor, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x - s * v

    def _x0_eps_to_v(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return eps - x0


class DiffusionPath(NoisePath):
    """Variance-preserving diffusion (SD1.5, SDXL): a = sqrt(abar), s = sqrt(1 - abar), v = a * eps - s * x0.

    Level u stands for index floor(T * u) - 1 of a table of T cumulative alphas: 1 is the last index (999), and
    u = 0 lies before the first, where the image is clean. No shift: uniform in u is uniform in the index, as the author says.

    A range to draw from is one of indices, T * low to T * high, both drawn: DMD2's 20 to 980 for [0.02, 0.98], and
    0 to 999 for [0, 1]. The clean image has no index and is never drawn: there is no noise in it to predict.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction: Prediction = "eps") -> None:
        super().__init__(prediction)
        self.table = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod.detach().double().cpu()])

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the image is left at level 1 (zero terminal SNR)."""
        return bool(self.table[-1] == 0)

    def _place(self, u: Tensor) -> Tensor:
        # Levels such as 0.3 are not exact in binary; 1e-6 of an index keeps 0.3 * 1000 at 300.
        return torch.floor(u.double() * (len(self.table) - 1) + 1e-6).long()

    def _indices(self, low: float, high: float) -> tuple[int, int]:
        """The first and the last index of a range."""
        total = len(self.table) - 1
        return math.ceil(low * total - 1e-6), min(math.floor(high * total + 1e-6), total - 1)

    def levels(self, draw: Tensor, low: float, high: float, below: Tensor | None = None) -> Tensor:
        """At the indices of a range, every one alike; see `NoisePath.levels`."""
        first, last = self._indices(low, high)
        upper = torch.full_like(draw, last)
        if below is not None:
            upper = torch.minimum(upper, self._place(below).to(draw) - 2)  # the index under that level's
        index = first + torch.floor(draw * (upper - first + 1).clamp(min=1))
        return (index + 1) / (len(self.table) - 1)

    def holds(self, low: float, high: float) -> bool:
        first, last = self._indices(low, high)
        return first <= last

    def coefficients(self, u: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.table.to(u.device)[self._place(u)]
        return abar.sqrt(), (1 - abar).sqrt()

    def time(self, u: Tensor) -> Tensor:
        return (self._place(u) - 1).clamp(min=0)

    def _v_to_x0(self, v: Tensor, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * x - s * v

    def _x0_eps_to_v(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * eps - s * x0
