"""report.html: one self-contained page, with what was run, sample grids, curves and the table."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomic
from ..pages import PIXELATED, SHARP, html_table, linked_image, page
from .logs import metric_rows
from .pictures import FORMATS
from .results import remarks, table

WIDTH, HEIGHT, PAD = 340, 150, 34
CURVES = {
    "Score on validation prompts": ("validation_overall",),
    "Frechet distance on validation prompts": ("validation_frechet",),
    "Text-image score on validation prompts": ("validation_text_image",),
    "Kernel distance on validation prompts": ("validation_kid_lite0",),
    "|DM| and |CA|": ("dm", "ca"),
    "Cosine of DM and CA": ("cosine",),
    "Fake loss": ("fake_loss",),
    "Relative fake gap": ("fake_gap",),
    "Mean of the student's outputs": ("x_mean",),
    "Standard deviation of the student's outputs": ("x_std",),
    "Saturation of the student's outputs": ("x_saturation",),
    "Gradient norms": ("generator_grad_norm", "fake_grad_norm"),
}
COLOURS = ("#1f6feb", "#d1242f")
STYLE = """
.curves { display: flex; flex-wrap: wrap; gap: 14px } figure { margin: 0 } figcaption { font-size: 13px }
pre { background: #f6f8fa; padding: 1em; overflow-x: auto; font-size: 12px }
"""


def write_report(folder: Path, title: str, recipe_yaml: str, results: dict[str, Any], alarms: Sequence[str], seconds: float) -> Path:
    """Write folder/report.html from metrics.jsonl, samples/ and the results."""
    metrics = metric_rows(folder / "metrics.jsonl")
    grids = sorted(path for path in (folder / "samples").glob("cycle-*") if path.suffix in FORMATS)
    shown = [*grids[:1], *grids[len(grids) // 2 : len(grids) // 2 + 1], *grids[-1:]] if len(grids) > 2 else grids
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(results['machine'])}; trained in {seconds / 60:.1f} minutes, seed {results['seed']}.</p>",
        *(f"<p class=alarm>{html.escape(alarm)}</p>" for alarm in alarms),
        "<h2>Scores</h2>", html_table(table(results["scores"])),
        "<p>" + html.escape(f"{results.get('about', '')} {results.get('note', '')}".strip()) + "</p>",
        *(f"<p>{html.escape(remark)}</p>" for remark in remarks(results["scores"])),
        "<h2>Samples</h2><div class=curves>", *(_picture(path, folder) for path in dict.fromkeys(shown)), "</div>",
        "<h2>Curves</h2><div class=curves>", *(_curve(name, keys, metrics) for name, keys in CURVES.items()), "</div>",
        "<h2>Recipe</h2>", f"<pre>{html.escape(recipe_yaml)}</pre>",
    ]  # fmt: skip
    return write_atomic(folder / "report.html", page(title, body, STYLE + (PIXELATED if results.get("pixels", 0) < SHARP else "")))


def _picture(path: Path, folder: Path) -> str:
    shown = linked_image(path.read_bytes(), path.relative_to(folder).as_posix(), f"samples {path.stem}")
    return f"<figure>{shown}<figcaption>{html.escape(path.stem)}</figcaption></figure>"


def _curve(name: str, keys: Sequence[str], metrics: Sequence[dict[str, Any]]) -> str:
    """A chart with its caption; nothing when the run has no such numbers."""
    svg = curve_svg(name, keys, metrics)
    legend = ", ".join(f'<span style="color:{colour}">{key}</span>' for key, colour in zip(keys, COLOURS, strict=False))
    return f"<figure>{svg}<figcaption>{html.escape(name)} ({legend})</figcaption></figure>" if svg else ""


def curve_svg(name: str, keys: Sequence[str], metrics: Sequence[dict[str, Any]]) -> str:
    """Lines of metrics over "cycle" as SVG; empty when there are fewer than two points."""
    series = [(key, [(row["cycle"], row[key]) for row in metrics if row.get(key) is not None]) for key in keys]
    series = [(key, points) for key, points in series if len(points) > 1]
    if not series:
        return ""
    xs, ys = ([point[axis] for _, points in series for point in points] for axis in (0, 1))
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    span_x, span_y = (high_x - low_x) or 1, (high_y - low_y) or 1
    lines = []
    for (key, points), colour in zip(series, COLOURS, strict=False):
        path = " ".join(
            f"{PAD + (x - low_x) / span_x * (WIDTH - PAD - 6):.1f},{HEIGHT - 18 - (y - low_y) / span_y * (HEIGHT - 30):.1f}"
            for x, y in points
        )
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"><title>{key}</title></polyline>')
    marks = (
        f'<text x="2" y="14">{high_y:.3g}</text><text x="2" y="{HEIGHT - 20}">{low_y:.3g}</text>'
        f'<text x="{PAD}" y="{HEIGHT - 3}">{low_x}</text><text x="{WIDTH - 34}" y="{HEIGHT - 3}">{high_x}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-size="10" role="img" aria-label="{html.escape(name)}">'
        f'<rect x="{PAD}" y="6" width="{WIDTH - PAD - 2}" height="{HEIGHT - 22}" fill="#f6f8fa"/>{marks}{"".join(lines)}</svg>'
    )
