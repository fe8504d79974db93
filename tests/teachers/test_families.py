"""Every family against the stock pipeline it wraps."""

import copy
import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers import scheduling_flow_match_euler_discrete
from safetensors.torch import load_file

from ddmd.errors import InputError
from ddmd.method.student import uniform_grid
from ddmd.quiet import quiet_libraries
from ddmd.run.export import SETTINGS, export_lora, export_student
from ddmd.run.recipe import ObjectiveSection, OptimSection, Recipe, StudentSection, TrainSection
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.denoisers.flow import FlowDenoiser
from ddmd.teachers.denoisers.packed import pack
from ddmd.teachers.denoisers.vp import VPDenoiser
from ddmd.teachers.denoisers.words import too_long
from ddmd.teachers.roles import CopyRoles, LoraRoles
from ddmd.teachers.sampling import bare, sample_images
from tiny import RESOLUTION, TWINS, save_twin

PROMPT = "a large striped red circle at the left on a gray background"
quiet_libraries()


@pytest.fixture(scope="module", params=TWINS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins") / request.param
    folder.mkdir()
    return save_twin(request.param, folder / "pipeline")


@pytest.fixture(scope="module")
def model(folder):
    return open_twin(folder)


def open_twin(folder):
    return load_denoiser(folder, RESOLUTION.get(folder.parent.name))


def stock(folder, model, monkeypatch, scheduler=None, **kwargs):
    """The plain pipeline's image, with our noise: one generator for all of it, drawn before latents are packed."""
    pipeline, generator = DiffusionPipeline.from_pretrained(folder), torch.Generator().manual_seed(3)
    pipeline.scheduler = scheduler or pipeline.scheduler
    pipeline.set_progress_bar_config(disable=True)

    def renoise(shape, **_):
        noise = torch.randn(1, *model.shape, generator=generator)
        return noise if noise.shape == shape else pack(noise)

    monkeypatch.setattr(scheduling_flow_match_euler_discrete, "randn_tensor", renoise)
    return pipeline(PROMPT, generator=generator, output_type="pt", **kwargs).images


def close(ours, theirs):
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=0)
    assert ours.std() > 0.05


def draw(model, grid, sampler, guidance, prompt=PROMPT):
    return sample_images(model, bare(model), model.encode([prompt]), grid, sampler, guidance, seed=3)


def guided(model, alpha):
    """How a stock pipeline is asked for plain guidance alpha."""
    if model.family == "z_image":
        return {"guidance_scale": alpha - 1}
    if model.family == "flux":
        return {"true_cfg_scale": alpha, "negative_prompt": ""}
    if model.family == "lumina2":
        return {"guidance_scale": alpha, "cfg_normalization": False}
    if model.family == "qwen_image":
        return {"true_cfg_scale": alpha, "negative_prompt": ""}
    return {"guidance_scale": alpha}


