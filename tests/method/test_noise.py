import pytest
import torch

from ddmd.method.noise import DiffusionPath, FlowPath, level_from_tau, shift_level
from ddmd.method.objective import classifier_free_guidance
from ddmd.method.student import uniform_grid


def sdxl_alphas():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def paths():
    for prediction in ("v", "eps", "x0"):
        yield pytest.param(FlowPath(1.0, prediction), id=f"flow-{prediction}")
        yield pytest.param(FlowPath(3.0, prediction), id=f"flow-shift3-{prediction}")
        yield pytest.param(DiffusionPath(sdxl_alphas(), prediction), id=f"diffusion-{prediction}")


@pytest.fixture
def tensors():
    g = torch.Generator().manual_seed(0)
    u = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)
    return torch.randn(4, 3, 2, 2, generator=g).double(), torch.randn(4, 3, 2, 2, generator=g).double(), u


def test_the_papers_time_and_the_level_renoise_alike(tensors):
    x0, eps, u = tensors
    tau = 1 - u
    printed = tau.view(-1, 1, 1, 1) * x0 + (1 - tau).view(-1, 1, 1, 1) * eps
    torch.testing.assert_close(FlowPath().add_noise(x0, level_from_tau(tau), eps), printed)


def test_shift_is_one_map_on_both_axes():
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    t = 1 - u
    torch.testing.assert_close(1 - shift_level(u, 3.0), t / (t + 3.0 * (1 - t)))


@pytest.mark.parametrize(
    ("shift", "steps", "expected"),
    [
        (1, 4, [1, 0.75, 0.5, 0.25]),
        (3, 4, [1, 0.9, 0.75, 0.5]),
        (6, 4, [1, 0.9474, 0.8571, 0.6667]),
        (3, 8, [1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3]),
        (6, 8, [1, 0.9767, 0.9474, 0.9091, 0.8571, 0.7826, 0.6667, 0.4615]),
    ],
)
def test_step_grids_after_the_shift(shift, steps, expected):
    sigma = FlowPath(shift).sigma(torch.tensor(uniform_grid(steps)))
    torch.testing.assert_close(sigma, torch.tensor(expected, dtype=torch.float64), atol=5e-5, rtol=0)


def test_sdxl_table_and_indices():
    path = DiffusionPath(sdxl_alphas())
    assert path.time(torch.tensor(uniform_grid(4))).tolist() == [999, 749, 499, 249]
    assert path.time(torch.tensor(uniform_grid(8))).tolist() == [999, 874, 749, 624, 499, 374, 249, 124]
    for index, abar, ratio in [
        (20, 0.98131, 0.138),
        (249, 0.67543, 0.693),
        (499, 0.27767, 1.613),
        (749, 0.05662, 4.082),
        (999, 0.00466, 14.62),
    ]:
        a, s = path.coefficients(torch.tensor([(index + 1) / 1000]))
        assert a.item() ** 2 == pytest.approx(abar, abs=1e-5)
        assert (s / a).item() == pytest.approx(ratio, rel=2e-3)
    assert path.coefficients(torch.tensor([0.0]))[1].item() == 0


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [(0.0, 1.0, 0, 999), (0.02, 0.98, 20, 980), (0.95, 1.0, 950, 999), (0.0, 0.001, 0, 1), (0.3, 0.3001, 300, 300), (0.29, 0.7, 290, 700)],
)
def test_a_range_on_a_table_is_all_its_indices_and_no_other(low, high, first, last):
    path = DiffusionPath(sdxl_alphas())
    draw = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    found, counts = path.time(path.levels(draw, low, high)).unique(return_counts=True)
    assert found.tolist() == list(range(first, last + 1))
    assert counts.max() - counts.min() <= 1  # every index alike
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert path.time(path.levels(ends, low, high)).tolist() == [first, last]


def test_a_range_between_two_entries_holds_no_level():
    path = DiffusionPath(sdxl_alphas())
    assert not path.holds(0.5001, 0.5009) and not path.holds(0.9995, 1.0)
    assert path.holds(0.5, 0.5009) and path.holds(0.0, 0.0005)
    assert FlowPath().holds(0.5001, 0.5009)


def test_a_range_on_a_flow_path_is_half_open():
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    found = FlowPath().levels(ends, 0.02, 0.98).tolist()
    assert found[0] == 0.02 and 0.98 - 1e-12 < found[1] < 0.98
    assert (FlowPath().levels(ends, 0.02, 0.98, torch.tensor([0.25, 0.25])) < 0.25).all()


@pytest.mark.parametrize("path", paths())
def test_every_prediction_returns_to_x0_and_back(path, tensors):
    x0, eps, u = tensors
    x = path.add_noise(x0, u, eps)
    output = path.target(x0, eps, u)
    torch.testing.assert_close(path.to_x0(output, x, u), x0)
    torch.testing.assert_close(path.to_eps(x0, x, u), eps)
    torch.testing.assert_close(path.to_output(x0, x, u), output)


@pytest.mark.parametrize("path", paths())
def test_guidance_commutes_with_the_conversion(path, tensors):
    cond, uncond, u = tensors
    x = torch.randn(cond.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    after = classifier_free_guidance(path.to_x0(cond, x, u), path.to_x0(uncond, x, u), 4.0)
    before = path.to_x0(classifier_free_guidance(cond, uncond, 4.0), x, u)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("path", paths())
def test_score_differences_point_along_x0_differences(path, tensors):
    one, other, u = tensors
    x = torch.randn_like(one)
    score = path.score(one, x, u) - path.score(other, x, u)
    ratio = score / (one - other)
    assert (ratio > 0).all()
    assert ratio.flatten(1).std(1).max() < 1e-9 * ratio.max()  # one positive factor per sample


def test_flow_velocity_has_diffusers_sign(tensors):
    x0, eps, u = tensors
    torch.testing.assert_close(FlowPath().target(x0, eps, u), eps - x0)
    x = FlowPath().add_noise(x0, u, eps)
    torch.testing.assert_close(x + (0 - u).view(-1, 1, 1, 1) * (eps - x0), x0)  # one Euler step to sigma 0


def test_bf16_outputs_are_converted_in_float32():
    x = torch.randn(1, 3, 2, 2, dtype=torch.bfloat16)
    assert FlowPath().to_x0(x, x, torch.tensor([0.5])).dtype == torch.float32


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="prediction"):
        FlowPath(1.0, "noise")
    with pytest.raises(ValueError, match="shift"):
        FlowPath(0.0)
