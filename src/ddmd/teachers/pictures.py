"""Captioned pictures from a folder or from WebDataset archives, cut to squares."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import decode_text, parse_json, read_lines, read_text

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
CAPTIONS = ("text", "caption", "prompt")  # the first that a metadata row has


@dataclass(frozen=True)
class Picture:
    """One captioned picture, read when asked for."""

    name: str
    caption: str
    read: Callable[[], bytes]


def find_pictures(source: Path) -> list[Picture]:
    """All captioned pictures of a source, in the order of their names.

    A folder holds pictures with their captions in `metadata.jsonl` (`file_name` and `text`) or in a .txt file beside each;
    a .tar, or a folder of them, is a WebDataset with a .txt or .json beside each picture. Raises InputError where there is
    none, or a caption is missing.
    """
    if not source.exists():
        raise InputError(str(source), "no such folder or archive", "give a folder of pictures or a .tar")
    archives = [source] if source.suffix == ".tar" else sorted(source.glob("*.tar")) if source.is_dir() else []
    found = [picture for archive in archives for picture in _archive(archive)] if archives else list(_folder(source))
    if not found:
        raise InputError(str(source), "no pictures", f"put some in it: {', '.join(PICTURES)}")
    bare = [picture.name for picture in found if not picture.caption]
    if bare:
        raise InputError(
            str(source), f"{len(bare)} of {len(found)} pictures without a caption, such as {bare[0]}", "add a .txt beside each"
        )
    return found


def read_picture(picture: Picture, side: int) -> Tensor:
    """The middle square of a picture, (3, side, side) in [-1, 1]. Raises InputError naming a damaged file."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(picture.read())).convert("RGB")
    except OSError as error:  # PIL's own errors are of this type
        raise InputError(picture.name, "not a picture that can be read", "mend it or take it out") from error
    square = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(square, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def _folder(source: Path) -> Iterator[Picture]:
    if not source.is_dir():
        raise InputError(str(source), "a single file", "give a folder of pictures or a .tar")
    said = _metadata(source / "metadata.jsonl")
    for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURES):
        name, beside = str(path.relative_to(source)), path.with_suffix(".txt")
        caption = said.get(name) or (read_text(beside) if beside.is_file() else "")
        yield Picture(name, caption.strip(), path.read_bytes)


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    said = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}:{number}")
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(f"{path}:{number}", "a row without file_name", "write one JSON object a line: file_name, text")
        said[row["file_name"]] = _caption(row)
    return said


def _caption(row: dict[str, str]) -> str:
    return next((str(row[key]) for key in CAPTIONS if row.get(key)), "")


def _archive(path: Path) -> Iterator[Picture]:
    try:
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive if member.isfile()}
            for name in sorted(members):
                stem, _, suffix = name.rpartition(".")
                if f".{suffix.lower()}" in PICTURES:
                    yield Picture(f"{path.name}/{name}", _archived_caption(archive, members, stem), _reader(path, members[name]))
    except (tarfile.TarError, EOFError) as error:
        raise InputError(str(path), "not a whole .tar archive", "copy it again") from error


def _archived_caption(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], stem: str) -> str:
    for name in (f"{stem}.txt", f"{stem}.json"):
        handle = archive.extractfile(members[name]) if name in members else None
        if handle is None:
            continue
        text = decode_text(handle.read(), name)
        if name.endswith(".txt"):
            return text.strip()
        row = parse_json(text, name)
        if not isinstance(row, dict):
            raise InputError(name, "not a JSON object", "write the caption under text")
        return _caption(row)
    return ""


def _reader(path: Path, member: tarfile.TarInfo) -> Callable[[], bytes]:
    """A member's bytes by its place in the (uncompressed) archive, so that nothing is unpacked and reads are at once."""

    def read() -> bytes:
        with open(path, "rb") as handle:
            handle.seek(member.offset_data)
            return handle.read(member.size)

    return read
