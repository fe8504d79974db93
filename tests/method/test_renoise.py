import pytest
import torch
from test_noise import sdxl_alphas

from ddmd.method.noise import DiffusionPath, FlowPath, shift_level
from ddmd.method.renoise import RULES, RenoiseSchedule

N = 20_000


def draw(name, u_gen, path=None, **kwargs):
    levels = torch.full((N,), u_gen, dtype=torch.float64)
    return RenoiseSchedule(name, **kwargs).draw(levels, path or FlowPath(), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("u_gen", [1.0, 0.75, 0.5, 0.25])
def test_ranges_of_every_schedule(name, u_gen):
    rule = RULES[name]
    for level, below in zip(draw(name, u_gen), (rule.ca_below, rule.dm_below), strict=True):
        top = min(u_gen, 0.98) if below else 0.98
        assert level.min() >= 0.02
        assert level.max() < top
        # Uniform on exactly [0.02, top): its ends are approached and its mean is the middle.
        assert level.min() < 0.02 + 0.01
        assert level.max() > top - 0.01
        assert level.mean().item() == pytest.approx((0.02 + top) / 2, abs=0.01)


@pytest.mark.parametrize("name", RULES)
def test_coupling(name):
    ca, dm = draw(name, 0.5)
    if RULES[name].coupled:
        assert torch.equal(ca, dm)
    else:
        assert abs(torch.corrcoef(torch.stack([ca, dm]))[0, 1]) < 0.03


def test_the_default_is_the_papers_hybrid():
    ca, dm = draw(RenoiseSchedule().name, 0.25)
    assert ca.max() < 0.25  # the paper's tau_CA > t
    assert dm.max() > 0.9


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("u_gen", [1.0, 0.75, 0.5, 0.3, 0.25, 0.125])
@pytest.mark.parametrize(("clamp", "first", "last"), [((0.02, 0.98), 20, 980), ((0.0, 1.0), 0, 999)])
def test_diffusion_indices_are_dmd2s_and_strictly_below_the_generators(name, u_gen, clamp, first, last):
    """Every index of the range is drawn, both ends included, and none besides: never the clean image."""
    rule, path = RULES[name], DiffusionPath(sdxl_alphas())
    below = path.time(torch.tensor([u_gen])).item() - 1
    for level, under in zip(draw(name, u_gen, path, clamp=clamp), (rule.ca_below, rule.dm_below), strict=True):
        found = path.time(level).unique().tolist()
        assert found == list(range(first, (min(last, below) if under else last) + 1))
        assert (path.coefficients(level)[1] > 0).all()


def test_a_diffusion_generator_below_the_clamp_uses_its_lower_bound():
    path = DiffusionPath(sdxl_alphas())
    assert path.time(draw("constrained", 0.02, path)[0]).unique().tolist() == [20]
    assert path.time(draw("constrained", 0.001, path, clamp=(0.0, 1.0))[0]).unique().tolist() == [0]


def test_restrict_then_shift_gives_the_authors_example():
    """u restricted below 0.25, then shift 3: sigma in [0, 0.5], and the law is the shifted uniform, not a uniform."""
    ca, _ = draw("hybrid", 0.25, clamp=(0.0, 1.0))
    sigma = FlowPath(3.0).sigma(ca)
    assert sigma.max() <= shift_level(torch.tensor(0.25), 3.0) == 0.5
    for quantile in (0.25, 0.5, 0.75):
        expected = shift_level(torch.tensor(0.25 * quantile), 3.0).item()
        assert sigma.quantile(quantile).item() == pytest.approx(expected, abs=0.01)


def test_a_generator_below_the_clamp_uses_its_lower_bound():
    ca, dm = draw("constrained", 0.01)
    assert (ca == 0.02).all()
    assert (dm == 0.02).all()


def test_windows_replace_a_branchs_range():
    ca, dm = draw("hybrid", 0.25, ca_window=(0.95, 1.0), dm_window=(0.4, 0.5))
    assert ca.min() >= 0.95
    assert ca.max() < 0.98  # still clamped
    assert dm.min() >= 0.4
    assert dm.max() < 0.5
    path = DiffusionPath(sdxl_alphas())
    ca, dm = (path.time(level) for level in draw("hybrid", 0.25, path, ca_window=(0.95, 1.0), dm_window=(0.4, 0.5)))
    assert ca.unique().tolist() == list(range(950, 981))
    assert dm.unique().tolist() == list(range(400, 501))


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"name": "decoupled"}, "schedule"),
        ({"clamp": (0.5, 0.2)}, "clamp"),
        ({"ca_window": (0.2, 1.5)}, "ca_window"),
        ({"ca_window": (0.98, 1.0)}, "ca_window: found .* outside clamp"),
        ({"dm_window": (0.0, 0.02)}, "dm_window: found .* outside clamp"),
        ({"name": "coupled", "clamp": (0.1, 0.5), "ca_window": (0.6, 0.7), "dm_window": (0.6, 0.7)}, "outside clamp"),
        ({"name": "coupled", "ca_window": (0.1, 0.2)}, "coupled"),
    ],
)
def test_impossible_schedules_are_refused(kwargs, named):
    with pytest.raises(ValueError, match=named):
        RenoiseSchedule(**kwargs)
