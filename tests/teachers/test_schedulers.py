"""A teacher is sampled as its scheduler's file says; a student inherits nothing of it but what its network was trained on."""

import json
import logging

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LCMScheduler, PNDMScheduler
from test_families import close, draw, open_twin, recipe, stock

from ddmd.errors import InputError
from ddmd.method.student import uniform_grid
from ddmd.run.card import comfyui_usage
from ddmd.run.export import CARD, SETTINGS, export_lora, export_student
from ddmd.run.recipe import StudentSection, load_recipe
from ddmd.run.results import teacher_setting
from ddmd.run.setup import accelerator_for, build
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.denoisers.vp import trained_on
from ddmd.teachers.roles import LoraRoles
from tiny import RESOLUTION, published_scheduler, save_twin

# Row of docs on time shifts: eight steps at shift 3.
EIGHT_AT_3 = [1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Twins' folders by name, made once, each under a folder of its name."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = save_twin(name, tmp_path_factory.mktemp("twins") / name / "pipeline")
        return made[name]

    return get


def changed(folder, tmp_path, **keys):
    """The twin with keys of its scheduler's file changed; weights are links."""
    new = tmp_path / folder.parent.name / "pipeline"
    new.mkdir(parents=True)
    for part in folder.iterdir():
        if part.name != "scheduler":
            (new / part.name).symlink_to(part)
    (new / "scheduler").mkdir()
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    if "_class_name" in keys:
        index = json.loads((folder / "model_index.json").read_text())
        (new / "model_index.json").unlink()
        (new / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", keys["_class_name"]]}))
    (new / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | keys))
    return new


def plain_guidance(model):
    return {key: value for key, value in model.stock_call(uniform_grid(5)).items() if key != "sigmas"}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("lumina2", {"shift_terminal": 0.1}),
        ("lumina2", {"use_beta_sigmas": True}),
        ("lumina2", {"use_karras_sigmas": True, "shift_terminal": 0.1}),
        ("lumina2", {"stochastic_sampling": True}),
        ("lumina2", {"use_dynamic_shifting": True}),
        ("z_image", {"use_dynamic_shifting": True, "base_shift": 2.0}),
        ("sd3", {"use_exponential_sigmas": True}),
        ("sd3", {"use_dynamic_shifting": True, "shift_terminal": 0.1}),
        ("qwen_image", {}),  # as published: dynamic, with shift_terminal 0.02
        ("chroma", {"use_dynamic_shifting": True, "time_shift_type": "linear", "use_beta_sigmas": False}),
    ],
)
def test_the_teacher_goes_the_stock_pipelines_way(twin, tmp_path, monkeypatch, name, keys):
    folder = changed(twin(name), tmp_path, **keys)
    model = open_twin(folder)
    setting = teacher_setting(model, 5, 1.0)
    assert model.not_followed is None
    close(draw(model, setting.grid, setting.sampler, 1.0), stock(folder, model, monkeypatch, **plain_guidance(model)))
    assert teacher_setting(model, 1, 1.0).grid == (1.0,)


def test_the_levels_of_a_plain_scheduler_are_even_to_the_last_bit(twin):
    for name in ("lumina2", "z_image", "flux"):
        assert open_twin(twin(name)).teacher_grid(50) == uniform_grid(50)
    even = open_twin(twin("sd3-shift3")).teacher_grid(4)  # which runs down to its table's last level
    assert even[0] == 1
    assert even[-1] < 0.01


def test_what_is_not_followed_is_said_in_a_line_once(twin, tmp_path, caplog):
    solver = load_denoiser(twin("sana"))
    karras = load_denoiser(changed(twin("sdxl-eps"), tmp_path, use_karras_sigmas=True))
    with caplog.at_level(logging.WARNING, "ddmd"):
        for model in (solver, solver, karras, load_denoiser(twin("sd15"))):
            teacher_setting(model, 4, 3.0)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "DPMSolverMultistepScheduler" in lines[0]
    assert "use_karras_sigmas" in lines[1]


