"""Sample grids, and pictures as files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InputError
from ..files import write_atomic
from ..folders import check_writable

if TYPE_CHECKING:
    from PIL import Image

CELL = 96  # pixels of a small image in a grid
SMALL = 128  # pixels up to which an image keeps its size, without loss
LARGEST = 512  # pixels of a large image in a grid
AREA = 4_000_000  # pixels of a grid of large images: some 1.5 MB as JPEG
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
GAP, LABEL = 6, 16
MARK, SOFTWARE = ("Software", "ddmd"), 305  # in a PNG's text, and the number of the same EXIF tag


def to_pil(image: Tensor) -> Image.Image:
    """One image (3, H, W) in [-1, 1] as PIL; values outside are clipped, and what is no number is black."""
    from PIL import Image

    array = ((image.nan_to_num(-1.0).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def cell_of(side: int, count: int) -> int:
    """Pixels of one image of `side` in a grid of `count`: small ones grow to 96, large ones share the grid's area."""
    if side <= SMALL:
        return max(CELL, side)
    return min(side, LARGEST, max(CELL, int((AREA / max(1, count)) ** 0.5)))


def fitted(image: Image.Image, cell: int) -> Image.Image:
    """An image at the size of a grid's cell: enlarged pixel by pixel, or made smaller smoothly."""
    from PIL import Image

    if image.size == (cell, cell):
        return image
    smooth = image.width > cell
    return image.resize((cell, cell), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)


def comparison(columns: dict[str, Tensor], prompts: Sequence[str]) -> Image.Image:
    """Models side by side: a row a prompt, a column a model, labels above, prompts beneath their row."""
    from PIL import Image, ImageDraw, ImageFont

    first = next(iter(columns.values()))
    cell = cell_of(first.shape[-1], len(columns) * len(prompts))
    label, font = int(LABEL * _larger(cell)), ImageFont.load_default(10 * _larger(cell))
    width = max(len(columns) * (cell + GAP) + GAP, 3 * CELL)
    height = label + GAP + len(prompts) * (cell + label + GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for j, (name, images) in enumerate(columns.items()):
        left = GAP + j * (cell + GAP)
        draw.text((left, 2), name, fill="black", font=font)
        for i, image in enumerate(images):
            canvas.paste(fitted(to_pil(image), cell), (left, label + GAP + i * (cell + label + GAP)))
    for i, prompt in enumerate(prompts):
        draw.text((GAP, label + GAP + i * (cell + label + GAP) + cell + 1), prompt, fill="#444", font=font)
    return canvas


def _larger(cell: int) -> float:
    """How much larger letters are in a grid of large cells, which pages show smaller."""
    return min(3.0, max(1.0, cell / 170))


def strips(rows: dict[str, Tensor], whole: bool = False) -> Image.Image:
    """Models above each other: a row a model, a column a prompt, names at the left; large images smaller unless wanted `whole`."""
    from PIL import Image, ImageDraw, ImageFont

    first = next(iter(rows.values()))
    side, count = first.shape[-1], sum(map(len, rows.values()))
    cell = max(CELL, side) if whole else cell_of(side, count)
    font = ImageFont.load_default(12 * _larger(cell))
    margin = int(max(110, *(font.getlength(line) + 2 * GAP for name in rows for line in name.split("\n"))))
    canvas = Image.new("RGB", (margin + len(first) * (cell + GAP), len(rows) * (cell + GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (name, images) in enumerate(rows.items()):
        top = GAP + i * (cell + GAP)
        draw.multiline_text((GAP, top + cell // 2 - int(14 * _larger(cell))), name, fill="black", font=font)
        for j, image in enumerate(images):
            canvas.paste(fitted(to_pil(image), cell), (margin + j * (cell + GAP), top))
    return canvas


def png_bytes(image: Image.Image) -> bytes:
    """A PIL image as PNG, marked as ddmd's, so that `check_picture` lets it be replaced."""
    from PIL.PngImagePlugin import PngInfo

    buffer, mark = io.BytesIO(), PngInfo()
    mark.add_text(*MARK)
    image.save(buffer, format="PNG", optimize=True, pnginfo=mark)
    return buffer.getvalue()


def picture_bytes(image: Image.Image, suffix: str) -> bytes:
    """A PIL image as the format of a file's suffix (see FORMATS)."""
    if FORMATS[suffix] == "PNG":
        return png_bytes(image)
    from PIL.Image import Exif

    buffer, mark = io.BytesIO(), Exif()
    mark[SOFTWARE] = MARK[1]
    options = {"subsampling": 0} if FORMATS[suffix] == "JPEG" else {}
    image.save(buffer, format=FORMATS[suffix], quality=95, exif=mark, **options)
    return buffer.getvalue()


def grid_bytes(image: Image.Image, side: int) -> tuple[str, bytes]:
    """A grid of images of `side` pixels as a file's suffix and content: PNG of small ones, else JPEG."""
    if side <= SMALL:
        return ".png", png_bytes(image)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return ".jpg", buffer.getvalue()


def write_grid(path: Path, image: Image.Image, side: int) -> Path:
    """Write a grid of images of `side` pixels at `path`, a name without suffix; returns the file."""
    suffix, content = grid_bytes(image, side)
    return write_atomic(path.with_name(path.name + suffix), content)


def check_picture(path: Path) -> None:
    """Raise InputError where a picture cannot be written, or would replace a file that is none of ours."""
    check_writable(path.parent)
    if path.exists() and not _is_ours(path):
        raise InputError("--out", f"{path}, a file that ddmd did not write", "give another name")


def _is_ours(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return MARK[1] in (image.info.get(MARK[0]), image.getexif().get(SOFTWARE))
    except Exception:  # what a damaged file raises depends on the byte
        return False
