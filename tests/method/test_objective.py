import pytest
import torch

from ddmd.method.objective import (
    Branches,
    calibrate_mean_variance,
    cfg_augmentation,
    classifier_free_guidance,
    decoupled_direction,
    distribution_matching,
    mean_abs,
    mean_variance_loss,
    proxy_loss,
)

SHAPE = (3, 4, 5, 5)


@pytest.fixture
def branches():
    g = torch.Generator().manual_seed(0)
    return Branches(*(torch.randn(SHAPE, generator=g, dtype=torch.float64) for _ in range(5)))


def coupled(b):
    return Branches(b.x, b.cond_dm, b.fake_dm, b.cond_dm, b.uncond_ca)


def test_eq6_is_the_guided_teacher_minus_the_fake(branches):
    b = coupled(branches)
    for alpha in (1.0, 4.0, 8.0):
        split = distribution_matching(b.cond_dm, b.fake_dm) + cfg_augmentation(b.cond_ca, b.uncond_ca, alpha)
        torch.testing.assert_close(split, classifier_free_guidance(b.cond_ca, b.uncond_ca, alpha) - b.fake_dm)
        torch.testing.assert_close(decoupled_direction(b, alpha, "none").total, split)


def test_dmd2_normaliser_on_a_coupled_schedule_is_dmds(branches):
    b = coupled(branches)
    guided = classifier_free_guidance(b.cond_ca, b.uncond_ca, 8.0)
    torch.testing.assert_close(decoupled_direction(b, 8.0, "dmd2").total, (guided - b.fake_dm) / mean_abs(b.x - guided))


def test_per_branch_divides_each_branch_by_its_own_distance(branches):
    b = branches
    found = decoupled_direction(b, 4.0)
    torch.testing.assert_close(found.dm, (b.cond_dm - b.fake_dm) / mean_abs(b.x - b.cond_dm))
    torch.testing.assert_close(found.ca, 3.0 * (b.cond_ca - b.uncond_ca) / mean_abs(b.x - b.cond_ca))
    torch.testing.assert_close(found.total, found.dm + found.ca)


def test_shared_divides_both_by_the_dm_distance(branches):
    b = branches
    found = decoupled_direction(b, 4.0, "shared")
    torch.testing.assert_close(found.ca, 3.0 * (b.cond_ca - b.uncond_ca) / mean_abs(b.x - b.cond_dm))


def test_weights_scale_their_branches(branches):
    whole, half = decoupled_direction(branches, 4.0), decoupled_direction(branches, 4.0, ca_weight=0.5, dm_weight=2.0)
    torch.testing.assert_close(half.total, 0.5 * whole.ca + 2.0 * whole.dm)


def test_alpha_one_leaves_no_engine_and_a_perfect_fake_no_regulariser(branches):
    assert decoupled_direction(branches, 1.0).ca.abs().max() == 0
    b = Branches(branches.x, branches.cond_dm, branches.cond_dm, branches.cond_ca, branches.uncond_ca)
    assert decoupled_direction(b, 4.0).dm.abs().max() == 0


def test_alpha_per_sample(branches):
    alpha = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).view(3, 1, 1, 1)
    found = decoupled_direction(branches, alpha)
    for i in range(3):
        torch.testing.assert_close(found.ca[i], decoupled_direction(branches, alpha[i].item()).ca[i])


@pytest.mark.parametrize("normalizer", ["per_branch", "dmd2", "shared"])
def test_normalisers_are_blind_to_scale(branches, normalizer):
    scaled = Branches(*(10 * getattr(branches, k) for k in ("x", "cond_dm", "fake_dm", "cond_ca", "uncond_ca")))
    one, ten = decoupled_direction(branches, 4.0, normalizer), decoupled_direction(scaled, 4.0, normalizer)
    torch.testing.assert_close(one.total, ten.total)
    assert decoupled_direction(scaled, 4.0, "none").total.abs().mean() > 9 * decoupled_direction(branches, 4.0, "none").total.abs().mean()


def test_the_floor_holds_where_the_teacher_returns_x(branches):
    b = Branches(branches.x, branches.x, branches.fake_dm)
    found = decoupled_direction(b, 4.0, floor=0.1)
    torch.testing.assert_close(found.total, (branches.x - branches.fake_dm) / 0.1)
    assert found.nonfinite == 0


def test_nonfinite_values_are_zeroed_and_counted(branches):
    broken = branches.cond_dm.clone()
    broken[0, 0, 0, 0], broken[1, 0, 0, 0] = float("nan"), float("inf")
    found = decoupled_direction(Branches(branches.x, broken, branches.fake_dm), 4.0, "none")
    assert found.nonfinite == pytest.approx(2 / branches.x.numel(), rel=1e-5)
    assert all(torch.isfinite(part).all() for part in (found.total, found.dm, found.ca))
    assert found.total[0, 0, 0, 0] == found.total[1, 0, 0, 0] == 0
    torch.testing.assert_close(found.total, found.dm + found.ca)


def test_a_direction_without_a_finite_value_says_so(branches):
    lost = torch.full_like(branches.x, float("nan"))
    found = decoupled_direction(Branches(branches.x, branches.cond_dm, branches.fake_dm, branches.cond_ca, lost), 4.0)
    assert found.nonfinite == 1


def test_proxy_loss_gradient_and_direction():
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    for scale in (0.5, 1.0):
        (gradient,) = torch.autograd.grad(proxy_loss(x, direction, scale), x)
        torch.testing.assert_close(gradient, -2 * scale * direction.detach() / x.numel())
    stepped = x - 0.1 * x.numel() * gradient
    goal = (x + direction).detach()
    assert (stepped - goal).norm() < (x - goal).norm()
    proxy_loss(x, direction).backward()
    assert direction.grad is None


def test_mean_variance_is_zero_only_at_its_targets():
    g = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, 8, 8), generator=g, dtype=torch.float64)
    x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), correction=0, keepdim=True) * 0.9 + 0.075
    assert mean_variance_loss(x, 0.075, 0.81).item() == pytest.approx(0, abs=1e-12)
    assert mean_variance_loss(x + 0.2, 0.075, 0.81) > 1e-3
    assert mean_variance_loss(1.3 * x, 0.075, 0.81) > 1e-3
    assert mean_variance_loss(0.7 * x, 0.075, 0.81) > 1e-3


def test_mean_variance_matches_torchs_kl_and_pulls_back():
    x = (2 * torch.randn((1, 3, 8, 8), dtype=torch.float64) + 1).requires_grad_()
    normal = torch.distributions.Normal
    own = normal(x.mean(), x.std(correction=0))
    expected = torch.distributions.kl_divergence(own, normal(torch.tensor(0.1).double(), torch.tensor(0.8).double()))
    loss = mean_variance_loss(x, 0.1, 0.64)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    after = (x - 50 * x.grad).detach()
    assert abs(after.mean() - 0.1) < abs(x.mean() - 0.1)
    assert after.var() < x.var()


def test_calibration_recovers_known_statistics():
    g = torch.Generator().manual_seed(0)
    latents = 0.9 * torch.randn((64, 4, 32, 32), generator=g) + 0.075
    mean, variance = calibrate_mean_variance(latents)
    assert mean == pytest.approx(0.075, abs=0.005)
    assert variance == pytest.approx(0.81, abs=0.005)
