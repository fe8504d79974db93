"""How many images are drawn at once: bounded by their pixels."""

from types import SimpleNamespace

import pytest

from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.sampling import at_once
from tiny import save_twin


@pytest.mark.parametrize(("pixels", "images"), [(32, 50), (256, 50), (512, 16), (1024, 4), (2048, 1), (4096, 1)])
def test_large_pictures_are_drawn_a_few_at_a_time(pixels, images):
    assert at_once(SimpleNamespace(resolution=pixels)) == images


def test_large_pictures_are_decoded_one_at_a_time(tmp_path):
    folder = save_twin("sdxl-kl", tmp_path / "twin")
    assert not load_denoiser(folder, 32).pipeline.vae.use_slicing
    assert load_denoiser(folder, 512).pipeline.vae.use_slicing
