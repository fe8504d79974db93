import pytest
import torch
from test_noise import sdxl_alphas

from ddmd.method.noise import DiffusionPath, FlowPath
from ddmd.method.student import check_grid, sample, simulate, uniform_grid, walk


class Counting:
    """A fixed nonlinear 'student' that records its calls and whether a graph was on."""

    def __init__(self):
        self.levels, self.graphs, self.inputs = [], [], []
        self.weight = torch.nn.Parameter(torch.tensor(0.7))

    def __call__(self, z, u):
        self.levels.append(u[0].item())
        self.inputs.append(z)
        self.graphs.append(torch.is_grad_enabled())
        return torch.tanh(self.weight * z) * (1 - u.to(z.dtype).view(-1, 1, 1, 1) / 2)


PATHS = [FlowPath(), FlowPath(3.0), DiffusionPath(sdxl_alphas())]


def noise(seed=0):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", ["sde", "ode"])
@pytest.mark.parametrize("rung", [0, 1, 2, 3])
def test_simulation_stops_on_the_samplers_own_trajectory(path, sampler, rung):
    """Training's input at a rung is bit for bit what inference feeds the student there."""
    grid, start = uniform_grid(4), noise()
    inference = Counting()
    sample(inference, path, grid, start, sampler, torch.Generator().manual_seed(7))
    training = Counting()
    z = simulate(training, path, grid, rung, start, sampler, torch.Generator().manual_seed(7))
    assert torch.equal(z, inference.inputs[rung])
    assert training.levels == list(grid[:rung])  # k - 1 calls before the k-th
    assert not any(training.graphs)
    assert not z.requires_grad
    assert torch.equal(inference.inputs[0], start)  # pure noise, not noise added to something


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_sampling_ends_at_the_last_clean_prediction(path, sampler):
    predict = Counting()
    x = sample(predict, path, uniform_grid(3), noise(), sampler, torch.Generator().manual_seed(0))
    steps = list(walk(Counting(), path, (*uniform_grid(3), 0.0), noise(), sampler, torch.Generator().manual_seed(0)))
    assert predict.levels == list(uniform_grid(3))
    assert torch.equal(x, steps[-1][0].detach())


def test_the_ode_sampler_is_euler_on_a_flow_path():
    path, z, predict = FlowPath(3.0), noise(), Counting()
    levels = (*uniform_grid(4), 0.0)
    sigmas = path.sigma(torch.tensor(levels)).tolist()
    expected = z
    for level, s, s_next in zip(levels, sigmas, sigmas[1:], strict=False):
        v = (expected - predict(expected, torch.full((2,), level))) / s
        expected = expected + (s_next - s) * v
    torch.testing.assert_close(sample(Counting(), path, uniform_grid(4), z, "ode"), expected.detach())


def test_samplers_are_diffusers_own():
    """`sde` is LCMScheduler and `ode` is DDIM with trailing spacing, on SDXL's table."""
    from diffusers import DDIMScheduler, LCMScheduler

    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    for sampler, scheduler in {
        "sde": LCMScheduler(**settings, original_inference_steps=4),
        "ode": DDIMScheduler(**settings, timestep_spacing="trailing", set_alpha_to_one=True),
    }.items():
        scheduler.set_timesteps(4)
        path = DiffusionPath(scheduler.alphas_cumprod, "eps")

        def epsilon(z, index):
            return torch.tanh(z) * (0.5 + index / 2000)

        z, stock = noise(), noise()
        generator = torch.Generator().manual_seed(3)
        for t in scheduler.timesteps:
            stock = scheduler.step(epsilon(stock, t), t, stock, **({"generator": generator} if sampler == "sde" else {})).prev_sample

        def predict(z, u, path=path):
            return path.to_x0(epsilon(z, path.time(u).view(-1, 1, 1, 1)), z, u)

        ours = sample(predict, path, uniform_grid(4), z, sampler, torch.Generator().manual_seed(3))
        torch.testing.assert_close(ours, stock, atol=2e-5 * stock.abs().max().item(), rtol=0)


def test_grids():
    assert uniform_grid(1) == (1.0,)
    assert check_grid([1, 0.6, 0.2]) == (1.0, 0.6, 0.2)
    for bad in ([], [0.9, 0.5], [1, 0.5, 0.5], [1, 0.5, 0]):
        with pytest.raises(ValueError, match="grid"):
            check_grid(bad)
    with pytest.raises(ValueError, match="steps"):
        uniform_grid(0)
