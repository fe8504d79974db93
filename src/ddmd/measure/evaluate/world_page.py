"""The page of an embedded world's evaluation: the table, samples side by side, what the scores mean."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...files import write_atomic
from ...pages import PIXELATED, SHARP, html_table, inline_image, page, picture_table
from ...run.pictures import cell_of, fitted, grid_bytes, to_pil
from ...run.results import remarks, table

MEANINGS = {
    "steps": "Network steps; with guidance above 1 each asks the network twice.",
    "guidance": "Guidance scale at sampling; a distilled student has its own inside, and samples at 1.",
    "overall": "Share of prompts whose every stated attribute is right, with its 95 % interval.",
    "entity": "Share of the objects asked for that are there.",
    "attribute": "Share of the stated attributes of objects that are right.",
    "relation": "Share of the stated places that are right.",
    "global": "Share of the stated attributes of the whole picture that are right.",
    "frechet": "Distance to fresh renders on the verifier's features; lower is better. It falls as the "
    "number of images grows: compare equal numbers only.",
    "text_image": "100 x cosine of picture and prompt by the world's judge, with its 95 % interval.",
    "recall": "Share of pictures whose own concept is among the five nearest of all.",
    "style": "Share drawn in the style that was asked for.",
    "kid_lite0": "1000 x kernel distance to real pictures on EfficientNet-Lite0's features; lower is "
    "better. It does not depend on the number of images, but of few it is mostly chance.",
    "std": "Standard deviation of all pixels: contrast.",
    "saturation": "Mean spread of the three colours.",
    "seconds_per_image": "Median time of sampling and decoding, all rows in turn on the same prompts.",
    "images": "How many were scored.",
    "nonfinite": "Images with a pixel that is no number; they count as wrong.",
}
STYLE = """
.pictures td { text-align: center; vertical-align: top } .pictures th { text-align: center }
.pictures td:first-child { text-align: left; min-width: 9em; max-width: 16em }
.pictures img { width: 96px; max-width: none }
dt { font-weight: 600 } dd { margin: 0 0 .4em 0 }
"""


def write_world_page(
    out: Path,
    results: Mapping[str, Any],
    about: str,
    shown: Mapping[str, Tensor],
    prompts: Sequence[str],
) -> Path:
    """Write index.html; `shown` holds each row's images (N, 3, H, W) of the first N prompts."""
    rows = table(results["scores"])
    meanings = {name: text for name, text in MEANINGS.items() if name.replace("_", " ") in rows[0]}
    first = next(iter(shown.values()))
    columns = {label: [_cell(image, label) for image in images] for label, images in shown.items()}
    title = f"{results['suite']}: {', '.join(results['models'])}"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(results['machine'])}; seed {results['seed']}.</p>",
        html_table(rows),
        *(f"<p>{html.escape(remark)}</p>" for remark in remarks(results["scores"])),
        "<h2>The same prompts and seeds</h2>",
        picture_table(columns, [prompt or "(empty)" for prompt in prompts[: len(first)]]),
        f"<h2>What the scores mean</h2><p>{html.escape(about)}</p><dl>",
        *(f"<dt>{name.replace('_', ' ')}</dt><dd>{html.escape(t)}</dd>" for name, t in meanings.items()),
        "</dl>",
    ]
    style = STYLE + (PIXELATED if first.shape[-1] < SHARP else "")
    return write_atomic(out / "index.html", page(title, body, style))


def _cell(image: Tensor, alt: str) -> str:
    """A picture as it was drawn where it is small, else a smaller one."""
    picture, side = to_pil(image), image.shape[-1]
    if side > SHARP:
        picture = fitted(picture, cell_of(side, 64))
    suffix, content = grid_bytes(picture, side)
    return inline_image(content, alt, "image/png" if suffix == ".png" else "image/jpeg")
