import json
import shutil

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ddmd.errors import InputError
from ddmd.method.noise import shift_level
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.denoisers.flow import own_shift
from ddmd.teachers.denoisers.sdxl import SDXL
from tiny import TWINS, sdxl


def test_the_unconditional_of_sdxl_is_zeros_or_the_empty_prompt_by_the_pipelines_own_rule():
    zeros, empty = SDXL(sdxl(zero_uncond=True)), SDXL(sdxl(zero_uncond=False))
    for cond in (zeros.unconditional(2), zeros.encode(["", " "])):
        assert cond["embeds"].abs().max() == 0
        assert cond["pooled"].abs().max() == 0
    assert zeros.encode(["a red circle"])["pooled"].abs().max() > 0
    assert empty.unconditional(1)["embeds"].abs().max() > 0
    assert cond["time_ids"][0].tolist() == [16, 16, 0, 0, 16, 16]


@pytest.mark.parametrize(
    "options", [{"shift": 3.0}, {"use_dynamic_shifting": True}, {"use_dynamic_shifting": True, "time_shift_type": "linear"}]
)
def test_the_time_shift_is_the_schedulers(options):
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    tokens, levels = 1024, [1.0, 0.7, 0.2]
    config = scheduler.config
    mu = config.base_shift + (config.max_shift - config.base_shift) * (tokens - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=levels, mu=mu if config.use_dynamic_shifting else None)
    ours = shift_level(torch.tensor(levels), own_shift(scheduler, tokens))
    torch.testing.assert_close(ours, scheduler.sigmas[:-1], atol=1e-6, rtol=0)


def test_unknown_words_and_long_prompts_are_refused(denoiser):
    with pytest.raises(InputError, match="elephant.*circle"):
        denoiser.encode(["a red elephant"])
    with pytest.raises(InputError, match="tokens"):
        denoiser.encode(["red " * 30])


def test_bad_folders_are_named(untrained, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_denoiser(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no model_index\.json"):
        load_denoiser(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match="not a pipeline index"):
        load_denoiser(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    with pytest.raises(InputError, match="OtherPipeline.*StableDiffusionXLPipeline"):
        load_denoiser(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(untrained, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors: found a damaged file"):
        load_denoiser(broken)


def test_the_twins_are_the_families_they_claim(tmp_path):
    from ddmd.teachers.denoisers import FAMILIES

    built = {type(make()).__name__ for make in TWINS.values()}
    assert built == set(FAMILIES)
