"""Adapters for ComfyUI against an independent statement of what its LoRA loader knows.

Read from its tables of 2026 (comfy/lora.py, comfy/utils.py): a key names a weight of the original model, or some of its rows.
"""

import re

import pytest
import torch
from safetensors.torch import load_file
from test_families import inputs, open_twin, recipe

from ddmd.errors import InputError
from ddmd.run.export import export_comfyui
from ddmd.teachers.denoisers.comfyui import NAMINGS, comfyui_tensors
from ddmd.teachers.roles import LoraRoles
from tiny import TWINS, save_twin

LOADED = [name for name in TWINS if name not in ("sana", "sdxl-v", "sd3-shift3", "flux-unguided")]


@pytest.fixture(scope="module", params=LOADED)
def made(request, tmp_path_factory):
    """A twin, a student's adapter on it, and the tensors of its file."""
    root = tmp_path_factory.mktemp("comfyui") / request.param
    root.mkdir()
    model = open_twin(save_twin(request.param, root / "pipeline"))
    roles = LoraRoles(model.network, model.call, model.lora_targets, rank=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in roles.parameters("student"):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    export_comfyui(root / "comfy", recipe(model), model, roles, "sde", 7)
    return model, roles, load_file(root / "comfy" / "twin.safetensors"), root


def merged(roles):
    """What the adapter adds to each weight of diffusers' network."""
    parts = {}
    for name, value in roles.state_dict("student").items():
        layer, _, factor = name.partition(".lora_")
        parts.setdefault(layer, {})[factor[0]] = value
    return {layer: part["B"] @ part["A"] for layer, part in parts.items()}


def thirds(rows, *names):
    """Layers of equal height that share one weight."""
    return {name: (i * rows, rows) for i, name in enumerate(names)}


def table(model, layers):
    """ComfyUI's key of each diffusers layer, the weight it stands for, and its rows there: {layer: (key, weight, rows or None)}."""
    config, found = model.network.config, {}
    for layer in layers:
        block, _, end = layer.rpartition(".attn.") if ".attn." in layer else layer.rpartition(".attention.")
        if model.component == "unet":
            found[layer] = ("lora_unet_" + layer.replace(".", "_"), layer, None)
        elif model.family == "lumina2":
            width = config.hidden_size // config.num_attention_heads
            q, kv = config.hidden_size, config.num_kv_heads * width
            rows = {"to_q": (0, q), "to_k": (q, kv), "to_v": (q + kv, kv)}
            name = "qkv" if end in rows else "out"
            weight = f"{block}.attention.{name}"
            found[layer] = (f"diffusion_model.{weight}", weight, rows.get(end))
        elif model.family == "z_image" and ".attention." in layer:
            rows = thirds(config.dim, "to_q", "to_k", "to_v")
            found[layer] = (f"transformer.{layer}", f"{block}.attention.{'qkv' if end in rows else 'out'}", rows.get(end))
        elif model.family == "pixart_sigma":
            width = config.num_attention_heads * config.attention_head_dim
            block, own, end = re.fullmatch(r"(.*)\.attn([12])\.(.*)", layer).groups()
            rows = thirds(width, "to_q", "to_k", "to_v") if own == "1" else thirds(width, "to_k", "to_v")
            weight = f"{block}.{own}.{'fused' if end in rows else end}"
            found[layer] = (f"transformer.{layer}", weight, rows.get(end))
        elif model.family in ("sd3", "flux", "chroma"):
            width = config.num_attention_heads * config.attention_head_dim
            image, text = thirds(width, "to_q", "to_k", "to_v"), thirds(width, "add_q_proj", "add_k_proj", "add_v_proj")
            stream = "txt" if end in text or end == "to_add_out" else "img"
            rows = (image | text).get(end)
            found[layer] = (f"transformer.{layer}", f"{block}.{stream}.{'qkv' if rows else 'proj'}", rows)
        else:  # the original layers are diffusers'
            found[layer] = (f"transformer.{layer}", layer, None)
    return found


def loaded(tensors, known):
    """What the loader adds to the original weights: {weight: {(first row, rows) or None: change}}; raises for a key it does not know."""
    places = {key: (weight, rows if not shared else None) for key, weight, rows, shared in known}
    changes = {}
    for key in {re.sub(r"\.(lora_(A|B|down|up)\.weight|alpha)$", "", key) for key in tensors}:
        weight, rows = places[key]
        down = tensors.get(f"{key}.lora_A.weight", tensors.get(f"{key}.lora_down.weight"))
        up = tensors.get(f"{key}.lora_B.weight", tensors.get(f"{key}.lora_up.weight"))
        alpha = tensors.get(f"{key}.alpha")
        scale = 1 if alpha is None else alpha.item() / len(down)
        changes.setdefault(weight, {})[rows] = scale * up @ down
    return changes


def test_every_key_is_known_and_changes_the_weight_as_the_adapter_does(made):
    model, roles, tensors, _ = made
    expected = merged(roles)
    assert len(expected) > 5
    known = table(model, expected)
    fused = model.family == "lumina2"  # its key is the whole weight's, whatever rows a layer has there
    changes = loaded(tensors, [(key, weight, rows, fused) for key, weight, rows in known.values()])
    reached = 0
    for layer, change in expected.items():
        _, weight, rows = known[layer]
        given = changes[weight]
        whole = given[None] if None in given else given[rows]
        part = whole[rows[0] : sum(rows)] if rows and None in given else whole
        torch.testing.assert_close(part, change, atol=1e-6, rtol=1e-6)
        reached += part.numel()
    # Nothing else is touched.
    assert reached == sum(change.numel() for given in changes.values() for change in given.values())


def test_diffusers_reads_most_of_these_files_too(made):
    model, roles, _, root = made
    if model.family in ("lumina2", "pixart_sigma"):  # diffusers' reader wants all of a block's layers; the other has none
        return
    z, u = inputs(model, 2)
    cond = model.encode(["a red circle", "a star"])
    plain = open_twin(root / "pipeline")
    plain.pipeline.load_lora_weights(root / "comfy", weight_name="twin.safetensors")
    with torch.no_grad():
        student, there = roles.student(z, u, cond), plain.call(plain.network, z, u, cond)
    torch.testing.assert_close(there, student, atol=1e-5, rtol=1e-5)


def test_the_card_names_the_nodes_and_their_settings(made):
    model, _, _, root = made
    card = (root / "comfy" / "README.md").read_text()
    assert "KSampler: 4 steps, cfg 1, sampler `lcm`, scheduler `simple`" in card
    node = NAMINGS[model.family].shift_node
    assert (node is not None) == (model.shift is not None)
    if node:
        assert f"{node}: shift {model.shift:g}." in card


def test_what_comfyui_does_not_know_is_refused():
    layer = {"x.lora_A.weight": torch.zeros(2, 4), "x.lora_B.weight": torch.zeros(4, 2)}
    with pytest.raises(InputError, match="comfyui for sana"):
        comfyui_tensors("sana", layer)
    with pytest.raises(InputError, match="an adapter on x"):
        comfyui_tensors("flux", layer)
