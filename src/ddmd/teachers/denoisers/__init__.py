"""One small file per model family: how its network is called, how prompts become conditions, how a student is exported."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from .base import Denoiser
from .index import INDEX, PipelineIndex, read_index
from .parts import load_networks

# Pipeline class in model_index.json -> module of this package; a new family is one file and one line here.
FAMILIES = {
    "ChromaPipeline": "chroma",
    "FluxPipeline": "flux",
    "Lumina2Pipeline": "lumina2",
    "PixArtSigmaPipeline": "pixart",
    "QwenImagePipeline": "qwen_image",
    "SanaPipeline": "sana",
    "StableDiffusion3Pipeline": "sd3",
    "StableDiffusionPipeline": "sd15",
    "StableDiffusionXLPipeline": "sdxl",
    "ZImagePipeline": "z_image",
}

LARGE = 256  # pixels above which an autoencoder takes images one at a time: its widest layers hold gigabytes

__all__ = ["FAMILIES", "INDEX", "Denoiser", "PipelineIndex", "check_family", "family_of", "load_denoiser", "read_index"]


def family_of(folder: Path) -> type[Denoiser]:
    """The denoiser class of a pipeline folder. Raises InputError where its index is missing, damaged or of an unknown class."""
    name = read_index(folder).class_name
    if name not in FAMILIES:
        raise InputError(str(folder / INDEX), f"pipeline class {name[:80]}", f"known families: {', '.join(FAMILIES)}")
    return importlib.import_module(f".{FAMILIES[name]}", __package__).DENOISER


def check_family(folder: Path, wanted: str | None, recipe: str) -> None:
    """Raise InputError where a recipe was made for another family than the pipeline folder's."""
    found = family_of(folder).family
    if wanted not in (None, found):
        raise InputError(
            "model",
            f"a {found} pipeline for the recipe {recipe}, made for {wanted}",
            "take a recipe of its family, or one of your own with family: null",
        )


def load_denoiser(folder: Path | str, resolution: int | None = None) -> Denoiser:
    """Open a diffusers pipeline folder as the denoiser of its family, in float32 on the CPU, for images of a size in pixels.

    Raises InputError when the folder, its model_index.json or a weight file is missing or damaged, or the family is unknown.
    """
    folder = Path(folder)
    family_of(folder)  # before anything heavy is imported

    from ...quiet import quiet_libraries

    quiet_libraries()  # before diffusers is imported: some of it speaks then

    from diffusers import DiffusionPipeline

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            networks = load_networks(folder, read_index(folder))
            pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True, **networks)
    except InputError:
        raise
    except Exception as error:  # the loaders of two libraries raise a dozen types for a damaged folder
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            str(folder), f"a pipeline that does not load ({type(error).__name__}: {reason})", "copy the folder again"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return as_denoiser(pipeline, folder, resolution)


def as_denoiser(pipeline: Any, folder: Path, resolution: int | None = None) -> Denoiser:
    """An open pipeline as the denoiser of the family that its folder names."""
    family = family_of(folder)
    try:
        denoiser = family(pipeline, resolution)
        _ = denoiser.shape, denoiser.feature_block
    except InputError:
        raise
    except Exception as error:  # a config may hold anything where a number belongs
        reason = " ".join(str(error).split())[:200]
        found = f"configs that make no {family.family} model ({type(error).__name__}: {reason})"
        raise InputError(str(folder), found, "copy the folder again") from error
    denoiser.folder = folder
    if denoiser.resolution > LARGE:
        pipeline.vae.enable_slicing()
    if all(parameter.ndim < 5 for parameter in pipeline.vae.parameters()):  # those of films have no such format
        pipeline.vae.to(memory_format=torch.channels_last)  # faster convolutions, on processors and GPUs
    return denoiser