@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_our_sampler_is_the_stock_pipelines(folder, model, monkeypatch, alpha):
    """By its own scheduler, as its file is published, where that takes Euler's steps of a flow; else by one that steps as ours."""
    grid, call = model.teacher_grid(4), model.stock_call(uniform_grid(4)) | (guided(model, alpha) if alpha > 1 else {})
    followed = isinstance(model, FlowDenoiser) and model.not_followed is None
    assert followed == (type(model.pipeline.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler")
    if followed:
        call.pop("sigmas", None)
    else:
        call["scheduler"] = model.student_scheduler(grid, "ode")
    ours = draw(model, grid, "ode", alpha)
    true_norm = torch.norm
    with monkeypatch.context() as patch:
        if model.family == "qwen_image":  # its pipeline always rescales guidance to the conditional's norm; equal norms leave it plain
            patch.setattr(torch, "norm", lambda x, *p, **more: true_norm(x, *p, **more) if p else torch.ones(()))
        theirs = stock(folder, model, patch, **call)
    close(ours, theirs)


# One twin a family; SDXL's with four channels, since its stock pipeline takes moments of no others.
ONE_A_FAMILY = [name for name in TWINS if name not in ("sdxl-eps", "sdxl-v", "sd3-shift3", "flux-unguided")]


@pytest.mark.parametrize("folder", ONE_A_FAMILY, indirect=True)
def test_latents_are_scaled_as_the_stock_pipeline_scales_them(folder, tmp_path, monkeypatch):
    """Every key that any family reads, in every family: which of them count is the stock pipeline's to say."""
    copied = tmp_path / folder.parent.name / "pipeline"
    shutil.copytree(folder, copied)
    path = copied / "vae" / "config.json"
    config = json.loads(path.read_text())
    channels = config.get("z_dim", config.get("latent_channels", 3))
    config |= {"latents_mean": [0.1 * i - 0.2 for i in range(channels)], "latents_std": [0.9 + 0.1 * i for i in range(channels)]}
    config |= {"scaling_factor": 1.3, "shift_factor": 0.05}
    path.write_text(json.dumps(config))
    model = open_twin(copied)
    grid = uniform_grid(2)
    steps_as_ours = model.student_scheduler(grid, "ode")
    close(draw(model, grid, "ode", 1.0), stock(copied, model, monkeypatch, steps_as_ours, **model.stock_call(grid)))
    latents = torch.rand(2, *model.shape) - 0.5
    torch.testing.assert_close(model.latent_scale.from_autoencoder(model.latent_scale.to_autoencoder(latents)), latents)


@pytest.mark.parametrize(("sampler", "steps"), [("sde", 4), ("sde", 1), ("sde", 8), ("ode", 4)])
def test_an_exported_student_samples_alike_without_ddmd(model, tmp_path, monkeypatch, sampler, steps):
    grid = uniform_grid(steps)
    export_student(tmp_path / "student", recipe(model, grid), model, model.network, sampler, 7)
    call = json.loads((tmp_path / "student" / SETTINGS).read_text())["call"]
    close(draw(model, grid, sampler, 1.0), stock(tmp_path / "student", model, monkeypatch, **call))


@pytest.mark.parametrize("name", ["sd3", "lumina2", "qwen_image"])
def test_a_student_of_a_pipeline_in_half_precision_opens_as_one_in_single(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    folder = save_twin(name, tmp_path / name / "pipeline")
    DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16).save_pretrained(folder)
    model = open_twin(folder)
    assert {p.dtype for part in model.pipeline.components.values() if isinstance(part, torch.nn.Module) for p in part.parameters()} == {
        torch.float32
    }
    grid = uniform_grid(2)
    export_student(tmp_path / "student", recipe(model, grid), model, model.network, "ode", 7)
    call = json.loads((tmp_path / "student" / SETTINGS).read_text())["call"]
    close(draw(model, grid, "ode", 1.0), stock(tmp_path / "student", model, monkeypatch, **call))


def test_an_export_leaves_the_network_as_it_is(model, tmp_path):
    """What it is scored by afterwards, where it stands: on a GPU an export in place would leave it on the CPU."""
    network = copy.deepcopy(model.network).to(torch.bfloat16).train()
    export_student(tmp_path / "student", recipe(model), model, network, "sde", 7)
    assert network.training and {value.dtype for value in network.parameters()} == {torch.bfloat16}
    written = {}
    for file in (tmp_path / "student" / model.component).glob("*.safetensors"):
        written |= load_file(file)
    assert written.keys() == network.state_dict().keys()
    assert all(torch.equal(written[name], value.float()) for name, value in network.state_dict().items())


def test_an_uneven_grid_exports_too(model, tmp_path, monkeypatch):
    grid = (1.0, 0.9, 0.3)
    if isinstance(model, VPDenoiser):
        with pytest.raises(InputError, match="grid"):
            model.student_scheduler(grid, "ode")
    export_student(tmp_path / "student", recipe(model, grid), model, model.network, "sde", 7)
    close(draw(model, grid, "sde", 1.0), stock(tmp_path / "student", model, monkeypatch, **model.stock_call(grid)))


def recipe(model, grid=(1.0, 0.75, 0.5, 0.25)):
    """A recipe that says enough for an export of a twin."""
    return Recipe(
        name="twin", model=str(model.folder), suite="shapes", objective=ObjectiveSection(alpha=3.0),
        student=StudentSection(steps=len(grid), grid=list(grid)), optim=OptimSection(student_lr=1e-4, fake_lr=1e-4),
        train=TrainSection(cycles=7),
    )  # fmt: skip


def inputs(model, n):
    z = torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(0))
    return z, torch.linspace(0.3, 0.9, n, dtype=torch.float64)


def test_a_batch_equals_singles(model):
    prompts = ["a red circle", "a small blue star at the top"]
    z, u = inputs(model, 2)
    with torch.no_grad():
        both = model.call(model.network, z, u, model.encode(prompts))
        for i in range(2):
            one = model.call(model.network, z[i : i + 1], u[i : i + 1], model.encode(prompts[i : i + 1]))
            torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=1e-5)


