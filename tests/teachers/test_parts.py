"""Networks whose files lack something: one line that names it, in every kind of part; renamed and tied weights are no fault."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddmd.errors import InputError
from ddmd.quiet import quiet_libraries
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.denoisers.parts import load_network, network_class
from tiny import TWINS, save_twin

quiet_libraries()
PARTS = [
    ("sd3", "text_encoder"), ("sd3", "text_encoder_3"), ("sd3", "transformer"), ("sd3", "vae"), ("sdxl-kl", "unet"), ("sdxl-kl", "vae"),
    ("lumina2", "text_encoder"), ("qwen_image", "text_encoder"), ("qwen_image", "vae"),
]  # fmt: skip


@pytest.fixture(scope="module")
def twins():
    built = {}
    return lambda name: built.setdefault(name, TWINS[name]())


@pytest.fixture
def saved(twins, tmp_path):
    """A part of a twin as it is saved: its class, its folder, its tensors."""

    def save(name, part, **options):
        network = getattr(twins(name), part)
        network.save_pretrained(tmp_path / part, **options)
        return type(network), tmp_path / part, network.state_dict()

    return save


def rewrite(folder, change):
    """Put other tensors into the only file of a folder."""
    (file,) = folder.glob("*.safetensors")
    save_file(change(load_file(file)), file, {"format": "pt"})


def without(key):
    return lambda tensors: {name: value for name, value in tensors.items() if name != key}


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_missing_and_a_misshapen_tensor_are_named(name, part, saved):
    kind, folder, _ = saved(name, part)
    (file,) = folder.glob("*.safetensors")
    whole = load_file(file)
    for key in [sorted(whole)[0], sorted(whole)[-1]]:
        rewrite(folder, without(key))
        with pytest.raises(InputError, match=rf"{part}: found [12] tensors? missing, such as .*{key.rpartition('.')[2]}; copy"):
            load_network(kind, folder)
        save_file(whole | {key: torch.zeros(3, 5, 7)}, file, {"format": "pt"})
        with pytest.raises(InputError, match=r"1 tensor of another shape than its config\.json says, such as .*, \(3, 5, 7\) for \("):
            load_network(kind, folder)
        save_file(whole, file, {"format": "pt"})
    load_network(kind, folder)


def as_published(name, key):
    """Names under which models are published though diffusers' or transformers' of today save them otherwise."""
    if name == "sdxl-kl" and ".attentions.0." in key:
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            key = key.replace(f".{new}.", f".{old}.")
    if name == "sd3" and key == "shared.weight":
        return "encoder.embed_tokens.weight"
    return f"model.{key}" if name in ("lumina2", "z_image") else key


@pytest.mark.parametrize(
    ("name", "part"), [("sd3", "text_encoder_3"), ("sdxl-kl", "vae"), ("lumina2", "text_encoder"), ("z_image", "text_encoder")]
)
def test_tied_renamed_and_superfluous_tensors_are_no_fault(name, part, saved):
    kind, folder, states = saved(name, part)
    rewrite(folder, lambda tensors: {as_published(name, key): value for key, value in tensors.items()} | {"more": torch.zeros(1)})
    found = load_network(kind, folder).state_dict()
    assert all(torch.equal(found[key], value) for key, value in states.items())


@pytest.mark.parametrize(("name", "part"), [("sd3", "text_encoder_3"), ("sd3", "transformer")])
def test_several_files_are_held_against_their_index(name, part, saved):
    kind, folder, states = saved(name, part, max_shard_size="20KB")
    found = load_network(kind, folder).state_dict()
    assert all(torch.equal(found[key], value) for key, value in states.items())
    (index,) = folder.glob("*.index.json")
    content = json.loads(index.read_text())
    first, *_, last = sorted(folder.glob("*.safetensors"))
    key, *_ = load_file(first)
    save_file(without(key)(load_file(first)), first, {"format": "pt"})
    with pytest.raises(InputError, match=f"{first.name}: found 1 tensor missing, such as {key}"):
        load_network(kind, folder)
    del content["weight_map"][key]
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{part}: found [12] tensors? missing, such as"):
        load_network(kind, folder)
    last.unlink()
    with pytest.raises(InputError, match=f"{last.name}: found no such file"):
        load_network(kind, folder)
    index.write_text("[]")
    with pytest.raises(InputError, match="no weight_map"):
        load_network(kind, folder)


def test_a_sentence_encoder_may_lack_the_pooler_that_no_pipeline_asks(tmp_path):
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(vocab_size=8, **small), add_pooling_layer=False).save_pretrained(tmp_path)
    assert load_network(BertModel, tmp_path).embeddings is not None
    rewrite(tmp_path, without("encoder.layer.0.output.dense.bias"))
    with pytest.raises(InputError, match=r"1 tensor missing, such as encoder.layer.0.output.dense.bias"):
        load_network(BertModel, tmp_path)


def test_files_in_half_precision_give_float32(saved):
    kind, folder, _ = saved("lumina2", "text_encoder")
    load_network(kind, folder).to(torch.bfloat16).save_pretrained(folder)
    assert {value.dtype for value in load_network(kind, folder).parameters()} == {torch.float32}


def test_a_pipeline_with_a_hole_does_not_open(tmp_path):
    folder = save_twin("sd15", tmp_path / "model")
    load_denoiser(folder)
    rewrite(folder / "text_encoder", without("final_layer_norm.weight"))
    with pytest.raises(InputError, match="text_encoder: found 1 tensor missing, such as final_layer_norm.weight"):
        load_denoiser(folder)


def test_damaged_configurations_and_absent_weights_are_named(untrained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)

    def damaged(path, content, message):
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            load_denoiser(folder)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)

    for name in ("unet/config.json", "text_encoder_2/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        for content in (b"", b"{", b"[]", b'"x"', b"\xff{}"):
            damaged(folder / name, content, name.replace(".", r"\."))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for content in (b"", b"\xff" * 8 + weights.read_bytes()[8:], weights.read_bytes()[:-4]):
        damaged(weights, content, r"unet/diffusion_pytorch_model\.safetensors: found a damaged file")
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(InputError, match=r"unet: found weights in half precision alone"):
        load_denoiser(folder)
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(InputError, match="scheduler: found no such folder"):
        load_denoiser(folder)


def test_networks_are_told_from_other_parts():
    assert network_class("transformers", "T5EncoderModel").__name__ == "T5EncoderModel"
    assert network_class("stable_diffusion", "StableDiffusionSafetyChecker").__name__ == "StableDiffusionSafetyChecker"
    for other in (("diffusers", "DDIMScheduler"), ("transformers", "CLIPTokenizer"), ("elsewhere", "Network"), ("diffusers", "NoSuch")):
        assert network_class(*other) is None
