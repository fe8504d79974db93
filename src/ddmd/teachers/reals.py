"""Real images as latents on disk: pictures through the autoencoder, or a teacher's own samples, with their captions.

`ddmd cache latents` and `ddmd cache samples` make them; GAN terms and students that start from noised data read them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..files import claim, read_object, write_atomic, write_json
from ..folders import check_writable
from ..method.batch import Condition
from .builtin import cache_folder
from .cache import OPEN, Report, checksum, fingerprint, is_whole, silent
from .denoisers.base import Denoiser
from .pictures import Picture, read_picture
from .prompts import Encoded, encode_all
from .sampling import Network, bare, sample_latents, say_what_is_not_followed
from .sharding import everywhere

SHARD = 64  # latents
ABOUT = "about.json"


class LatentCache:
    """Latents and captions of a folder, read a row at a time.

    Raises InputError where the folder is none, was made by another model or size, is unfinished, or has a damaged shard.
    """

    def __init__(self, folder: Path, denoiser: Denoiser) -> None:
        self.folder = folder
        about = _about(folder)
        if about is None or "count" not in about:
            found = "no cached latents" if about is None else "a cache that is not finished"
            raise InputError(str(folder), found, "make it with `ddmd cache latents` or `ddmd cache samples`")
        if about["made_for"] != _made_for(denoiser):
            raise InputError(str(folder), f"latents made for {about['made_for']}", f"this run needs {_made_for(denoiser)}; cache them anew")
        self.captions: list[str] = about["captions"]
        for number in range(-(-len(self.captions) // SHARD)):
            if not is_whole(_shard(folder, number)):
                raise InputError(str(_shard(folder, number)), "a shard missing or damaged", "run the same `ddmd cache` command again")
        self._open = lru_cache(OPEN)(lambda number: safe_open(_shard(folder, number), framework="pt"))

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, rows: Tensor) -> Tensor:
        """Latents (B, ...) in float32, on the CPU."""
        places = [divmod(row, SHARD) for row in rows.tolist()]
        return torch.stack([self._open(number).get_slice("latents")[place] for number, place in places]).float()


def cache_pictures(denoiser: Denoiser, pictures: Sequence[Picture], folder: Path, report: Report) -> Path:
    """Encode captioned pictures, cut to squares of the model's resolution, into a cache; a killed call goes on where it was.

    Pictures whose contents have changed since are encoded again.
    """
    source = [f"{picture.name} {picture.caption}" for picture in pictures]

    def make(start: int) -> Tensor:
        images = [read_picture(picture, denoiser.resolution) for picture in pictures[start : start + SHARD]]
        return torch.cat([denoiser.encode_images(image[None]) for image in images])

    def contents(start: int) -> str:
        digest = hashlib.sha256()
        for picture in pictures[start : start + SHARD]:
            try:
                digest.update(hashlib.sha256(picture.read()).digest())
            except OSError as error:
                raise InputError(picture.name, "not a file that can be read", "mend it or take it out") from error
        return digest.hexdigest()

    return _fill(denoiser, folder, source, [picture.caption for picture in pictures], make, report, contents=contents)


def cache_samples(denoiser: Denoiser, prompts: Sequence[str], folder: Path, steps: int, alpha: float, seed: int, report: Report) -> Path:
    """Draw the teacher's own pictures of prompts into a cache; a killed call goes on where it was, with the same teacher alone."""
    walk = ", ".join(str(sigma) for sigma in denoiser.teacher_noise(steps))
    teacher = f"teacher {fingerprint(denoiser, ('',))}"
    source = [f"{steps} steps ({denoiser.teacher_sampler}: {walk}), guidance {alpha}, seed {seed}, {teacher}", *prompts]

    def make(start: int) -> Tensor:
        block = encode_all(denoiser, prompts[start : start + SHARD])
        return teacher_latents(denoiser, bare(denoiser), block, steps, alpha, seed + start)

    return _fill(denoiser, folder, source, prompts, make, report)


def teacher_latents(
    denoiser: Denoiser, teacher: Network, cond: Condition, steps: int, alpha: float, seed: int, report: Report = silent
) -> Tensor:
    """The teacher's own latents (N, ...) of N encoded prompts, by many steps of its own sampler."""
    say_what_is_not_followed(denoiser)
    return sample_latents(denoiser, teacher, cond, denoiser.teacher_grid(steps), denoiser.teacher_sampler, alpha, seed, report)


def kept_teacher_latents(
    denoiser: Denoiser, teacher: Network, prompts: Sequence[str], encoded: Encoded, steps: int, alpha: float, report: Report
) -> Tensor:
    """`teacher_latents` of the first prompts of a table, from noise that is always the same, as real data are; kept on disk, since they
    are costly, and taken from there by every later run (and resumed one) of the same weights, precision, prompts and settings."""
    precision = str(next(denoiser.network.parameters()).dtype)
    walk = [denoiser.teacher_sampler, *denoiser.teacher_noise(steps)]
    identity = json.dumps([fingerprint(denoiser, ("",)), denoiser.shape, precision, list(prompts), steps, alpha, walk])
    path = cache_folder() / "teacher-samples" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.safetensors"
    if everywhere(is_whole(path)):
        with safe_open(path, "pt") as file:
            return file.get_tensor("latents")
    check_writable(path.parent)  # before the work
    cond = encoded.rows(torch.arange(len(prompts)))
    tensors = {"latents": teacher_latents(denoiser, teacher, cond, steps, alpha, 0, report).contiguous()}
    write_atomic(path, save(tensors, {"crc32": checksum(tensors)}))
    return tensors["latents"]


def _fill(
    denoiser: Denoiser,
    folder: Path,
    source: Iterable[str],
    captions: Sequence[str],
    make: Callable[[int], Tensor],
    report: Report,
    *,
    contents: Callable[[int], str] = lambda start: "",
) -> Path:
    """Make the shards that are missing, damaged, or made from other `contents` (of the block that begins there) than today's."""
    made_from = hashlib.sha256(json.dumps(list(source)).encode()).hexdigest()[:16]
    about: dict[str, Any] = {"made_for": _made_for(denoiser), "made_from": made_from}
    old = _about(folder)
    if old is not None and {key: old.get(key) for key in about} != about:
        changed = [key for key in about if old.get(key) != about[key]]
        what = {"made_for": "model or size", "made_from": "source, settings or teacher"}
        raise InputError(
            str(folder), f"another cache, of another {' and '.join(what[key] for key in changed)}", "give a new folder in --out"
        )
    if old is None:
        claim(folder, (ABOUT, "latents-*.safetensors"))
    write_json(folder / ABOUT, about)
    for number, start in enumerate(range(0, len(captions), SHARD)):
        made_of = contents(start)
        if not is_whole(_shard(folder, number), made_of=made_of):
            tensors = {"latents": make(start).to("cpu", torch.float16).contiguous()}
            write_atomic(_shard(folder, number), save(tensors, {"crc32": checksum(tensors), "made_of": made_of}))
        report(min(start + SHARD, len(captions)))
    write_json(folder / ABOUT, about | {"count": len(captions), "captions": list(captions)})
    return folder


def _shard(folder: Path, number: int) -> Path:
    return folder / f"latents-{number:05d}.safetensors"


def _about(folder: Path) -> dict[str, Any] | None:
    return read_object(folder / ABOUT) if (folder / ABOUT).exists() else None


def _made_for(denoiser: Denoiser) -> str:
    size = " x ".join(str(side) for side in denoiser.shape)
    return f"{denoiser.family} {fingerprint(denoiser, ('vae',))}, latents of {size}"