def test_the_unconditional_is_the_empty_prompt(model):
    z, u = inputs(model, 2)
    with torch.no_grad():
        outputs = [model.call(model.network, z, u, c) for c in (model.unconditional(2), model.encode(["", ""]), model.encode([PROMPT] * 2))]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)  # one row encoded alone against two
    assert not torch.allclose(outputs[0], outputs[2])


def test_the_unconditional_outlives_the_encoders(folder):
    model = open_twin(folder)
    model.drop_encoders()
    z, u = inputs(model, 3)
    with torch.no_grad():
        assert model.call(model.network, z, u, model.unconditional(3)).isfinite().all()
    with pytest.raises(Exception, match="NoneType|None"):
        model.encode([PROMPT])


def test_gradients_reach_the_student_alone(model):
    z, u = inputs(model, 2)
    cond = model.encode(["a red circle", "a star"])
    roles = CopyRoles(model.network, model.call)
    roles.student(z, u, cond).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in roles.parameters("student"))
    for role in ("teacher", "fake"):
        assert all(p.grad is None for p in roles.network(role).parameters())


def test_adapters_off_are_the_base_bit_for_bit(folder):
    model = open_twin(folder)
    z, u = inputs(model, 2)
    cond = model.encode(["a red circle", "a star"])
    with torch.no_grad():
        before = model.call(model.network, z, u, cond)
    roles = LoraRoles(model.network, model.call, model.lora_targets, rank=2)
    roles.backward("student", roles.student(z, u, cond).square().mean())
    with torch.no_grad():
        for parameter in roles.parameters("student"):
            parameter.add_(0.1)
        assert torch.equal(roles.teacher(z, u, cond), before)
        assert not torch.allclose(roles.student(z, u, cond), before)


def test_the_feature_block_sees_the_image(model):
    z, u = inputs(model, 2)
    cond = model.encode(["a red circle", "a star"])
    roles = CopyRoles(model.network, model.call, feature_block=model.feature_block)
    with torch.no_grad():
        a, b = roles.features("teacher", z, u, cond), roles.features("teacher", z + 1, u, cond)
    assert a.ndim in (3, 4)
    assert len(a) == 2
    assert not torch.allclose(a, b)


def test_an_exported_adapter_makes_the_teachers_pipeline_the_student(folder, tmp_path):
    model = open_twin(folder)
    z, u = inputs(model, 2)
    cond = model.encode(["a red circle", "a star"])
    roles = LoraRoles(model.network, model.call, model.lora_targets, rank=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in roles.parameters("student"):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        student, teacher = roles.student(z, u, cond), roles.teacher(z, u, cond)
    written = export_lora(tmp_path / "lora", recipe(model), model, roles, "sde", 7)
    assert written == (model.family != "pixart_sigma")
    if not written:
        return
    plain = open_twin(folder)
    plain.pipeline.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
    with torch.no_grad():
        loaded = plain.call(plain.network, z, u, cond)
    torch.testing.assert_close(loaded, student, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(student, teacher, atol=1e-3)
    card = (tmp_path / "lora" / "README.md").read_text()
    assert "load_lora_weights" in card
    assert type(model.student_scheduler(uniform_grid(4), "sde")).__name__ in card


def test_prompts_that_would_be_cut_are_found(folder):
    pipeline = open_twin(folder).pipeline
    long = "a large striped red circle at the left on a gray background " * 120
    cut, limit = too_long(pipeline, [PROMPT, long])
    assert cut == [long]
    assert 0 < limit <= 1024
