"""Captioned pictures from a folder or from WebDataset archives, cut to squares."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import decode_text, parse_json, read_lines, read_text
from ..images import open_image, picture_files

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

    A folder holds pictures with their captions in `metadata.jsonl` (`file_name` and `text`) or in a
    .txt file beside each; a .tar, and every .tar in a folder, is a WebDataset with a .txt or .json
    beside each picture. Raises InputError where there is none, or a caption is missing.
    """
    if not source.exists():
        raise InputError(str(source), "no such folder or archive", "give a folder of pictures or a .tar")
    if source.is_dir():
        archives = sorted(path for path in source.glob("*.tar") if path.is_file())
        loose = list(_folder(source))
    elif source.suffix == ".tar":
        archives, loose = [source], []
    else:
        raise InputError(str(source), "a single file", "give a folder of pictures or a .tar")
    found = [picture for archive in archives for picture in _archive(archive)] + loose
    if not found:
        raise InputError(str(source), "no pictures", f"put some in it: {', '.join(PICTURES)}")
    bare = [picture.name for picture in found if not picture.caption]
    if bare:
        raise InputError(
            str(source),
            f"{len(bare)} of {len(found)} pictures without a caption, such as {bare[0]}",
            "add a .txt beside each",
        )
    return found


def read_picture(picture: Picture, side: int) -> Tensor:
    """The middle square of a picture, (3, side, side) in [-1, 1].

    Raises InputError naming a damaged or missing file.
    """
    from PIL import Image, ImageOps

    try:
        content = picture.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        found = f"a file that cannot be read ({reason})"
        raise InputError(picture.name, found, "mend it or take it out") from error
    image = open_image(content, picture.name)
    square = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(square, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def _folder(source: Path) -> Iterator[Picture]:
    said = _metadata(source / "metadata.jsonl")
    for path in picture_files(source, PICTURES, deep=True):
        name, beside = path.relative_to(source).as_posix(), path.with_suffix(".txt")
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
            mend = "write one JSON object a line: file_name, text"
            raise InputError(f"{path}:{number}", "a row without file_name", mend)
        said[row["file_name"]] = _caption(row)
    return said


def _caption(row: dict[str, Any]) -> str:
    return next((row[key] for key in CAPTIONS if row.get(key) and isinstance(row[key], str)), "")


def _archive(path: Path) -> Iterator[Picture]:
    """The pictures of a WebDataset. It must not be compressed: members are read by their place."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = {member.name: member for member in archive if member.isfile()}
            for name in sorted(members):
                stem, _, suffix = name.rpartition(".")
                hidden = name.rpartition("/")[2].startswith(".")  # macOS's "._name.png"
                if f".{suffix.lower()}" not in PICTURES or hidden:
                    continue
                label = f"{path.name}/{name}"
                if members[name].issparse():
                    raise InputError(label, "a sparse member", "pack the archive without --sparse")
                caption = _archived_caption(archive, members, stem, path)
                yield Picture(label, caption, _reader(path, members[name]))
    except InputError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        raise InputError(str(path), "not a whole, uncompressed .tar archive", "copy or unpack it again") from error


def _archived_caption(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], stem: str, path: Path) -> str:
    for name in (f"{stem}.txt", f"{stem}.json"):
        handle = archive.extractfile(members[name]) if name in members else None
        if handle is None:
            continue
        label = f"{path.name}/{name}"
        text = decode_text(handle.read(), label)
        if name.endswith(".txt"):
            return text.strip()
        row = parse_json(text, label)
        if not isinstance(row, dict):
            raise InputError(label, "not a JSON object", "write the caption under text")
        return _caption(row).strip()
    return ""


def _reader(path: Path, member: tarfile.TarInfo) -> Callable[[], bytes]:
    """A member's bytes by its place, so that nothing is unpacked and reads are at once."""

    def read() -> bytes:
        with open(path, "rb") as handle:
            handle.seek(member.offset_data)
            return handle.read(member.size)

    return read
