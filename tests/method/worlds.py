"""Gaussian worlds whose teacher, unconditional and fake scores are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddmd.method.noise import NoisePath


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) in D dimensions, and what a perfect denoiser says about its noisy samples."""

    mean: Tensor
    covariance: Tensor

    def x0(self, path: NoisePath, x: Tensor, u: Tensor) -> Tensor:
        """E[x0 | x_u = x] = mean + a C (a^2 C + s^2 I)^-1 (x - a mean)."""
        a, s = (c.to(x.dtype) for c in path.coefficients(u))
        eye = torch.eye(len(self.mean), dtype=x.dtype)
        noisy = a[:, None, None] ** 2 * self.covariance + s[:, None, None] ** 2 * eye
        return self.mean + (a[:, None] * torch.linalg.solve(noisy, x - a[:, None] * self.mean)) @ self.covariance.T


@dataclass
class AffineGenerator:
    """x = m + L z: a one-step student whose own law is Gaussian, so that its fake model is exact at every moment."""

    m: Tensor
    root: Tensor

    @classmethod
    def start(cls, dims: int, mean: float = 0.0, sd: float = 1.0) -> AffineGenerator:
        return cls(torch.full((dims,), mean).double().requires_grad_(), (sd * torch.eye(dims)).double().requires_grad_())

    def sample(self, z: Tensor) -> Tensor:
        return self.m + z @ self.root.T

    def law(self) -> Gaussian:
        root = self.root.detach()
        return Gaussian(self.m.detach(), root @ root.T)
