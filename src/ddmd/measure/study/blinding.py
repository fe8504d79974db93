"""What a study cannot hide: sizes and traces of compression that tell models apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...images import open_image


def giveaways(sources: Mapping[str, Sequence[Path]]) -> list[str]:
    """One line each for what an attentive annotator can tell models apart by.

    `sources` holds each model's picture files, one a prompt, in the same order for all models.
    """
    from PIL import Image

    sizes: dict[str, list[tuple[int, int]]] = {}
    formats: dict[str, set[str]] = {}
    for model, files in sources.items():
        sizes[model], formats[model] = [], set()
        for file in files:
            sizes[model].append(open_image(file).size)  # upright; a damaged file is named
            with Image.open(file) as picture:
                formats[model].add(picture.format or "?")
    lines = []
    rows = list(zip(*sizes.values()))
    unlike = [row for row in rows if len(set(row)) > 1]
    if unlike:
        first = ", ".join(f"{m} {w} x {h}" for m, (w, h) in zip(sizes, unlike[0]))
        lines.append(f"pictures of {len(unlike)} of {len(rows)} prompts differ in size ({first}): that tells models apart")
    if len({frozenset(found) for found in formats.values()}) > 1:
        kinds = ", ".join(f"{model} {' and '.join(sorted(found))}" for model, found in formats.items())
        lines.append(f"pictures come in unlike formats ({kinds}): traces of compression tell them apart")
    return lines
