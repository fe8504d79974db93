"""Images of a benchmark's prompts on disk: resumable, shared between processes, the same for the same prompt and seed.

A folder holds ID_COPY.png, `manifest.json` (what made them) and `speed-SHARD.jsonl` (a line a batch). An image is written whole
or not at all, and what is there is not drawn again. An image's noise depends on its item, copy and seed alone; batches and
shards change no more than the rounding of the network's own arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import InputError
from ...files import read_object, write_atomic, write_json
from .gallery import batches, image_name
from .items import Item

if TYPE_CHECKING:
    from PIL import Image

MANIFEST = "manifest.json"
NONFINITE = "nonfinite"  # in a drawn image's `info`: some of its pixels were no numbers, and are black


class Artist(Protocol):
    """A model with its way of sampling."""

    label: str

    @property
    def evaluations(self) -> int:
        """Rows that its network has been called on so far: an image by 50 guided steps counts 100."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One image a prompt, each from its own seed; see NONFINITE."""

    def identity(self) -> dict[str, Any]:
        """What exactly draws, and how."""


def seed_of(seed: int, item: Item, copy: int) -> int:
    """The seed of one image."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item.id}/{copy}".encode()).digest()[:6])


def generate(
    artist: Artist,
    items: Sequence[Item],
    folder: Path,
    copies: int,
    seed: int,
    batch: int,
    report: Callable[[int, int], None],
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Draw what is missing of this shard's items; `shard` is (number, of how many). Raises InputError where the folder holds others."""
    number, of = shard
    _claim(folder, artist, items, copies, seed)
    mine = [(item, copy) for item in items[number::of] for copy in range(copies)]
    todo = [(item, copy) for item, copy in mine if not (folder / image_name(item, copy)).is_file()]
    report(len(mine) - len(todo), len(mine))
    done = len(mine) - len(todo)
    with open(folder / f"speed-{number}.jsonl", "a", encoding="utf-8") as log:
        for part in batches(todo, batch):
            before, began = artist.evaluations, time.perf_counter()
            images = artist.draw([item.prompt for item, _ in part], [seed_of(seed, item, copy) for item, copy in part])
            spent: dict[str, Any] = {"images": len(part), "seconds": time.perf_counter() - began}
            spent["evaluations"] = artist.evaluations - before
            spent[NONFINITE] = [image_name(*asked) for asked, image in zip(part, images) if image.info.get(NONFINITE)]
            for (item, copy), image in zip(part, images, strict=True):
                write_atomic(folder / image_name(item, copy), _png(image))
            log.write(json.dumps(spent) + "\n")
            log.flush()
            done += len(part)
            report(done, len(mine))


def _claim(folder: Path, artist: Artist, items: Sequence[Item], copies: int, seed: int) -> None:
    """Write the manifest, or see that it is the same."""
    asked = hashlib.sha256(json.dumps([[item.id, item.prompt] for item in items]).encode()).hexdigest()
    made = {**artist.identity(), "copies": copies, "seed": seed, "prompts": len(items), "prompts_sha256": asked}
    path = folder / MANIFEST
    if path.is_file():
        known = read_object(path)
        if known != json.loads(json.dumps(made)):
            changed = sorted(key for key in {*known, *made} if known.get(key) != made.get(key))
            raise InputError(str(path), f"images made with another {', '.join(changed)}", "give another --out, or remove the folder")
    elif any(folder.glob("*.png")):
        raise InputError(str(folder), "images without a manifest", "give another --out, or remove the folder")
    write_json(path, made)


def speed(folder: Path) -> dict[str, float]:
    """Seconds and network evaluations an image, over all that was drawn; the first batch, which warms up, left out where it can be.

    `nonfinite` counts the images in which some pixels were no numbers; nothing of it where all was finite.
    """
    rows: list[dict[str, Any]] = []
    bad: set[str] = set()
    for path in sorted(folder.glob("speed-*.jsonl")):
        own = _whole_rows(path)
        bad.update(name for row in own for name in row.get(NONFINITE, []))
        rows += own[1:] or own
    images = sum(row["images"] for row in rows)
    if not images:
        return {}
    return {
        "seconds_per_image": sum(row["seconds"] for row in rows) / images,
        "evaluations": sum(row["evaluations"] for row in rows) / images,
        NONFINITE: len(bad),
    }


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, but for those that a kill tore."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _png(image: Image.Image) -> bytes:
    import io

    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
