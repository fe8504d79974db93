import shutil

import pytest
import torch

from ddmd.errors import InputError
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.guidance_check import check_guidance, guidance_response
from ddmd.teachers.sampling import bare
from tiny import RESOLUTION, save_twin

PROMPTS = ["a red circle", "a small blue star at the top"]


def check(model, what=check_guidance):
    return what(model, bare(model), model.encode(PROMPTS), model.unconditional(2), torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    return save_twin("sdxl-eps", tmp_path / "sdxl-base")


def test_a_teacher_that_hears_its_prompt_passes(folder):
    model = load_denoiser(folder)
    check(model)
    assert check(model, guidance_response) > 1e-3


def test_a_teacher_deaf_to_its_prompt_is_refused(folder):
    model = load_denoiser(folder)
    encode = model.encode
    model.encode = lambda prompts: encode([""] * len(prompts))
    with pytest.raises(InputError, match=r"deaf.*0\.0e"):
        check(model)


def test_few_step_teachers_are_refused_by_name_and_guided_ones_by_config(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "sdxl-turbo")
    with pytest.raises(InputError, match="few-step teacher by its name, 'sdxl-turbo'"):
        check(load_denoiser(tmp_path / "sdxl-turbo"))
    model = load_denoiser(save_twin("flux", tmp_path / "flux"), RESOLUTION["flux"])
    with pytest.raises(InputError, match="guidance_embeds"):
        check(model)
