"""An independent implementation of coupled DMD as the oracle: NVIDIA's modelopt.torch.fastgen (test-only)."""

import warnings

import pytest
import torch

from ddmd.method.noise import DiffusionPath, FlowPath
from ddmd.method.objective import Branches, classifier_free_guidance, decoupled_direction, fake_loss, proxy_loss

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    fastgen = pytest.importorskip("modelopt.torch.fastgen", reason="nvidia-modelopt is not installed", exc_type=ImportError)
    from modelopt.torch.fastgen import flow_matching, losses
    from modelopt.torch.fastgen.utils import classifier_free_guidance as their_guidance

CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture
def world():
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn((4, 3, 6, 6), generator=g, dtype=torch.float64) for _ in range(4)]
    return (*tensors, torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64))


def test_guidance(world):
    cond, uncond, *_ = world
    torch.testing.assert_close(classifier_free_guidance(cond, uncond, 5.0), their_guidance(cond, uncond, 5.0), **CLOSE)


def test_add_noise_and_conversions(world):
    x0, eps, output, _, u = world
    path = FlowPath()
    x = path.add_noise(x0, u, eps)
    torch.testing.assert_close(x, flow_matching.add_noise(x0, eps, u), **CLOSE)
    torch.testing.assert_close(path.to_x0(output, x, u), flow_matching.pred_x0_from_flow(output, x, u), **CLOSE)
    torch.testing.assert_close(path.to_eps(x0, x, u), flow_matching.x0_to_eps(x0, x, u), **CLOSE)
    torch.testing.assert_close(path.to_output(x0, x, u), flow_matching.x0_to_flow(x0, x, u), **CLOSE)


def test_coupled_gradient(world):
    x, cond, uncond, fake, _ = world
    guided = classifier_free_guidance(cond, uncond, 8.0)
    theirs, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    losses.vsd_loss(theirs, guided, fake).backward()
    direction = decoupled_direction(Branches(ours, cond, fake, cond, uncond), 8.0, "dmd2")
    loss = proxy_loss(ours, direction.total)
    loss.backward()
    torch.testing.assert_close(ours.grad * ours.numel(), theirs.grad * theirs.numel(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["x0", "eps", "flow", "v"])
def test_fake_loss(world, kind):
    x0, eps, output, _, u = world
    abar = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64)
    path = FlowPath(1.0, "v") if kind == "flow" else DiffusionPath(abar, kind)
    extra = {"t": u, "alpha_fn": lambda t: path.coefficients(t)[0], "sigma_fn": lambda t: path.coefficients(t)[1]} if kind == "v" else {}
    theirs = losses.dsm_loss(kind, output, x0=x0, eps=eps, **extra)
    torch.testing.assert_close(fake_loss(output, path.target(x0, eps, u)).double(), theirs, **CLOSE)
