"""Published few-step students of SDXL, sampled as their authors say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...devices import best_device
from ...errors import InputError
from ...teachers.denoisers import read_index
from ...teachers.denoisers.parts import load_network, load_networks
from .artists import PipelineArtist
from .weights import read_states, sha256_of

Weights = Literal["pipeline", "unet", "lora"]


@dataclass(frozen=True)
class Comparator:
    """A published student: the scheduler and call of its model card, and the forms that its weights come in.

    `guidance` is diffusers' own; 0 and 1 mean none. `timesteps` are given where a scheduler's own spacing is not the authors'.
    """

    weights: tuple[Weights, ...]
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 4
    guidance: float = 0.0
    pixels: int = 1024
    timesteps: tuple[int, ...] | None = None
    source: str = ""


TRAILING = {"timestep_spacing": "trailing"}
COMPARATORS: dict[str, Comparator] = {
    # Its guidance is an input of the U-Net; eight is its model card's.
    "lcm": Comparator(("unet", "pipeline"), "LCMScheduler", guidance=8.0, source="latent-consistency/lcm-sdxl"),
    "lcm-lora": Comparator(("lora",), "LCMScheduler", guidance=1.0, source="latent-consistency/lcm-lora-sdxl"),
    "turbo": Comparator(("pipeline",), "EulerAncestralDiscreteScheduler", TRAILING, pixels=512, source="stabilityai/sdxl-turbo"),
    "lightning": Comparator(("unet", "lora"), "EulerDiscreteScheduler", TRAILING, source="ByteDance/SDXL-Lightning, four-step files"),
    "flash": Comparator(("lora",), "LCMScheduler", TRAILING, source="jasperai/flash-sdxl"),
    "pcm": Comparator(
        ("lora",), "DDIMScheduler", {**TRAILING, "clip_sample": False, "set_alpha_to_one": False}, guidance=1.0,
        source="wangfuyun/PCM_Weights, sdxl, four-step small-CFG file",
    ),
    "dmd2": Comparator(("unet", "lora"), "LCMScheduler", timesteps=(999, 749, 499, 249), source="tianweiy/DMD2, sdxl four-step files"),
}  # fmt: skip


def parse(text: str) -> tuple[str, Path] | None:
    """`KIND:PATH` -> kind and path; None for anything that does not begin with a comparator's name."""
    kind, separator, path = text.partition(":")
    return (kind, Path(path)) if separator and kind in COMPARATORS else None


def open_comparator(kind: str, weights: Path, base: Path | None) -> PipelineArtist:
    """A published student from local files: a pipeline's folder, or a U-Net or LoRA put into the SDXL pipeline at `base`.

    Raises InputError for a form that it is not published in, a missing base, and files of another network.
    """
    found = COMPARATORS[kind]
    form = form_of(weights)
    if form not in found.weights:
        raise InputError(f"{kind}:{weights}", f"a {form}", f"{kind} is published as {' or '.join(found.weights)} ({found.source})")
    if form != "pipeline" and base is None:
        raise InputError("--base", "nothing", f"{kind} is a {form}: name the folder of the SDXL pipeline that it belongs to")
    pipeline = _pipeline(base if base and form != "pipeline" else weights)
    try:
        if form == "unet":
            pipeline.unet = _unet(weights, pipeline.unet)
        elif form == "lora":
            pipeline.load_lora_weights(str(weights.parent), weight_name=weights.name)
            pipeline.fuse_lora()
    except (KeyError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{kind}:{weights}", f"weights that do not fit ({reason})", "give files made for this base") from error
    import diffusers

    pipeline.scheduler = getattr(diffusers, found.scheduler).from_config(pipeline.scheduler.config, **found.options)
    pipeline.to(best_device())
    own = pipeline.default_sample_size * pipeline.vae_scale_factor
    pixels = min(found.pixels, own)
    call: dict[str, Any] = {"guidance_scale": found.guidance, "height": pixels, "width": pixels}
    call |= {"timesteps": list(found.timesteps)} if found.timesteps else {"num_inference_steps": found.steps}
    identity = {
        "kind": kind, "form": form, "weights_sha256": sha256_of(weights), "base_sha256": sha256_of(base) if base and form != "pipeline" else None,
        "scheduler": found.scheduler, **{f"scheduler.{key}": value for key, value in found.options.items()},
    }  # fmt: skip
    return PipelineArtist(kind, pipeline, call, identity)


def form_of(path: Path) -> Weights:
    """A pipeline's folder, a U-Net (its folder or file), or a LoRA file. Raises InputError for anything else."""
    if (path / "model_index.json").is_file():
        return "pipeline"
    if (path / "config.json").is_file():
        return "unet"
    if not path.is_file():
        raise InputError(str(path), "no weights", "give a pipeline's folder, or a U-Net's or LoRA's file")
    return "lora" if any("lora" in name for name in _names(path)) else "unet"


def _names(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                return list(file.keys())
        except (SafetensorError, OSError) as error:
            raise InputError(str(path), "a damaged file", "get it again") from error
    return list(read_states(path))


def _pipeline(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    try:
        networks = load_networks(Path(folder), read_index(Path(folder)))
        pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **networks)
    except InputError:
        raise
    except Exception as error:  # as in `load_denoiser`
        reason = " ".join(str(error).split())[:120]
        raise InputError(str(folder), f"no pipeline ({reason})", "give a folder in diffusers' format") from error
    if not hasattr(pipeline, "unet"):
        raise InputError(str(folder), type(pipeline).__name__, "comparators are students of SDXL: give an SDXL pipeline")
    return pipeline


def _unet(weights: Path, base: Any) -> Any:
    from diffusers import UNet2DConditionModel

    if weights.is_dir():
        return load_network(UNet2DConditionModel, weights)
    states, config = read_states(weights), dict(base.config)
    if (table := states.get("time_embedding.cond_proj.weight")) is not None:
        config["time_cond_proj_dim"] = table.shape[1]  # LCM: guidance is embedded
    network = UNet2DConditionModel.from_config(config)
    network.load_state_dict(states)
    return network.to(base.dtype)
