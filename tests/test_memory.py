import pytest

from ddmd.errors import InputError
from ddmd.measure.memory import estimate, tensor_shapes
from ddmd.run.recipe import load_recipe
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.roles import LoraRoles
from tiny import save_twin


@pytest.fixture(scope="module", params=["sdxl-eps", "z_image"])
def folder(request, tmp_path_factory):
    return save_twin(request.param, tmp_path_factory.mktemp("twin") / request.param)


def recipe(folder, *more):
    name = "sdxl_ddmd_lora" if "sdxl" in folder.name else "zimage_ddmd_8step_lora"
    return load_recipe(name, [f"model={folder}", "adapters.rank=3", *more])


def test_the_estimate_counts_what_the_roles_really_hold(folder):
    model = load_denoiser(folder, 16)
    base = sum(p.numel() for p in model.network.parameters())
    assert sum(len(s) > 0 for s in tensor_shapes(folder / model.component).values()) > 10
    roles = LoraRoles(model.network, model.call, model.lora_targets, rank=3)
    adapter = sum(p.numel() for p in roles.parameters("student"))
    found = estimate(recipe(folder)).parts
    assert found["teacher, frozen"] == 2 * base  # bfloat16
    assert found["student: weights, gradients, moments"] == found["fake: weights, gradients, moments"] == 16 * adapter
    assert found["average of the student"] == 4 * adapter


def test_full_copies_cost_more_and_the_keys_are_named(folder):
    lean, dear = estimate(recipe(folder)), estimate(recipe(folder, "adapters=null", "optim.precision=fp32"))
    assert dear.total > 2 * lean.total
    assert {"adapters.rank=64", "optim.precision=bf16"} <= set(dear.savings) - set(lean.savings)


def test_encoders_count_where_a_suite_keeps_them(folder):
    assert not any(name.startswith("text_encoder") for name in estimate(recipe(folder)).parts)
    assert any(name.startswith("text_encoder") for name in estimate(load_recipe("shapes", [])).parts)


def test_damage_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="model_index"):
        estimate(recipe(tmp_path))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "x.safetensors").write_bytes(b"12")
    with pytest.raises(InputError, match="a damaged file"):
        tensor_shapes(tmp_path / "unet")
