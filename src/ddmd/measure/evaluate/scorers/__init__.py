"""Scorers: one name, one set of weights at a local path, one small interface. One is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from ....errors import InputError
from ....extras import LITE0, MINILM, MODULES, install, missing

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["rating", "features", "answers"]
Paths = Mapping[str, Path]
"""Where a scorer's files are: "" its weights, other names what else it needs."""


class Rater(Protocol):
    """Says how good each picture is for its prompt."""

    def rate(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]: ...
    def identity(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class FeatureNetwork(Protocol):
    """Turns pictures into features (N, width) for Frechet and kernel distances."""

    width: int

    def features(self, images: Sequence[Image.Image]) -> Tensor: ...
    def identity(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Answerer(Protocol):
    """Answers questions about one picture; exactly "yes" counts."""

    def answer(self, image: Image.Image, questions: Sequence[str]) -> list[str]: ...
    def identity(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Spec:
    """A scorer: what it yields, the files it needs with where they are published, and how it is opened.

    `packages` are an extra and what is imported of it.
    """

    kind: Kind
    title: str
    files: Mapping[str, str]
    open: Callable[[Paths], Any]
    remote: bool = False  # runs in an environment of its own, made by `ddmd scorer setup`
    packages: tuple[str, tuple[str, ...]] | None = None


class MissingScorer(InputError):
    """A scorer whose files or environment are not there; a suite of several scorers goes on without it, and says so."""


def _clip(paths: Paths) -> Rater:
    from .clip import ClipRater

    return ClipRater(paths[""])


def _hps21(paths: Paths) -> Rater:
    from .clip import hps_rater

    return hps_rater(paths[""], paths["tokenizer"])


def _vqa(paths: Paths) -> Answerer:
    from .vqa import VisualAnswerer

    return VisualAnswerer(paths[""])


def _inception(paths: Paths) -> FeatureNetwork:
    from .features import Inception

    return Inception(paths[""])


def _lite0(paths: Paths) -> FeatureNetwork:
    from .features import Lite0

    return Lite0()


def _judge(paths: Paths) -> Rater:
    from .features import JudgeRater

    return JudgeRater()


def _remote(name: str) -> Callable[[Paths], Any]:
    def start(paths: Paths) -> Any:
        from .remote import RemoteScorer

        return RemoteScorer(name, paths)

    return start


HPS_TOKENIZER = "a CLIP tokenizer's folder: `tokenizer` of any SDXL pipeline, or of openai/clip-vit-large-patch14 on the Hugging Face hub"
SCORERS: dict[str, Spec] = {
    "clip": Spec("rating", "CLIP", {"": "a CLIP model's folder in transformers' format, such as openai/clip-vit-large-patch14 or "
        "laion/CLIP-ViT-g-14-laion2B-s12B-b42K on the Hugging Face hub"}, _clip),
    "hps21": Spec("rating", "HPS v2.1", {"": "HPS_v2.1_compressed.pt of xswu/HPSv2 on the Hugging Face hub", "tokenizer": HPS_TOKENIZER}, _hps21),
    "hps3": Spec("rating", "HPS v3", {"": "HPSv3.safetensors of MizzenAI/HPSv3 on the Hugging Face hub",
        "base": "the folder of Qwen/Qwen2-VL-7B-Instruct"}, _remote("hps3"), remote=True),
    "imagereward": Spec("rating", "ImageReward", {"": "ImageReward.pt of THUDM/ImageReward on the Hugging Face hub",
        "config": "its med_config.json", "tokenizer": "the folder of google-bert/bert-base-uncased"}, _remote("imagereward"), remote=True),
    "vqa": Spec("answers", "DPG by a model of transformers", {"": "a visual question answering model's folder in transformers' format, such "
        "as Salesforce/blip-vqa-base"}, _vqa),
    "mplug": Spec("answers", "DPG by mPLUG", {"": "the folder of damo/mplug_visual-question-answering_coco_large_en of ModelScope"},
        _remote("mplug"), remote=True),
    "inception": Spec("features", "FID", {"": "pt_inception-2015-12-05-6726825d.pth of github.com/toshas/torch-fidelity/releases"}, _inception,
        packages=("fid", MODULES["fid"])),
    "lite0": Spec("features", "Lite0", {}, _lite0, packages=("emoji", LITE0)),
    "judge": Spec("rating", "text-image by the emoji judge", {}, _judge, packages=("emoji", (*LITE0, *MINILM))),
}  # fmt: skip


def spec(name: str) -> Spec:
    """A scorer by name. Raises InputError for an unknown one."""
    if name not in SCORERS:
        raise InputError("--scorer", repr(name), f"use one of {', '.join(SCORERS)}")
    return SCORERS[name]


def parse_paths(texts: Sequence[str]) -> dict[str, dict[str, Path]]:
    """`NAME=PATH` and `NAME.FILE=PATH` -> scorer -> file -> path."""
    found: dict[str, dict[str, Path]] = {}
    for text in texts:
        key, separator, path = text.partition("=")
        name, _, file = key.partition(".")
        if not separator or not path:
            raise InputError("--scorer", repr(text), "write NAME=PATH, such as clip=/models/clip-vit-large-patch14")
        if file not in spec(name).files:
            known = ", ".join(f"{name}.{f}" if f else name for f in spec(name).files) or "nothing: its weights come in a package"
            raise InputError("--scorer", repr(key), f"{name} takes {known}")
        found.setdefault(name, {})[file] = Path(path)
    return found


def check_files(name: str, paths: Mapping[str, Path]) -> None:
    """Raise MissingScorer naming the file that lacks and where it is published, or the package or environment and its making."""
    for file, where in spec(name).files.items():
        option = f"--scorer {name}.{file}" if file else f"--scorer {name}"
        if file not in paths:
            raise MissingScorer(option, "no path", f"get {where}, and give {option}=PATH")
        if not paths[file].exists():
            raise MissingScorer(option, f"no {paths[file]}", f"get {where}, and give its path")
    if (packages := spec(name).packages) is not None:
        extra, modules = packages
        if (lacking := missing(modules)) is not None:
            raise MissingScorer(f"scorer {name}", f"no {lacking.replace('_', '-')}", install(extra))
    if spec(name).remote:
        from .remote import require_environment

        require_environment(name)


def open_scorer(name: str, paths: Mapping[str, Path]) -> Any:
    """A scorer, its weights loaded. Raises MissingScorer where a file, a package or its environment lacks."""
    check_files(name, paths)
    return spec(name).open(paths)
