"""A pipeline's networks from their files, every tensor accounted for: a network that lacks one would run on random numbers."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from ...files import read_json, read_object
from .index import PipelineIndex

INDEXES = "*.safetensors.index.json"
VARIANT = ".fp16"  # in the names of files that hold the same weights once more
AGAIN = "copy or download the model again"
UNREAD = "pooler."  # BERT's last layer, which sentence encoders are published without; no pipeline asks it


def load_networks(folder: Path, index: PipelineIndex) -> dict[str, Any]:
    """The networks that an index names, in float32 on the CPU; tokenizers, schedulers and the like are not among them.

    Raises InputError naming the part that is missing or damaged, and what it lacks.
    """
    check_configurations(folder, index)
    kinds = {name: network_class(*pair) for name, pair in index.parts.items()}
    return {name: load_network(kind, folder / name) for name, kind in kinds.items() if kind is not None}


def check_configurations(folder: Path, index: PipelineIndex) -> None:
    """Raise InputError where a part's folder is missing or a configuration in it is no JSON object.

    diffusers would look for the part elsewhere, in the hub too.
    """
    for name in index.parts:
        if not (folder / name).is_dir():
            raise InputError(str(folder / name), "no such folder, which the pipeline's index names", AGAIN)
        for path in sorted((folder / name).glob("*config.json")):
            read_object(path)


def network_class(library: str, name: str) -> Any:
    """The class of a network of diffusers or transformers; None for any other part."""
    import diffusers
    import transformers

    place = {"diffusers": diffusers, "transformers": transformers}.get(library)
    if place is None:  # such as the safety checker, which lives beside its pipeline
        if not hasattr(diffusers.pipelines, library):
            return None
        place = importlib.import_module(f"diffusers.pipelines.{library}")
    found = getattr(place, name, None)
    networks = (diffusers.ModelMixin, transformers.PreTrainedModel)
    return found if isinstance(found, type) and issubclass(found, networks) else None


def load_network(kind: Any, folder: Path, dtype: torch.dtype | str = torch.float32, **options: Any) -> Any:
    """One network of diffusers or transformers, or of one of their automatic classes; `options` go to its `from_pretrained`.

    From safetensors alone, unless `options` say otherwise.

    Raises InputError where its folder, configuration or a weight file is missing or damaged, or a tensor is missing or of
    another shape. Tied weights and buffers that are never saved are none.
    """
    import diffusers

    check_files(folder)
    arguments = {
        "torch_dtype" if issubclass(kind, diffusers.ModelMixin) else "dtype": dtype,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are reported instead, with their names
    }
    if (arguments | options)["use_safetensors"] and not any(VARIANT not in file.name for file in folder.glob("*.safetensors")):
        lacks = f"weights in half precision alone ({VARIANT})" if any(folder.glob("*.safetensors")) else "no .safetensors file in it"
        raise InputError(str(folder), lacks, "download the model's full weights in that format")
    try:
        network, info = kind.from_pretrained(folder, **arguments | options)
    except Exception as error:  # the loaders of two libraries raise a dozen types for a damaged folder
        reason = " ".join(str(error).split())[:200]
        raise InputError(str(folder), f"a part that does not load ({type(error).__name__}: {reason})", AGAIN) from error
    mismatched = sorted((key, tuple(found), tuple(wanted)) for key, found, wanted in info["mismatched_keys"])
    if mismatched:
        key, found, wanted = mismatched[0]
        raise InputError(
            str(folder), f"{_tensors(mismatched)} of another shape than its config.json says, such as {key}, {found} for {wanted}", AGAIN
        )
    empty = [key for key, value in network.state_dict().items() if value.is_meta]
    missing = sorted(key for key in {*info["missing_keys"], *empty} if not key.startswith(UNREAD))
    if missing:
        raise InputError(str(folder), f"{_tensors(missing)} missing, such as {missing[0]}", AGAIN)
    return network


def check_files(folder: Path) -> None:
    """Raise InputError where a network's config.json is none, a weight file's header does not fit its length, or an index of
    several files names a file or tensor that is not there; the loaders believe such an index.
    """
    config = folder / "config.json"
    if not config.is_file():  # transformers would take its defaults
        raise InputError(str(folder), "no config.json" if folder.is_dir() else "no such folder", AGAIN)
    read_object(config)
    held = tensor_shapes(folder)
    for path in sorted(folder.glob(INDEXES)):
        if path.name == "model.safetensors.index.json" and (folder / "model.safetensors").is_file():
            continue  # transformers prefers the one file
        content = read_json(path)
        places = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            raise InputError(str(path), "no weight_map of tensors to files", AGAIN)
        absent = sorted(file for file in set(places.values()) if not (folder / file).is_file())
        if absent:
            raise InputError(str(folder / absent[0]), "no such file, which the index of the weights names", AGAIN)
        missing = sorted(key for key in places if key not in held)
        if missing:
            raise InputError(str(folder / places[missing[0]]), f"{_tensors(missing)} missing, such as {missing[0]}", AGAIN)


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors in a network's safetensors files, from their headers alone.

    Raises InputError for a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    files = sorted(folder.glob("*.safetensors"))
    for path in [file for file in files if VARIANT not in file.name] or files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(str(path), f"a damaged file ({' '.join(str(error).split())[:120]})", AGAIN) from error
    return shapes


def _tensors(keys: Iterable[Any]) -> str:
    count = len(list(keys))
    return f"{count} tensor{'s' * (count != 1)}"
