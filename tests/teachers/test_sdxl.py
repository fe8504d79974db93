import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from ddmd.errors import InputError
from ddmd.method.student import uniform_grid
from ddmd.run.export import export_student
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.sampling import bare, sample_images

PROMPT = "a large striped red circle at the left on a gray background"


def stock(folder, **kwargs):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(PROMPT, generator=torch.Generator().manual_seed(3), output_type="pt", **kwargs).images


@pytest.mark.parametrize(("guidance", "steps"), [(4.0, 4), (4.0, 10), (1.0, 4)])
def test_our_sampler_is_the_stock_pipelines(untrained, denoiser, guidance, steps):
    ours = sample_images(denoiser, bare(denoiser), denoiser.encode([PROMPT]), uniform_grid(steps), "ode", guidance, seed=3)
    theirs = stock(untrained, num_inference_steps=steps, guidance_scale=guidance)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("sampler", "steps"), [("sde", 4), ("sde", 1), ("sde", 8), ("ode", 4)])
def test_an_exported_student_samples_alike_without_ddmd(denoiser, tmp_path, sampler, steps):
    export_student(tmp_path / "student", denoiser, denoiser.network, uniform_grid(steps), sampler, {})
    ours = sample_images(denoiser, bare(denoiser), denoiser.encode([PROMPT]), uniform_grid(steps), sampler, 1.0, seed=3)
    theirs = stock(tmp_path / "student", num_inference_steps=steps, guidance_scale=1.0)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=0)


def test_a_grid_that_no_stock_scheduler_has_is_refused(denoiser):
    with pytest.raises(InputError, match="grid"):
        denoiser.student_scheduler((1.0, 0.9, 0.1), "sde")


def test_a_batch_equals_singles(denoiser):
    prompts = ["a red circle", "a small blue star at the top"]
    z = torch.randn(2, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    u = torch.tensor([0.3, 0.9], dtype=torch.float64)
    with torch.no_grad():
        both = denoiser.call(denoiser.network, z, u, denoiser.encode(prompts))
        for i in range(2):
            one = denoiser.call(denoiser.network, z[i : i + 1], u[i : i + 1], denoiser.encode(prompts[i : i + 1]))
            torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=1e-5)


def test_the_unconditional_is_sdxls_zeros(denoiser):
    for cond in (denoiser.unconditional(2), denoiser.encode(["", " "])):
        assert cond["embeds"].abs().max() == 0
        assert cond["pooled"].abs().max() == 0
    assert denoiser.encode(["a red circle"])["pooled"].abs().max() > 0
    assert cond["time_ids"][0].tolist() == [32, 32, 0, 0, 32, 32]


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
    with pytest.raises(InputError, match="does not load"):
        load_denoiser(broken)
