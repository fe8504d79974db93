import json
import shutil

import pytest
import torch

from ddmd.errors import InputError
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.guidance_check import check_guidance, guidance_response, is_few_step, names_of
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


@pytest.mark.parametrize(
    "name",
    ["sdxl-turbo", "sd-turbo", "SDXL-Lightning", "sdxl_lightning_4step", "sdxl-lightning-4step-diffusers", "FLUX.1-schnell", "Hyper-SD",
     "Hyper-SDXL-1step", "lcm-sdxl", "LCM_Dreamshaper_v7", "dreamshaper-xl-v2-turbo", "dreamshaperXL_v21TurboDPMSDE", "flash-sdxl",
     "stable-diffusion-3.5-large-turbo", "Z-Image-Turbo", "RealVisXL_V5.0_Lightning", "Qwen-Image-Lightning", "sdxl-turbo-fp16"],
)  # fmt: skip
def test_names_of_few_step_models(name):
    assert is_few_step(name)


@pytest.mark.parametrize(
    "name",
    ["hyperrealism-xl", "my-turbofan-photos", "lightning-storms-base", "turbo-cars-xl", "stable-diffusion-xl-base-1.0", "HyperrealismXL",
     "FLUX.1-dev", "hyper-realistic-portraits", "Lumina-Image-2.0", "flash-photography-sdxl", "snapshots", "0123abc", "schnellzug", ""],
)  # fmt: skip
def test_names_of_base_models(name):
    assert not is_few_step(name)


def test_a_model_is_called_by_its_repository_in_the_hubs_cache(folder, tmp_path):
    snapshot = tmp_path / "models--stabilityai--sdxl-turbo" / "snapshots" / "0123abc"
    shutil.copytree(folder, snapshot)
    (tmp_path / "mine").symlink_to(snapshot)
    for place in (snapshot, tmp_path / "mine"):
        with pytest.raises(InputError, match="few-step teacher by its name, 'sdxl-turbo'"):
            check(load_denoiser(place))
    index = json.loads((folder / "model_index.json").read_text())
    for said in ("stabilityai/sdxl-turbo", str(snapshot)):
        (folder / "model_index.json").write_text(json.dumps(index | {"_name_or_path": said}))
        assert names_of(folder) == ["sdxl-base", "sdxl-turbo"]
    (folder / "model_index.json").write_text(json.dumps(index | {"_name_or_path": None}))
    assert names_of(folder) == ["sdxl-base"]


def test_students_are_no_teachers(folder):
    model = load_denoiser(folder)
    (folder / "ddmd.json").write_text("{}")
    with pytest.raises(InputError, match=r"student that ddmd exported"):
        check(model)
    (folder / "ddmd.json").unlink()
    model.network.register_to_config(time_cond_proj_dim=256)
    with pytest.raises(InputError, match="time_cond_proj_dim"):
        check(model)


def test_few_step_teachers_are_refused_by_name_and_guided_ones_by_config(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "sdxl-turbo")
    with pytest.raises(InputError, match="few-step teacher by its name, 'sdxl-turbo'"):
        check(load_denoiser(tmp_path / "sdxl-turbo"))
    model = load_denoiser(save_twin("flux", tmp_path / "flux"), RESOLUTION["flux"])
    with pytest.raises(InputError, match="guidance_embeds"):
        check(model)
