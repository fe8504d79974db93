"""What a model is, by the contents of its files: the same wherever it lies, another as soon as one byte differs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import InputError
from ..files import read_object, write_json
from .builtin import cache_folder
from .denoisers.index import read_index

BLOCK = 1 << 24  # bytes read at once
REMEMBERED = 1 << 24  # bytes from which a file's digest is kept
QUIET = 2e9  # nanoseconds; a file touched later than that may change again under the same times
# What loading a pipeline never reads: other formats, weights once more in half precision, cards and pictures.
UNREAD = re.compile(
    r"\.(bin|pt|pth|ckpt|msgpack|h5|onnx\w*|pb|md|png|jpe?g|webp|gif)$|\.fp16[.-][^/]*safetensors$|\.index\.fp16\.json$", re.IGNORECASE
)


def model_identity(folder: Path | str, parts: Sequence[str] = ("",)) -> str:
    """Identity (64 hexadecimal digits) of a pipeline, or of those of its parts whose names begin with one of `parts`.

    Raises InputError where the index is missing or damaged, or a part that it names has no files.
    """
    folder = Path(folder)
    index = read_index(folder)
    digest = hashlib.sha256(json.dumps([index.class_name, index.options], sort_keys=True).encode())
    for name in sorted(name for name in index.parts if name.startswith(tuple(parts))):
        digest.update(json.dumps([name, *index.parts[name]]).encode())
        for file in files_under(folder / name, lambda path: not UNREAD.search(path.name)):
            place = file.relative_to(folder).as_posix()
            digest.update(json.dumps([place, contents_hash(file)]).encode())
    return digest.hexdigest()


def data_identity(path: Path | str) -> str:
    """Identity of a file, or of all files of a folder, such as prompts or a saved dataset. Raises InputError where there is none."""
    path = Path(path)
    if path.is_file():
        return contents_hash(path)
    if not path.exists():
        raise InputError(str(path), "no such file or folder", "check its name")
    files = files_under(path, lambda found: True)
    return hashlib.sha256(json.dumps([[file.relative_to(path).as_posix(), contents_hash(file)] for file in files]).encode()).hexdigest()


def files_under(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The wanted files of a folder, sorted, links followed (the hub's snapshots are links); hidden ones are nobody's.

    Raises InputError where there is none: an identity of nothing would be every model's.
    """
    found = sorted(path for path in _walk(folder) if wanted(path))
    if not found:
        raise InputError(str(folder), "no files in it that count", "give the whole folder, or copy it again")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place) / name
            if not name.startswith(".") and path.is_file():
                yield path
            elif path.is_symlink():
                raise InputError(str(path), "a link to nothing", "copy or download the model again")


def contents_hash(path: Path) -> str:
    """sha256 of a file's contents; that of a large file is kept in the user's cache, by its place, size and times."""
    before = os.stat(path)
    if before.st_size < REMEMBERED:
        return _sha256(path)
    real = os.path.realpath(path).encode(errors="surrogateescape")
    note = cache_folder() / "digests" / f"{hashlib.sha256(real).hexdigest()[:32]}.json"
    stamp = _stamp(before)
    with suppress(InputError, OSError, KeyError):  # a note that cannot be read is one that is not there
        known = read_object(note)
        if known["stamp"] == stamp:
            return str(known["sha256"])
    quiet = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > QUIET
    found = _sha256(path)
    if quiet and _stamp(os.stat(path)) == stamp:
        with suppress(OSError):  # without a note the next call only takes longer
            write_json(note, {"stamp": stamp, "sha256": found})
    return found


def _stamp(status: os.stat_result) -> list[int]:
    # The time of the last change of state moves with every write and cannot be set back.
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
