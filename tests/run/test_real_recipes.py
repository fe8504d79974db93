"""Every recipe for a real model, run from start to finish on the tiny twin of its family."""

import gc
import json

import pytest
import torch
from diffusers import DiffusionPipeline
from test_train import Silent
from transformers import Gemma2Model

from ddmd.errors import InputError
from ddmd.run.export import SETTINGS
from ddmd.run.finish import finish
from ddmd.run.recipe import load_recipe, preset_names
from ddmd.run.train import Training
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.reals import cache_samples
from ddmd.teachers.roles import LoraRoles
from tiny import RESOLUTION, save_twin

TWIN = {"sdxl": "sdxl-kl", "sd15": "sd15", "lumina2": "lumina2", "zimage": "z_image", "sd3": "sd3-shift3", "flux": "flux"}
REAL = [name for name in preset_names() if name.split("_")[0] in TWIN]
PROMPTS = ["a red circle", "a small blue star", "a green square at the top", "a cross on a pink background"]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("twins"), {}
    (root / "prompts.txt").write_text("\n".join(PROMPTS))

    def get(name):
        twin = TWIN[name.split("_")[0]]
        if twin not in made:
            made[twin] = save_twin(twin, root / twin)
        return made[twin], RESOLUTION.get(twin), root / "prompts.txt"

    return get


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_runs_on_its_twin(name, twins, tmp_path):
    model, resolution, prompts = twins(name)
    small = [
        f"train.cache={tmp_path / 'cache'}",
        "train.cycles=2",
        "train.batch=2",
        "train.log_every=1",
        "train.reals_count=4",
        "report.teacher_steps=2",
        "fake.updates=2",
    ]
    overrides = [f"model={model}", f"train.prompts={prompts}", *([f"resolution={resolution}"] if resolution else []), *small]
    recipe = load_recipe(name, overrides)
    training = Training(recipe, tmp_path / "run", Silent())
    assert training.parts.denoiser.pipeline.components.get("text_encoder") is None  # encoded, then let go
    before = {k: v.clone() for k, v in training.parts.roles.state_dict("student").items()}
    training.run()
    assert any(not torch.equal(v, before[k]) for k, v in training.parts.roles.state_dict("student").items())
    finish(training, lambda *_: None)
    student = tmp_path / "run" / "student"
    settings = json.loads((student / SETTINGS).read_text())
    call = settings["call"]
    if name.startswith("zimage"):  # from a teacher of shift 6
        assert settings["shift"] == load_denoiser(student, resolution).shift == recipe.student.shift == 3
    pipeline = DiffusionPipeline.from_pretrained(student)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red circle", output_type="pt", **call).images.isfinite().all()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["cycle"] for row in rows if "fake_loss" in row] == [1, 2]


def test_the_gan_learns_from_cached_latents(twins, tmp_path):
    model, _, prompts = twins("sdxl_dmd2")
    denoiser = load_denoiser(model)
    reals = cache_samples(denoiser, PROMPTS, tmp_path / "reals", 2, 3.0, 0, lambda done: None)
    given = [f"model={model}", f"train.prompts={prompts}", "train.cache=null", "train.cycles=1", "train.batch=2", "train.log_every=1",
             "report.teacher_steps=2", "fake.updates=1", "objective.gan.reals=data"]  # fmt: skip
    training = Training(load_recipe("sdxl_dmd2", [*given, f"train.reals={reals}"]), tmp_path / "run", Silent())
    assert training.parts.reals.at(0).images.shape == (2, *denoiser.shape)
    training.run()
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "gan_critic_loss" in row
    with pytest.raises(InputError, match=r"train.reals"):
        Training(load_recipe("sdxl_dmd2", given), tmp_path / "none", Silent())


def test_the_text_encoders_are_gone_before_the_network_comes(twins, tmp_path, monkeypatch):
    """A language model and the network it conditions need not fit side by side."""
    model, _, prompts = twins("lumina2_ddmd_lora")
    seen, to = [], LoraRoles.to

    def spied(roles, device):
        holds = [part for part in gc.get_objects() if isinstance(part, Gemma2Model)]
        seen.append(len(holds))
        return to(roles, device)

    monkeypatch.setattr(LoraRoles, "to", spied)
    before = len([part for part in gc.get_objects() if isinstance(part, Gemma2Model)])
    given = [f"model={model}", f"train.prompts={prompts}", "train.cache=null", "train.cycles=1", "report.teacher_steps=2", "fake.updates=1"]
    Training(load_recipe("lumina2_ddmd_lora", given), tmp_path / "run", Silent()).run()
    assert seen == [before]


def test_there_is_a_recipe_for_every_model_that_the_paper_or_its_users_name():
    assert {name.split("_")[0] for name in REAL} == set(TWIN)
    assert {"sdxl_dmd2", "sdxl_ddmd", "lumina2_ddmd", "lumina2_ddmd_coupled", "lumina2_ddmd_full", "lumina2_ddmd_constrained",
            "zimage_ddmd_8step"} <= set(REAL)  # fmt: skip
