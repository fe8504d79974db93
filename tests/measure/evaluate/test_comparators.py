"""Published students on the tiny SDXL twin, with tiny files of every form they are published in."""

import pytest
import torch
from safetensors.torch import save_file

from ddmd.errors import InputError
from ddmd.measure.evaluate.benchmark import is_gallery, labels_of
from ddmd.measure.evaluate.comparators import COMPARATORS, form_of, open_comparator, parse
from tiny import save_twin

PROMPTS, SEEDS = ["a red circle", "a blue star"], [1, 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_twin("sdxl-kl", tmp_path_factory.mktemp("twin") / "sdxl")


@pytest.fixture(scope="module")
def files(base, tmp_path_factory):
    """A U-Net file, a U-Net with embedded guidance, a U-Net folder, a LoRA."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tmp_path_factory.mktemp("files")
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config(pipeline.unet.config)
    save_file(unet.state_dict(), folder / "unet.safetensors")
    torch.save(unet.state_dict(), folder / "unet.bin")
    unet.save_pretrained(folder / "unet")
    lcm = UNet2DConditionModel.from_config({**unet.config, "time_cond_proj_dim": 16})
    save_file(lcm.state_dict(), folder / "lcm.safetensors")
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(pipeline.unet), weight_name="lora.safetensors"
    )
    return folder


FORMS = {"unet": "unet.safetensors", "lora": "lora.safetensors"}


@pytest.mark.parametrize(("kind", "form"), [(kind, form) for kind, c in COMPARATORS.items() for form in c.weights])
def test_every_form_draws_as_its_authors_say(kind, form, base, files):
    weights = base if form == "pipeline" else files / ("lcm.safetensors" if kind == "lcm" else FORMS[form])
    artist = open_comparator(kind, weights, base)
    scheduler = artist.pipeline.scheduler
    assert type(scheduler).__name__ == COMPARATORS[kind].scheduler
    assert all(scheduler.config[key] == value for key, value in COMPARATORS[kind].options.items())
    seen = []
    artist.pipeline.unet.register_forward_pre_hook(lambda module, args: seen.append((int(args[1]), len(args[0]))))
    images = artist.draw(PROMPTS, SEEDS)
    assert len(images) == 2 and images[0].size == (32, 32)
    assert [rows for _, rows in seen] == [2, 2, 2, 2] if kind != "lcm" or form != "pipeline" else True  # four steps, no second pass
    if kind == "dmd2":
        assert [t for t, _ in seen] == [999, 749, 499, 249]
    assert artist.evaluations == sum(rows for _, rows in seen)
    assert [image.tobytes() for image in artist.draw(PROMPTS, SEEDS)] == [image.tobytes() for image in images]
    assert artist.identity()["kind"] == kind and len(artist.identity()["weights_sha256"]) == 64


def test_weights_change_the_pictures(base, files):
    plain = open_comparator("turbo", base, None).draw(PROMPTS[:1], SEEDS[:1])[0]
    lora, unet = (open_comparator("lightning", files / name, base).draw(PROMPTS[:1], SEEDS[:1])[0] for name in FORMS.values())
    assert len({plain.tobytes(), lora.tobytes(), unet.tobytes()}) == 3


def test_forms_are_found_by_their_content(base, files):
    assert [form_of(path) for path in (base, files / "unet", files / "unet.safetensors", files / "unet.bin", files / "lora.safetensors")] == [
        "pipeline", "unet", "unet", "unet", "lora",
    ]  # fmt: skip
    assert parse("dmd2:/a/b") is not None and parse("/a:b") is None and parse("shapes") is None
    assert labels_of(["dmd2:/a/b", "/runs/mine/"]) == ["dmd2", "mine"]
    with pytest.raises(InputError, match="one name"):
        labels_of(["/a/x", "/b/x"])
    assert not is_gallery(str(base)) and not is_gallery("shapes")


def test_bad_files_are_one_line(base, files, tmp_path):
    with pytest.raises(InputError, match="published as unet or lora"):
        open_comparator("lightning", base, base)
    with pytest.raises(InputError, match="--base"):
        open_comparator("dmd2", files / "unet.safetensors", None)
    with pytest.raises(InputError, match="no weights"):
        open_comparator("dmd2", tmp_path / "none.safetensors", base)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="damaged"):
        open_comparator("dmd2", tmp_path / "torn.safetensors", base)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="do not fit"):
        open_comparator("dmd2", tmp_path / "other.safetensors", base)
    torch.save({"a": object}, tmp_path / "evil.bin")
    with pytest.raises(InputError, match="holds more than tensors"):
        open_comparator("dmd2", tmp_path / "evil.bin", base)
    with pytest.raises(InputError, match="no model_index.json"):
        open_comparator("dmd2", files / "unet.safetensors", tmp_path)
