"""Tables of a benchmark: Markdown, LaTeX and one page, best and second-best marked, with images of the same prompts side by side."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from ...files import write_atomic
from ...images import open_image
from ...pages import SHARP, html_table, inline_image, markdown_table, markdown_text, page, picture_table
from ...run.pictures import SMALL
from .gallery import Gallery
from .items import Item

SHOWN, THUMB = 8, 320  # prompts whose images are shown, and the pixels of a large one's thumbnail
STYLE = """
.pictures td, .pictures th { text-align: center; vertical-align: top } .pictures td:first-child { text-align: left; min-width: 9em; max-width: 22em }
.pictures img { width: 160px; max-width: none } .small { image-rendering: pixelated }
"""


@dataclass(frozen=True)
class Column:
    """A number's title, which way is better (+1 up, -1 down, 0 neither), and its decimals."""

    title: str
    better: int = 1
    digits: int = 2


COLUMNS: dict[str, Column] = {
    "dpg": Column("DPG"), "hps21": Column("HPS v2.1"), "hps3": Column("HPS v3"), "imagereward": Column("ImageReward x 100"),
    "clip": Column("CLIP score"), "judge": Column("text-image (emoji judge)"), "fid": Column("FID", -1), "patch_fid": Column("patch FID", -1), "kid": Column("KID x 1000", -1),
    "frechet_lite0": Column("Frechet-lite0", -1, 1), "kid_lite0": Column("KID-lite0 x 1000", -1, 1),
    "seconds_per_image": Column("seconds an image", -1, 3), "evaluations": Column("network rows an image", -1, 0),
    "images": Column("images", 0, 0), "reference_images": Column("real images", 0, 0), "dpg_prompts": Column("DPG prompts", 0, 0),
    "skipped": Column("skipped", 0, 0), "nonfinite": Column("not finite", 0, 0),
}  # fmt: skip
QUIET = ("skipped", "nonfinite")  # shown where there are any
DEPENDS = "Frechet distances fall as the number of images grows: compare rows of equal numbers only."
Table = list[list[tuple[str, str]]]
"""Cells of (text, mark), header first; the mark is "best", "second" or nothing."""


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """All models by all numbers that any has; intervals behind the numbers that have one."""
    names = [name for name in COLUMNS if any(name in row for row in scores.values())]
    names = [name for name in names if name not in QUIET or any(row.get(name) for row in scores.values())]
    return _marked({label: {name: row[name] for name in names if name in row} for label, row in scores.items()}, names, COLUMNS, scores)


def category_table(found: Mapping[str, Mapping[str, float]]) -> Table:
    """All models by all categories of one benchmark; more is better."""
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    return _marked(found, names, {name: Column(name.replace("-", " ")) for name in names}, {})


def _marked(
    rows: Mapping[str, Mapping[str, float]], names: Sequence[str], columns: Mapping[str, Column], scores: Mapping[str, Mapping[str, Any]]
) -> Table:
    table: Table = [[("", ""), *((columns[name].title, "") for name in names)]]
    places = {name: ranks({label: row[name] for label, row in rows.items() if name in row}, columns[name]) for name in names}
    for label, row in rows.items():
        cells = [(label, "")]
        for name in names:
            if name not in row:
                cells.append(("", ""))
                continue
            digits = columns[name].digits
            interval = scores.get(label, {}).get("intervals", {}).get(name)
            text = f"{row[name]:.{digits}f}" + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")
            cells.append((text, places[name].get(label, "")))
        table.append(cells)
    return table


def ranks(values: Mapping[str, float], column: Column) -> dict[str, str]:
    """Who is best and who second, as printed: equal numbers share their place, and all being equal nobody has one."""
    shown = {label: round(column.better * value, column.digits) for label, value in values.items()}
    order = sorted(set(shown.values()), reverse=True)
    if not column.better or len(order) < 2:
        return {}
    places = {order[0]: "best", order[1]: "second"}
    return {label: places[value] for label, value in shown.items() if value in places}


