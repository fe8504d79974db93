import importlib
import json
import shutil
from typing import get_args

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ddmd.errors import InputError
from ddmd.measure.memory import estimate
from ddmd.measure.rehearsal import rehearse
from ddmd.method.noise import shift_level
from ddmd.run.assembly import open_denoiser
from ddmd.run.export import export_student
from ddmd.run.recipe import Family, load_recipe, preset_names
from ddmd.teachers.denoisers import FAMILIES, load_denoiser
from ddmd.teachers.denoisers.flow import own_shift
from ddmd.teachers.denoisers.sdxl import SDXL
from ddmd.teachers.identity import model_identity
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


def test_a_recipe_of_another_family_is_refused_by_both_names(untrained):
    asked = load_recipe("sd15_ddmd", [f"model={untrained}", "train.prompts=none.txt"])
    for opened in (open_denoiser, estimate, rehearse):
        with pytest.raises(InputError, match="model: found a sdxl pipeline for the recipe sd15_ddmd, made for sd15"):
            opened(asked)
    free = load_recipe("sd15_ddmd", [f"model={untrained}", "train.prompts=none.txt", "family=null"])
    assert open_denoiser(free).family == "sdxl"


def test_shipped_recipes_of_published_models_name_their_family():
    known = {importlib.import_module(f"ddmd.teachers.denoisers.{module}").DENOISER.family for module in FAMILIES.values()}
    assert set(get_args(Family)) == known
    made_for = {name: load_recipe(name, ["train.prompts=none.txt"]).family for name in preset_names()}
    own = {name for name, family in made_for.items() if family is None}
    assert all(name.startswith(("shapes", "pairs", "emoji")) for name in own)
    assert made_for["sdxl_ddmd_lora"] == "sdxl" and made_for["flux_ddmd_lora"] == "flux" and made_for["sd3_ddmd"] == "sd3"


INDEX_FAULTS = {
    "[]": "not a pipeline index: ",
    "null": "not a pipeline index: ",
    "": "not a pipeline index: ",
    '{"unet": ["diffusers", "UNet2DConditionModel"]}': "no _class_name",
    '{"_class_name": ["a", "b"]}': "_class_name",
    '{"_class_name": "UNet2DConditionModel"}': "pipeline class UNet2DConditionModel; known families",
    '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers"]}': r"unet .*no \[library, class",
    '{"_class_name": "StableDiffusionPipeline", "unet": []}': r"unet .*no \[library, class",
    '{"_class_name": "StableDiffusionPipeline", "unet": [null, "X"]}': r"unet .*no \[library, class",
    '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "NoSuch"]}': "unet: found no such folder",
}


@pytest.mark.parametrize("text", INDEX_FAULTS)
def test_a_damaged_index_is_one_line(text, tmp_path):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(InputError, match=INDEX_FAULTS[text]) as caught:
        load_denoiser(tmp_path)
    assert "\n" not in str(caught.value)


def test_notes_in_an_index_are_no_parts(untrained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    index = json.loads((folder / "model_index.json").read_text())
    notes = {"_ignore_files": ["x.onnx", "y.bin"], "_name_or_path": None, "_other": []}
    (folder / "model_index.json").write_text(json.dumps(index | notes))
    model = load_denoiser(folder)
    asked = load_recipe("shapes", [f"model={folder}"])
    export_student(tmp_path / "student", asked, model, model.network, "ode", 1)
    load_denoiser(tmp_path / "student")
    assert len(model_identity(folder)) == 64


def test_the_twins_are_the_families_they_claim(tmp_path):
    built = {type(make()).__name__ for make in TWINS.values()}
    assert built == set(FAMILIES)
