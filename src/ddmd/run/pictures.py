"""Sample grids as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

CELL = 96  # pixels of a small image in a grid; larger ones keep their size
GAP, LABEL = 6, 16


def to_pil(image: Tensor) -> Image.Image:
    """One image (3, H, W) in [-1, 1] as PIL; values outside are clipped, and what is no number is black."""
    from PIL import Image

    array = ((image.nan_to_num(-1.0).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def comparison(columns: dict[str, Tensor], prompts: Sequence[str]) -> Image.Image:
    """Models side by side: a row a prompt, a column a model, labels above, prompts beneath their row."""
    from PIL import Image, ImageDraw, ImageFont

    first = next(iter(columns.values()))
    cell = max(CELL, first.shape[-1])
    width = max(len(columns) * (cell + GAP) + GAP, 3 * CELL)
    height = LABEL + GAP + len(prompts) * (cell + LABEL + GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    for j, (name, images) in enumerate(columns.items()):
        left = GAP + j * (cell + GAP)
        draw.text((left, 2), name, fill="black", font=font)
        for i, image in enumerate(images):
            picture = to_pil(image).resize((cell, cell), Image.Resampling.NEAREST)
            canvas.paste(picture, (left, LABEL + GAP + i * (cell + LABEL + GAP)))
    for i, prompt in enumerate(prompts):
        draw.text((GAP, LABEL + GAP + i * (cell + LABEL + GAP) + cell + 1), prompt, fill="#444", font=font)
    return canvas


def strips(rows: dict[str, Tensor]) -> Image.Image:
    """Models above each other: a row a model, a column a prompt, names at the left."""
    from PIL import Image, ImageDraw, ImageFont

    first = next(iter(rows.values()))
    cell, font = max(CELL, first.shape[-1]), ImageFont.load_default(12)
    margin = int(max(110, *(font.getlength(line) + 2 * GAP for name in rows for line in name.split("\n"))))
    canvas = Image.new("RGB", (margin + len(first) * (cell + GAP), len(rows) * (cell + GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (name, images) in enumerate(rows.items()):
        top = GAP + i * (cell + GAP)
        draw.multiline_text((GAP, top + cell // 2 - 14), name, fill="black", font=font)
        for j, image in enumerate(images):
            canvas.paste(to_pil(image).resize((cell, cell), Image.Resampling.NEAREST), (margin + j * (cell + GAP), top))
    return canvas


def png_bytes(image: Image.Image) -> bytes:
    """A PIL image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
