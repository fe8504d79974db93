"""`ddmd export`: a run's student in each format, from its checkpoints."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from test_train import Silent

from ddmd.errors import InputError
from ddmd.run.card import teacher_licence
from ddmd.run.export import SETTINGS, export_run
from ddmd.run.finish import finish
from ddmd.run.recipe import load_recipe
from ddmd.run.train import Training
from tiny import save_twin


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished LoRA run on a twin whose card names a licence."""
    root = tmp_path_factory.mktemp("export")
    model = save_twin("sdxl-kl", root / "twin")
    (model / "README.md").write_text("---\nlicense: openrail++\n---\n# A twin\n")
    (root / "prompts.txt").write_text("a red circle\na blue star\n")
    small = ["train.cycles=2", "train.batch=2", "report.teacher_steps=2", "fake.updates=1", "optim.student_lr=0.01"]
    recipe = load_recipe("sdxl_ddmd_lora", [f"model={model}", f"train.prompts={root / 'prompts.txt'}", "train.cache=null", *small])
    training = Training(recipe, root / "run", Silent())
    training.run()
    finish(training, lambda *_: None)
    return root / "run"


def test_a_pipeline_again_from_the_checkpoint(run, tmp_path):
    export_run(run, "diffusers", tmp_path / "out")
    file = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(run / "student" / file), load_file(tmp_path / "out" / file)
    rounding = 1e-6 if torch.cuda.is_available() else 0  # on a GPU the run merges there, the export on the CPU
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=rounding, atol=rounding)
    DiffusionPipeline.from_pretrained(tmp_path / "out")


def test_the_adapter_on_the_teacher_is_the_exported_student(run):
    """A run in bfloat16 trains on rounded weights, but neither of its exports holds any."""
    assert load_recipe(str(run / "recipe.yaml")).optim.precision == "bf16"
    model = load_recipe(str(run / "recipe.yaml")).model
    adapted, merged = DiffusionPipeline.from_pretrained(model), DiffusionPipeline.from_pretrained(run / "student")
    adapted.load_lora_weights(run / "student-lora")
    adapted.fuse_lora()
    adapted.unload_lora_weights()
    teacher = DiffusionPipeline.from_pretrained(model).unet.state_dict()
    student, moved = merged.unet.state_dict(), 0
    for name, value in adapted.unet.state_dict().items():
        torch.testing.assert_close(student[name], value, atol=1e-6, rtol=0)
        moved += not torch.equal(student[name], teacher[name])
    assert 10 < moved < len(student)  # the adapter's layers alone


def test_the_card_says_how_by_what_and_under_which_licence(run):
    call = json.loads((run / "student" / SETTINGS).read_text())["call"]
    card = (run / "student" / "README.md").read_text()
    for part in ("license: openrail++", repr(call), "twin", "schedule: hybrid", "2511.22677", "2 cycles"):
        assert part in card
    assert teacher_licence(run) is None


@pytest.mark.parametrize(("to", "file"), [("lora", "pytorch_lora_weights.safetensors"), ("comfyui", "sdxl_ddmd_lora.safetensors")])
def test_adapters(run, tmp_path, to, file):
    export_run(run, to, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / file)
    assert len(tensors) > 10
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_what_cannot_be_exported_is_named(run, tmp_path):
    with pytest.raises(InputError, match="no run"):
        export_run(tmp_path, "diffusers", tmp_path / "out")
    with pytest.raises(InputError, match="use one of"):
        export_run(run, "onnx", tmp_path / "out")
    (tmp_path / "full").mkdir()
    text = (run / "recipe.yaml").read_text()
    (tmp_path / "full" / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match="no checkpoint"):
        export_run(tmp_path / "full", "lora", tmp_path / "out")
    recipe = load_recipe("shapes")
    (tmp_path / "full" / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(InputError, match="full copy"):
        export_run(tmp_path / "full", "lora", tmp_path / "out")