@pytest.mark.parametrize(
    ("name", "keys", "match"),
    [
        ("lumina2", {"invert_sigmas": True}, "invert_sigmas"),
        ("lumina2", {"num_train_timesteps": 500}, "num_train_timesteps"),
        ("sdxl-eps", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_what_cannot_be_followed_at_all_is_refused(twin, tmp_path, name, keys, match):
    with pytest.raises(InputError, match=match):
        open_twin(changed(twin(name), tmp_path, **keys))


HOSTILE_VP = {
    "set_alpha_to_one": False,
    "clip_sample": True,
    "clip_sample_range": 0.1,
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.5,
    "sample_max_value": 0.5,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "timestep_scaling": 0.001,
    "original_inference_steps": 17,
    "use_karras_sigmas": True,
    "final_sigmas_type": "sigma_min",
    "rescale_betas_zero_snr": True,  # which PNDM does not know, so that its network was trained without
}
HOSTILE_FLOW = {
    "shift_terminal": 0.1,
    "use_beta_sigmas": True,
    "stochastic_sampling": True,
    "base_shift": 0.9,
    "shift": 2.0,
}


@pytest.mark.parametrize("sampler", ["sde", "ode"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sd15", HOSTILE_VP),
        ("sdxl-v", {**HOSTILE_VP, "_class_name": "DDIMScheduler"}),
        ("lumina2", HOSTILE_FLOW),
        ("sd3", {**HOSTILE_FLOW, "shift": 1.0}),
    ],
)
def test_a_student_and_its_card_inherit_nothing_from_a_hostile_file(twin, tmp_path, monkeypatch, name, keys, sampler):
    """The export draws as ddmd does, and the code on the adapter's card makes the teacher's pipeline that student."""
    folder = changed(twin(name), tmp_path, **keys)
    model, grid = open_twin(folder), uniform_grid(4)
    export_student(tmp_path / "student", recipe(model, grid), model, model.network, sampler, 7)
    call = json.loads((tmp_path / "student" / SETTINGS).read_text())["call"]
    theirs = stock(tmp_path / "student", model, monkeypatch, **call)
    close(draw(model, grid, sampler, 1.0), theirs)

    roles = LoraRoles(model.network, model.call, model.lora_targets, rank=2)  # an adapter that does nothing yet
    for key, parameter in roles.named_parameters("student").items():
        parameter.data.mul_(0 if ".lora_B." in key else 1)
    export_lora(tmp_path / "lora", recipe(model, grid), model, roles, sampler, 7)
    code = (tmp_path / "lora" / CARD).read_text().split("```python\n")[1].split("```")[0]
    scope = {}
    exec(code.replace("THE_TEACHER", str(folder)).replace("THIS_FOLDER", str(tmp_path / "lora")).split("image = ")[0], scope)
    exported = DiffusionPipeline.from_pretrained(tmp_path / "student").scheduler
    by_card = scope["pipeline"].scheduler
    assert type(by_card) is type(exported)
    hidden = ("_class_name", "_diffusers_version", "_use_default_values")
    configs = [{k: v for k, v in s.config.items() if k not in hidden} for s in (by_card, exported)]
    assert configs[0] == configs[1]
    assert f"**{call!r}" in code
    torch.testing.assert_close(stock(folder, model, monkeypatch, scheduler=by_card, **call), theirs, atol=1e-5, rtol=0)


def test_only_what_the_teachers_scheduler_acts_on_belongs_to_its_path():
    """A key that its class does not know is in the file for nothing; a table that others cannot make is handed over whole."""
    ignored = PNDMScheduler.from_config(published_scheduler("stable-diffusion-v1-5").config, rescale_betas_zero_snr=True)
    assert "rescale_betas_zero_snr" not in trained_on(ignored)
    for scheduler in (ignored, DDIMScheduler(trained_betas=[0.01] * 100), published_scheduler("NoobAI-XL-Vpred")):
        keys = trained_on(scheduler)
        for kind in (DDIMScheduler, LCMScheduler):
            torch.testing.assert_close(kind(**keys).alphas_cumprod, scheduler.alphas_cumprod, atol=1e-7, rtol=1e-5)
    from diffusers import DDPMScheduler

    sigmoid = DDPMScheduler(beta_schedule="sigmoid")
    torch.testing.assert_close(DDIMScheduler(**trained_on(sigmoid)).alphas_cumprod, sigmoid.alphas_cumprod)


def test_a_student_has_a_time_shift_of_its_own(twin, tmp_path, monkeypatch):
    """Z-Image's base was published with shift 6, its author's student has 3: in the grid, re-noising, export and cards."""
    folder = twin("z_image")
    model, plain, grid = open_twin(folder), open_twin(folder), uniform_grid(8)
    assert model.shift == 6
    model.set_shift(3.0)
    levels = torch.tensor(grid, dtype=torch.float64)
    torch.testing.assert_close(model.path.coefficients(levels)[1], torch.tensor(EIGHT_AT_3, dtype=torch.float64), atol=5e-5, rtol=0)
    assert model.stock_call(grid)["num_inference_steps"] == 8

    export_student(tmp_path / "student", recipe(model, grid), model, model.network, "ode", 7)
    settings = json.loads((tmp_path / "student" / SETTINGS).read_text())
    assert settings["shift"] == 3
    ours = draw(model, grid, "ode", 1.0)
    close(ours, stock(tmp_path / "student", model, monkeypatch, **settings["call"]))
    again = load_denoiser(tmp_path / "student", RESOLUTION["z_image"])
    assert again.shift == 3
    torch.testing.assert_close(draw(again, grid, "ode", 1.0), ours, atol=1e-6, rtol=0)
    assert not torch.allclose(draw(plain, grid, "ode", 1.0), ours, atol=1e-2)

    # The teacher keeps its own: the same noise, whatever the levels are called.
    assert model.teacher_noise(8) == plain.teacher_noise(8)
    assert model.teacher_grid(8) != grid
    asked = teacher_setting(model, 8, 1.0)
    own = teacher_setting(plain, 8, 1.0)
    torch.testing.assert_close(draw(model, asked.grid, asked.sampler, 1.0), draw(plain, own.grid, own.sampler, 1.0), atol=1e-5, rtol=0)
    assert "| time shift of the levels | 3 |" in (tmp_path / "student" / CARD).read_text()
    assert "ModelSamplingAuraFlow: shift 3." in comfyui_usage(model, grid, "ode")


def test_a_time_shift_is_refused_where_there_is_none(twin):
    with pytest.raises(InputError, match=r"student\.shift: found 3; a sdxl model has no time shift"):
        load_denoiser(twin("sdxl-eps")).set_shift(3.0)
    with pytest.raises(ValueError, match="greater than 0"):
        StudentSection(shift=0.0)


def test_comfyuis_card_gives_levels_that_no_stock_scheduler_has(twin):
    uneven, flow = (1.0, 0.9, 0.3), open_twin(twin("z_image"))
    assert "ManualSigmas `1.0000, 0.9818, 0.7200, 0.0000`" in comfyui_usage(flow, uneven, "ode")
    v = load_denoiser(twin("sdxl-v"))
    assert "ModelSamplingDiscrete: sampling `v_prediction`, zsnr `true`." in comfyui_usage(v, uniform_grid(4), "sde")
    eps = comfyui_usage(load_denoiser(twin("sdxl-eps")), uneven, "sde")
    assert "ManualSigmas `14.6146," in eps
    assert "ModelSampling" not in eps


@pytest.mark.parametrize(
    ("keys", "match"), [(["student.sampler=ode", "student.steps=3"], r"student\.grid"), (["student.shift=3.0"], r"student\.shift")]
)
def test_what_no_export_could_be_told_is_refused_before_training(twin, tmp_path, keys, match):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    given = [f"model={twin('sd15')}", f"train.prompts={tmp_path / 'prompts.txt'}", "train.cache=null", *keys]
    recipe = load_recipe("sd15_ddmd", given)
    with pytest.raises(InputError, match=match):
        build(recipe, accelerator_for(recipe))
