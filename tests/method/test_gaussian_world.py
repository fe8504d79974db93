"""The method on worlds with closed-form scores: what each part does, without any network.

The fake model is the exact denoiser of the generator's own law at every moment, which no training can better.
"""

import pytest
import torch
from worlds import AffineGenerator, Gaussian

from ddmd.method.noise import FlowPath
from ddmd.method.objective import Branches, decoupled_direction, proxy_loss
from ddmd.method.renoise import RenoiseSchedule

PATH = FlowPath()


def distil(cond, uncond, alpha, *, ca=1.0, dm=1.0, sign=1.0, cycles=2500, lr=0.02, batch=256, start=None, name="full"):
    """Train an affine one-step generator in a Gaussian world; returns it and the history of (mean, sd)."""
    dims = len(cond.mean)
    g = torch.Generator().manual_seed(0)
    generator = start or AffineGenerator.start(dims)
    optimizer = torch.optim.SGD([generator.m, generator.root], lr=lr)
    schedule = RenoiseSchedule(name, clamp=(0.0, 1.0))
    history = []
    for _ in range(cycles):
        fake = generator.law()
        x = generator.sample(torch.randn(batch, dims, generator=g).double())
        u_ca, u_dm = schedule.draw(torch.ones(batch, dtype=torch.float64), PATH, g)
        with torch.no_grad():
            x_dm = PATH.add_noise(x, u_dm, torch.randn(batch, dims, generator=g).double())
            x_ca = PATH.add_noise(x, u_ca, torch.randn(batch, dims, generator=g).double())
            said = Branches(
                x.detach(), cond.x0(PATH, x_dm, u_dm), fake.x0(PATH, x_dm, u_dm), cond.x0(PATH, x_ca, u_ca), uncond.x0(PATH, x_ca, u_ca)
            )
        direction = decoupled_direction(said, alpha, "none", ca_weight=ca, dm_weight=dm).total
        loss = proxy_loss(x, sign * direction) * dims
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        covariance = generator.law().covariance
        history.append((generator.m.detach().clone(), covariance))
        if not torch.isfinite(generator.m).all() or generator.m.abs().max() > 1e3:
            break
    return history


def gaussian(mean, covariance):
    return Gaussian(torch.tensor(mean).double(), torch.tensor(covariance).double())


COND, UNCOND = gaussian([1.0], [[0.25]]), gaussian([0.0], [[1.0]])


def summary(history):
    mean, covariance = history[-1]
    return mean[0].item(), covariance[0, 0].item() ** 0.5


def test_dm_alone_recovers_the_conditional():
    mean, sd = summary(distil(COND, UNCOND, 3.0, ca=0.0))
    assert mean == pytest.approx(1.0, abs=0.03)
    assert sd == pytest.approx(0.5, abs=0.03)


def test_ca_alone_drifts_and_collapses():
    history = distil(COND, UNCOND, 3.0, dm=0.0)
    mean, sd = summary(history)
    halfway_sd = history[len(history) // 2][1].item() ** 0.5
    assert mean > 3.0
    assert sd < 0.25
    assert sd < 0.8 * halfway_sd  # and still falling


def gain(variance):
    """Slope of E[x0 | x_u] in x0, averaged over uniform levels: integral of v (1-u)^2 / (v (1-u)^2 + u^2)."""
    u = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    return torch.trapezoid(variance * (1 - u) ** 2 / (variance * (1 - u) ** 2 + u**2), u).item()


def fixed_point(alpha):
    """Where the expected direction vanishes for N(1, .25) against N(0, 1), by hand: it is affine in x for a Gaussian law."""
    cond, uncond = gain(0.25), gain(1.0)
    mean = alpha * (1 - cond) / (1 + (alpha - 1) * uncond - alpha * cond)
    wanted, low, high = alpha * cond - (alpha - 1) * uncond, 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle) < wanted else (low, middle)
    return mean, low**0.5


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_both_together_stay_at_the_fixed_point(alpha):
    history = distil(COND, UNCOND, alpha, cycles=3000)
    mean, sd = fixed_point(alpha)
    assert summary(history) == (pytest.approx(mean, rel=0.03), pytest.approx(sd, abs=0.05))
    assert history[len(history) // 2][0].item() == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("flipped", [{"sign": -1.0}, {"dm": -1.0}])
def test_a_flipped_sign_diverges(flipped):
    history = distil(COND, UNCOND, 3.0, lr=0.1, **flipped)
    mean, sd = summary(history)
    assert len(history) < 2500 or abs(mean) > 20 or sd > 20


def test_in_two_dimensions_dm_recovers_a_tilted_conditional():
    cond, uncond = gaussian([1.0, -0.5], [[0.5, 0.3], [0.3, 0.4]]), gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    mean, covariance = distil(cond, uncond, 3.0, ca=0.0, cycles=4000)[-1]
    torch.testing.assert_close(mean, cond.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(covariance, cond.covariance, atol=0.06, rtol=0)
    guided, narrower = distil(cond, uncond, 3.0, cycles=4000)[-1]
    assert guided @ (cond.mean - uncond.mean) > cond.mean @ (cond.mean - uncond.mean)
    assert narrower.trace() < cond.covariance.trace()
    collapsed = distil(cond, uncond, 3.0, dm=0.0, cycles=4000)[-1][1]
    assert collapsed.trace() < cond.covariance.trace()
