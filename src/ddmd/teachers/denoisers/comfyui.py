"""How ComfyUI names the layers of each family: what an adapter's keys must be for its LoRA loader to know them.

Facts from ComfyUI's key tables of 2026 (comfy/lora.py, comfy/utils.py, comfy/model_sampling.py). It knows every model by its
original layers, under `diffusion_model.`, and by diffusers' layers for the families that it has a table of. Where an original
layer holds what diffusers keeps in several, that table gives each its rows; Lumina-Image-2.0 has none of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import InputError

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
ATTENTION = r"to_[qkv]|to_out\.0"
JOINT = rf"{ATTENTION}|add_[qkv]_proj|to_add_out"


@dataclass(frozen=True)
class Naming:
    """A family in ComfyUI. `layers` matches what its table knows of diffusers' layers, whole.

    `renamed` gives endings of names the original model's, and `fused` those that it keeps in one layer, in the order of their rows.
    `shift_node` sets the time shift.
    """

    layers: str
    prefix: str = "transformer."
    renamed: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shift_node: str | None = None


FLUX = rf"transformer_blocks\.\d+\.attn\.({JOINT})|single_transformer_blocks\.\d+\.attn\.to_[qkv]"
UNET = rf"(down_blocks\.\d+|up_blocks\.\d+|mid_block)\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.({ATTENTION})"
NAMINGS = {
    "chroma": Naming(FLUX, shift_node="ModelSamplingAuraFlow"),
    "flux": Naming(FLUX, shift_node="ModelSamplingAuraFlow"),
    "lumina2": Naming(
        rf"(layers|noise_refiner|context_refiner)\.\d+\.attn\.({ATTENTION})",
        prefix="diffusion_model.",
        renamed={"attn.to_out.0": "attention.out"},
        fused={"attention.qkv": ("attn.to_q", "attn.to_k", "attn.to_v")},
        shift_node="ModelSamplingAuraFlow",
    ),
    "pixart_sigma": Naming(rf"transformer_blocks\.\d+\.attn[12]\.({ATTENTION})"),
    "qwen_image": Naming(rf"transformer_blocks\.\d+\.attn\.({JOINT})", shift_node="ModelSamplingAuraFlow"),
    "sd15": Naming(UNET, prefix="unet."),
    "sd3": Naming(rf"transformer_blocks\.\d+\.(attn\.({JOINT})|attn2\.({ATTENTION}))", shift_node="ModelSamplingSD3"),
    "sdxl": Naming(UNET, prefix="unet."),
    "z_image": Naming(
        rf"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.({ATTENTION})|feed_forward\.w[123])",
        shift_node="ModelSamplingAuraFlow",
    ),
}


def naming(family: str) -> Naming:
    """Raises InputError for a family that ComfyUI has no model of."""
    if family not in NAMINGS:
        raise InputError("--to", f"comfyui for {family}, which ComfyUI itself does not load", "use diffusers or lora")
    return NAMINGS[family]


def comfyui_tensors(family: str, adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter of diffusers' layers (NAME.lora_A.weight, NAME.lora_B.weight) under ComfyUI's keys; none needs an `alpha`.

    Raises InputError for a family, or a layer of one, that ComfyUI does not know.
    """
    names, factors = naming(family), _factors(adapter)
    for layer in factors:
        if not re.fullmatch(names.layers, layer):
            raise InputError("--to", f"comfyui with an adapter on {layer}, which it has no name for", "use diffusers or lora")
    for whole, parts in names.fused.items():
        factors = _fuse(factors, whole, parts)
    found: dict[str, Tensor] = {}
    for layer, (down, up) in factors.items():
        for ending, new in names.renamed.items():
            if layer.endswith(f".{ending}"):
                layer = layer.removesuffix(ending) + new
        found |= {f"{names.prefix}{layer}{DOWN}": down.contiguous(), f"{names.prefix}{layer}{UP}": up.contiguous()}
    if names.prefix == "unet.":  # kohya's keys, which older versions know too
        from diffusers.utils import convert_state_dict_to_kohya

        return convert_state_dict_to_kohya(found)
    return found


def _factors(adapter: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """(down (r, in), up (out, r)) by layer."""
    layers = [key.removesuffix(DOWN) for key in adapter if key.endswith(DOWN)]
    return {layer: (adapter[layer + DOWN], adapter[layer + UP]) for layer in layers}


def _fuse(factors: dict[str, tuple[Tensor, Tensor]], whole: str, parts: tuple[str, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Adapters of layers that read one input as the adapter of the layer whose rows are theirs, one after another.

    Its down is theirs stacked and its up block-diagonal, so that the product, the change of the weight, is theirs stacked.
    """
    found = dict(factors)
    first = parts[0]
    for stem in [layer.removesuffix(first) for layer in factors if layer.endswith(f".{first}")]:
        downs, ups = zip(*(found.pop(stem + part) for part in parts), strict=True)
        found[stem + whole] = torch.cat(downs), torch.block_diag(*ups)
    return found
