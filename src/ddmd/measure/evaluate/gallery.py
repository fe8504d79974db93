"""Images on disk, by item: found, checked, and read in batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import parse_json, read_lines
from ...images import open_image, picture_files
from ...teachers.pictures import PICTURES
from .items import Item

NAMED = 5  # problems told in full


@dataclass(frozen=True)
class Gallery:
    """A model's usable images, item by item, and what was wrong with the rest."""

    label: str
    images: dict[str, list[Path]]
    problems: list[str]
    missing: int  # items without a usable image

    def pairs(self, items: Sequence[Item]) -> list[tuple[Item, Path]]:
        """Every image with its item, in the items' order."""
        return [(item, path) for item in items for path in self.images.get(item.id, [])]


def image_name(item: Item, copy: int) -> str:
    """The file name of one image."""
    return f"{item.id}_{copy}.png"


def find_images(
    label: str,
    folder: Path,
    items: Sequence[Item],
    copies: int = 1,
    resolution: int | None = None,
    *,
    passed: Collection[str] = (),
) -> Gallery:
    """Images of items, by their names: ID_0.png ... ID_{copies - 1}.png; or ID.png, which counts for all copies (a grid).

    Where the items are numbered, the last number of any other name counts: image-17.jpg belongs to item 000017. Damaged images,
    images twice, without an item or of a wrong size, and items without an image are listed as problems; those of the items in
    `passed` (by id) are nobody's concern. A `metadata.jsonl` in the folder (file_name, row) says it instead of the names.
    """
    if not folder.is_dir():
        raise InputError(str(folder), "no such folder", "give a folder of images")
    named = _named(folder)
    if not named:
        raise InputError(str(folder), "no images", f"put some in it: {', '.join(PICTURES)}")
    known = [item.id for item in items] + list(passed)
    places = {name: name for name in known} | {f"{name}_{copy}": name for name in known for copy in range(copies)}
    beyond = set(passed)
    found: dict[str, dict[str, Path]] = {}
    problems = []
    for stem, path in named:
        item = places.get(stem) or _by_number(stem, places)
        own = stem if stem in places else f"{item}_0"
        if item in beyond:
            continue
        if item is None:
            problems.append(f"{path.name}: no prompt of this name")
        elif own in (taken := found.setdefault(item, {})):
            problems.append(f"{path.name}: {taken[own].name} is there already")
        elif reason := fault(path, resolution):
            problems.append(f"{path.name}: {reason}")
        else:
            taken[own] = path
    images = {item.id: list(found[item.id].values()) for item in items if found.get(item.id)}
    lacking = [item.id for item in items if item.id not in images]
    problems += [f"prompt {name}: no usable image" for name in lacking]
    for name, pictures in images.items():
        if len(pictures) < copies and name not in found[name]:
            problems.append(f"prompt {name}: {len(pictures)} images of {copies}")
    return Gallery(label, images, problems, len(lacking))


def _named(folder: Path) -> list[tuple[str, Path]]:
    """Pictures with what names their items: the file's own name, or its row in the table."""
    table = folder / "metadata.jsonl"
    if not table.is_file():
        return [(path.stem, path) for path in picture_files(folder, PICTURES)]
    found = []
    for number, line in enumerate(read_lines(table), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{table}, line {number}")
        try:
            found.append((f"{int(row['row']):06d}", folder / Path(row["file_name"]).name))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InputError(f"{table}, line {number}", f"no file_name and row ({type(error).__name__})", "mend the line") from error
    return found


def _by_number(stem: str, places: dict[str, str]) -> str | None:
    numbers = re.findall(r"\d+", stem)
    return places.get(f"{int(numbers[-1]):06d}") if numbers else None


def fault(path: Path, resolution: int | None) -> str | None:
    """What is wrong with a picture, if anything."""
    if not path.is_file():
        return "missing"
    try:
        size = open_image(path).size
    except InputError as error:
        return error.found
    if resolution is not None and size != (resolution, resolution):
        return f"{size[0]} x {size[1]} pixels, not {resolution}"
    return None


def require_whole(where: str, problems: Sequence[str], skip: bool) -> None:
    """Raise InputError naming the first problems, unless told to skip what they name."""
    if problems and not skip:
        shown = "; ".join(problems[:NAMED])
        more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise InputError(where, f"{len(problems)} problems: {shown}{more}", "mend them, or pass --skip-bad")


def batches(pairs: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Runs of at most `size`."""
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def read_ahead(groups: Iterable[Sequence[Any]], read: Callable[[Any], Any]) -> Iterator[tuple[Sequence[Any], list[Any]]]:
    """Each group with what `read` makes of its members; the next one is read while the caller works on this one."""
    from concurrent.futures import Future, ThreadPoolExecutor

    def ended(group: Sequence[Any], futures: list[Future[Any]]) -> tuple[Sequence[Any], list[Any]]:
        return group, [future.result() for future in futures]

    with ThreadPoolExecutor() as readers:
        coming: tuple[Sequence[Any], list[Future[Any]]] | None = None
        for group in groups:
            ready, coming = coming, (group, [readers.submit(read, member) for member in group])
            if ready is not None:
                yield ended(*ready)
        if coming is not None:
            yield ended(*coming)