def to_markdown(table: Table) -> str:
    """Best in bold, second in italics."""
    marks = {"best": "**%s**", "second": "*%s*", "": "%s"}
    return markdown_table(table, lambda cell: marks[cell[1]].replace("%s", markdown_text(cell[0])))


def to_latex(table: Table) -> str:
    """A tabular of booktabs; best in bold, second underlined."""
    marks = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    lines = [" & ".join(marks[mark] % _tex(text) for text, mark in row) + r" \\" for row in table]
    form = "l" + "r" * (len(table[0]) - 1)
    return "\n".join([rf"\begin{{tabular}}{{{form}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"])


def to_html(table: Table) -> str:
    """Best in bold, second underlined."""
    marks = {"best": "<b>%s</b>", "second": "<u>%s</u>", "": "%s"}
    return html_table(table, lambda cell: marks[cell[1]].replace("%s", html.escape(cell[0])))


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def write_tables(out: Path, name: str, results: Mapping[str, Any], parts: Mapping[str, tuple[Sequence[Item], Sequence[Gallery]]]) -> None:
    """Write table.md, table.tex and index.html."""
    tables = {"Scores": score_table(results["scores"])}
    tables |= {f"{part}, by category": category_table(found) for part, found in results["categories"].items()}
    notes = [results["about"] + ".", results["machine"]]
    notes += [
        f"Scorer {key}: {', '.join(f'{k} {v}' for k, v in facts.items() if v is not None)}" for key, facts in results["scorers"].items()
    ]
    notes += [DEPENDS] if any("fid" in name or "frechet" in name for row in results["scores"].values() for name in row) else []
    notes += [f"{label}, {name}: {remark}." for label, row in results["scores"].items() for name, remark in row["remarks"].items()]
    notes += [f"Not scored: {reason}" for reason in results["not_scored"].values()]
    notes += [f"{where}: {len(found)} problems, left out" for where, found in results["problems"].items()]
    markdown = [f"# {name}", *(f"## {title}\n\n{to_markdown(table)}" for title, table in tables.items()), *map(markdown_text, notes)]
    write_atomic(out / "table.md", "\n\n".join(markdown) + "\n")
    write_atomic(out / "table.tex", "\n\n".join(f"% {title}\n{to_latex(table)}" for title, table in tables.items()) + "\n")
    body = [f"<h1>{html.escape(name)}</h1>", *(f"<h2>{html.escape(title)}</h2>{to_html(table)}" for title, table in tables.items())]
    body += [f"<p>{html.escape(note)}</p>" for note in notes]
    for part, (items, galleries) in parts.items():
        if grid := _grid(items, galleries, out):
            body.append(f"<h2>{html.escape(part)}: the same prompts and seeds</h2>{grid}")
    write_atomic(out / "index.html", page(name, body, STYLE))


def _grid(items: Sequence[Item], galleries: Sequence[Gallery], out: Path) -> str:
    """The first prompts' first images, a column a model, each linked to its file; nothing where no prompt has all."""
    common = [item for item in items if all(item.id in gallery.images for gallery in galleries)][:SHOWN]
    if not common:
        return ""
    columns = {g.label: [_thumb(g.images[item.id][0], out, f"{g.label}, {item.id}") for item in common] for g in galleries}
    return picture_table(columns, [item.prompt[:300] for item in common])


def _thumb(path: Path, out: Path, alt: str) -> str:
    """A small picture, linked to the file that it shows."""
    import io

    image, kind = open_image(path), "JPEG"
    if max(image.size) <= SMALL:
        kind = "PNG"
    else:
        image.thumbnail((THUMB, THUMB))
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 85} if kind == "JPEG" else {}))
    shown = inline_image(content.getvalue(), alt, Image.MIME[kind])
    if max(image.size) < SHARP:
        shown = shown.replace("<img ", "<img class=small ", 1)
    place = os.path.relpath(path.resolve(), out.resolve())
    return f'<a href="{html.escape(quote(Path(place).as_posix()))}">{shown}</a>'
