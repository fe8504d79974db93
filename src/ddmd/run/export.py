"""The student as a folder that plain diffusers opens."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..files import folder_atomic, write_json
from ..method.student import Sampler
from ..teachers.denoisers import Denoiser
from ..teachers.roles import CopyRoles, LoraRoles, Roles

SETTINGS, INDEX = "ddmd.json", "model_index.json"
UNSAFE = ("*.bin", "*.pt", "*.ckpt", "*.msgpack", "*.h5", "*.onnx*")  # a student carries safetensors alone


def student_network(roles: Roles) -> nn.Module:
    """The student alone as a plain network: a copy, with its adapter merged where it has one."""
    if isinstance(roles, CopyRoles):
        return copy.deepcopy(roles.plain("student"))
    from peft.tuners.tuners_utils import BaseTunerLayer

    network: Any = copy.deepcopy(roles.plain("student")).float()  # in less, a merge rounds the adapter away
    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(adapter_names=["student"])
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.get_base_layer())
    if hasattr(network, "_hf_peft_config_loaded"):
        network._hf_peft_config_loaded = False
    return network


def export_student(
    folder: Path, denoiser: Denoiser, network: nn.Module, grid: tuple[float, ...], sampler: Sampler, about: dict[str, Any]
) -> None:
    """Write a diffusers pipeline: the teacher's own files, with the student's network, a few-step scheduler and ddmd's settings.

    `DiffusionPipeline.from_pretrained(folder)(prompt, **call)` then samples as ddmd does, with `call` as kept in the settings.
    """
    scheduler = denoiser.student_scheduler(grid, sampler)
    index = json.loads((denoiser.folder / INDEX).read_text())
    changed = {denoiser.component, "scheduler"}
    with folder_atomic(folder) as temporary:
        for name, value in index.items():
            if isinstance(value, list) and value[0] is not None and name not in changed:
                shutil.copytree(denoiser.folder / name, temporary / name, ignore=shutil.ignore_patterns(*UNSAFE))
        cast(Any, network.to("cpu", torch.float32).eval()).save_pretrained(temporary / denoiser.component)
        scheduler.save_pretrained(temporary / "scheduler")
        write_json(temporary / INDEX, index | {"scheduler": ["diffusers", type(scheduler).__name__]})
        settings = {
            "grid": list(grid), "steps": len(grid), "sampler": sampler, "guidance": 1.0, "resolution": denoiser.resolution,
            "call": denoiser.stock_call(grid),
        }  # fmt: skip
        write_json(temporary / SETTINGS, {**settings, **about})


def export_lora(folder: Path, denoiser: Denoiser, roles: LoraRoles) -> bool:
    """Write the student's adapter as a file that the teacher's pipeline takes by `load_lora_weights`.

    The pipeline still needs the student's scheduler and call, which `export_student` writes. Returns False for
    a family whose pipeline loads no LoRA.
    """
    from peft import get_peft_model_state_dict

    pipeline = type(denoiser.pipeline)
    if not hasattr(pipeline, "save_lora_weights"):
        return False
    network: Any = roles.plain("student")
    layers = get_peft_model_state_dict(network, adapter_name="student")
    with folder_atomic(folder) as temporary:
        pipeline.save_lora_weights(temporary, **{f"{denoiser.component}_lora_layers": layers}, safe_serialization=True)
    return True
