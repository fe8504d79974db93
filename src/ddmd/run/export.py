"""The student as others open it: a diffusers pipeline, a LoRA file, a LoRA file for ComfyUI."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..files import folder_atomic, read_object, write_json
from ..folders import check_replaceable
from ..method.student import Sampler
from ..teachers.denoisers import Denoiser, load_denoiser, read_index
from ..teachers.denoisers.comfyui import comfyui_tensors
from ..teachers.roles import STUDENT_ONLY, CopyRoles, LoraRoles, Roles
from .assembly import build_roles, open_denoiser
from .card import adapter_usage, comfyui_usage, model_card, pipeline_usage
from .checkpoint import Say, silent, stored_weights
from .recipe import Recipe, load_recipe

SETTINGS, INDEX, CARD = "ddmd.json", "model_index.json", "README.md"
FORMATS = ("diffusers", "lora", "comfyui")
UNSAFE = ("*.bin", "*.pt", "*.ckpt", "*.msgpack", "*.h5", "*.onnx*")  # a student carries safetensors alone


def student_network(roles: Roles, denoiser: Denoiser) -> nn.Module:
    """The student alone as a plain network: a copy, with its adapter merged where it has one."""
    if isinstance(roles, CopyRoles):
        return copy.deepcopy(roles.plain("student"))
    if isinstance(roles, LoraRoles) and roles.rounded:
        # The run's own base has lost digits of the teacher's weights, which `student-lora` is used on; eight bits hold no merge.
        device = next(roles.base.parameters()).device
        roles = roles.on(load_denoiser(denoiser.folder, denoiser.resolution).network)
        roles.to(device)
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


def export_student(folder: Path, recipe: Recipe, denoiser: Denoiser, network: nn.Module, sampler: Sampler, cycle: int) -> None:
    """Write a diffusers pipeline: the teacher's own files, with the student's network, a few-step scheduler, settings and a card.

    `DiffusionPipeline.from_pretrained(folder)(prompt, **call)` then samples as ddmd does, with `call` as kept in the settings.
    """
    scheduler, call = denoiser.student_scheduler(recipe.grid, sampler), denoiser.stock_call(recipe.grid)
    index = read_object(denoiser.folder / INDEX)
    changed = {denoiser.component, "scheduler"}
    with folder_atomic(folder) as temporary:
        for name, (library, _) in read_index(denoiser.folder).parts.items():
            if name not in changed:
                shutil.copytree(
                    denoiser.folder / name, temporary / name, ignore=shutil.ignore_patterns(*UNSAFE), copy_function=shutil.copyfile
                )
                if library == "transformers" and (temporary / name / "config.json").is_file():
                    _open_in_float32(temporary / name / "config.json")
        _in_float32_on_cpu(network).save_pretrained(temporary / denoiser.component)
        scheduler.save_pretrained(temporary / "scheduler")
        write_json(temporary / INDEX, index | {"scheduler": ["diffusers", type(scheduler).__name__]})
        settings = {
            "grid": list(recipe.grid), "steps": len(recipe.grid), "sampler": sampler, "guidance": 1.0, "shift": denoiser.shift, "resolution": denoiser.resolution,
            "call": call, "recipe": recipe.name, "alpha": recipe.objective.alpha, "cycle": cycle, "teacher": recipe.model,
        }  # fmt: skip
        write_json(temporary / SETTINGS, settings)
        (temporary / CARD).write_text(model_card(recipe, denoiser, sampler, cycle, pipeline_usage(call)), encoding="utf-8")


def _open_in_float32(path: Path) -> None:
    """Let transformers open a network as diffusers opens its own, whatever its files hold: halves beside them stop at the first product."""

    def single(config: dict[str, Any]) -> dict[str, Any]:
        named = {key: single(value) if isinstance(value, dict) else value for key, value in config.items()}
        return named | {key: "float32" for key in ("dtype", "torch_dtype") if key in named}

    write_json(path, single({"dtype": None} | read_object(path)))


def _in_float32_on_cpu(network: nn.Module) -> Any:
    """A twin to be saved: the network itself stays where it is and as it is, for whoever goes on with it."""
    from accelerate import init_empty_weights

    model: Any = network
    with init_empty_weights():
        twin = type(model).from_config(model.config)
    twin.load_state_dict({name: value.to("cpu", torch.float32) for name, value in model.state_dict().items()}, assign=True)
    return twin


def export_lora(folder: Path, recipe: Recipe, denoiser: Denoiser, roles: LoraRoles, sampler: Sampler, cycle: int) -> bool:
    """Write the student's adapter as a file that the teacher's pipeline takes by `load_lora_weights`, and a card.

    The pipeline still needs the student's scheduler and call, which the card gives. Returns False for a family whose
    pipeline loads no LoRA.
    """
    pipeline = type(denoiser.pipeline)
    if not hasattr(pipeline, "save_lora_weights"):
        return False
    usage = adapter_usage(denoiser.student_scheduler(recipe.grid, sampler), denoiser.stock_call(recipe.grid))
    with folder_atomic(folder) as temporary:
        layers = {f"{denoiser.component}_lora_layers": _adapter(roles)}
        pipeline.save_lora_weights(temporary, **layers, safe_serialization=True)
        (temporary / CARD).write_text(model_card(recipe, denoiser, sampler, cycle, usage), encoding="utf-8")
    return True


def export_comfyui(folder: Path, recipe: Recipe, denoiser: Denoiser, roles: LoraRoles, sampler: Sampler, cycle: int) -> None:
    """Write the student's adapter under the keys that ComfyUI reads, and a card. Raises InputError for a family unknown there."""
    from safetensors.torch import save_file

    tensors = comfyui_tensors(denoiser.family, _adapter(roles))
    with folder_atomic(folder) as temporary:
        save_file(tensors, temporary / f"{recipe.name}.safetensors", {"format": "pt"})
        card = model_card(recipe, denoiser, sampler, cycle, comfyui_usage(denoiser, recipe.grid, sampler))
        (temporary / CARD).write_text(card, encoding="utf-8")


