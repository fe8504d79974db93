import pytest
import torch

from ddmd.errors import InputError
from ddmd.teachers.denoisers.latents import LatentScale, factor_and_moments, plain_scale, shifted_scale, standard_scale

CONFIG = {"scaling_factor": 0.5, "shift_factor": 0.1, "latents_mean": [-1.6, 1.9, -1.4, 2.5], "latents_std": [8.5, 5.9, 6.5, 5.2]}


def test_each_convention_reads_its_own_keys():
    mean, std = tuple(CONFIG["latents_mean"]), tuple(CONFIG["latents_std"])
    assert plain_scale(CONFIG) == LatentScale(0.5)
    assert shifted_scale(CONFIG) == LatentScale(0.5, (0.1,))
    assert shifted_scale({**CONFIG, "shift_factor": None}) == LatentScale(0.5)
    assert factor_and_moments(CONFIG, 4) == LatentScale(0.5, mean, std)
    assert factor_and_moments({**CONFIG, "latents_std": None}, 4) == LatentScale(0.5)
    assert standard_scale(CONFIG, 4) == LatentScale(1.0, mean, std)
    assert standard_scale({"latents_mean": 0.5, "latents_std": [2]}, 4) == LatentScale(1.0, (0.5,), (2.0,))


def test_scaling_and_back_by_channel_and_for_all():
    latents = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    scale = factor_and_moments(CONFIG, 4)
    raw = scale.to_autoencoder(latents)
    torch.testing.assert_close(raw[:, 1], latents[:, 1] * 5.9 / 0.5 + 1.9)
    torch.testing.assert_close(scale.from_autoencoder(raw), latents)
    torch.testing.assert_close(shifted_scale(CONFIG).to_autoencoder(latents), latents / 0.5 + 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents_std": [1.0, 2.0]}, "vae.latents_std: found 2 values; its latents have 4 channels"),
        ({"latents_std": [1.0, 0.0, 1.0, 1.0]}, "vae.latents_std.*above 0"),
        ({"latents_mean": ["a"] * 4}, "vae.latents_mean.*finite numbers"),
        ({"latents_mean": [float("nan")] * 4}, "vae.latents_mean.*finite numbers"),
        ({"scaling_factor": None}, "vae.scaling_factor: found None"),
        ({"scaling_factor": 0}, "vae.scaling_factor: found 0.0"),
    ],
)
def test_values_that_cannot_be_are_named(change, message):
    with pytest.raises(InputError, match=message):
        factor_and_moments(CONFIG | change, 4)
