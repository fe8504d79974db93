"""The student as a folder that plain diffusers opens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import folder_atomic, write_json
from ..method.student import Sampler
from ..teachers.denoisers import Denoiser
from ..teachers.roles import CopyRoles, Roles

SETTINGS = "ddmd.json"


def student_network(roles: Roles) -> nn.Module:
    """The student alone as a plain network: a copy, with its adapter merged where it has one."""
    if isinstance(roles, CopyRoles):
        return copy.deepcopy(roles.plain("student"))
    from peft.tuners.tuners_utils import BaseTunerLayer

    network: Any = copy.deepcopy(roles.plain("student"))
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
    """Write a diffusers pipeline: the student's network, a stock scheduler whose grid is the student's, and ddmd's own settings.

    `DiffusionPipeline.from_pretrained(folder)(prompt, **call)` then samples as ddmd does, with `call` as kept in the settings.
    """
    scheduler = denoiser.student_scheduler(grid, sampler)
    parts = {**denoiser.pipeline.components, denoiser.component: network.to("cpu", torch.float32).eval(), "scheduler": scheduler}
    pipeline = type(denoiser.pipeline)(**parts, **denoiser.pipeline_options)
    pipeline.set_progress_bar_config(disable=True)
    with folder_atomic(folder) as temporary:
        pipeline.save_pretrained(temporary)
        settings = {"grid": list(grid), "steps": len(grid), "sampler": sampler, "guidance": 1.0, "call": denoiser.stock_call(grid)}
        settings["resolution"] = denoiser.resolution
        write_json(temporary / SETTINGS, {**settings, **about})