def export_run(run: Path, to: str, out: Path, say: Say = silent) -> Path:
    """Write a run's student in one of FORMATS into `out`, from its best or newest checkpoint, finished or not.

    Raises InputError for a folder without a run or a checkpoint, an unknown format, or an adapter's from a run of full copies.
    """
    if to not in FORMATS:
        raise InputError("--to", repr(to), f"use one of {', '.join(FORMATS)}")
    if not (run / "recipe.yaml").is_file():
        raise InputError(str(run), "no run in it", "name the folder of a run")
    recipe = load_recipe(str(run / "recipe.yaml"))
    if to != "diffusers" and recipe.adapters is None:
        raise InputError("--to", f"{to} for a student that is a full copy", "use diffusers, or distil with adapters.rank")
    check_replaceable(out)
    weights, cycle = stored_weights(run / "checkpoints", recipe.train.export, say)
    denoiser = open_denoiser(recipe)
    roles, sampler = build_roles(recipe, denoiser, STUDENT_ONLY), recipe.student.sampler or denoiser.sampler
    roles.load_state_dict("student", weights)
    if to == "diffusers":
        export_student(out, recipe, denoiser, student_network(roles, denoiser), sampler, cycle)
    elif isinstance(roles, LoraRoles) and to == "comfyui":
        export_comfyui(out, recipe, denoiser, roles, sampler, cycle)
    elif isinstance(roles, LoraRoles) and not export_lora(out, recipe, denoiser, roles, sampler, cycle):
        raise InputError("--to", f"lora for {denoiser.family}, whose pipeline loads none", "use diffusers")
    return out


def _adapter(roles: LoraRoles) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    network: Any = roles.plain("student")
    return get_peft_model_state_dict(network, adapter_name="student")
