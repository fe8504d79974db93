"""Tables of a benchmark: Markdown, LaTeX and one page, best and second-best marked, with images of the same prompts side by side."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import write_atomic
from ...images import open_image
from ...pages import html_table, inline_image, markdown_table, markdown_text, page
from .gallery import Gallery
from .items import Item

SHOWN, CELL = 8, 160  # prompts in the grid of images, and the pixels of one


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
    notes += [f"{label}, {name}: {said}." for label, row in results["scores"].items() for name, said in row["remarks"].items()]
    notes += [f"Not scored: {reason}" for reason in results["not_scored"].values()]
    notes += [f"{where}: {len(found)} problems, left out" for where, found in results["problems"].items()]
    markdown = [f"# {name}", *(f"## {title}\n\n{to_markdown(table)}" for title, table in tables.items()), *map(markdown_text, notes)]
    write_atomic(out / "table.md", "\n\n".join(markdown) + "\n")
    write_atomic(out / "table.tex", "\n\n".join(f"% {title}\n{to_latex(table)}" for title, table in tables.items()) + "\n")
    body = [f"<h1>{html.escape(name)}</h1>", *(f"<h2>{html.escape(title)}</h2>{to_html(table)}" for title, table in tables.items())]
    body += [f"<p>{html.escape(note)}</p>" for note in notes]
    for part, (items, galleries) in parts.items():
        if grid := _grid(items, galleries):
            body.append(f"<h2>{html.escape(part)}: the same prompts and seeds</h2>{inline_image(grid, part)}")
    write_atomic(out / "index.html", page(name, body))


def _grid(items: Sequence[Item], galleries: Sequence[Gallery]) -> bytes:
    """The first prompts' first images, a column a model; nothing where no prompt has all."""
    import io

    from PIL import Image, ImageDraw, ImageFont, ImageOps

    common = [item for item in items if all(item.id in gallery.images for gallery in galleries)][:SHOWN]
    if not common:
        return b""
    line = 18
    canvas = Image.new("RGB", (len(galleries) * (CELL + 6) + 6, line + len(common) * (CELL + line + 6)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for x, gallery in enumerate(galleries):
        pen.text((6 + x * (CELL + 6), 2), gallery.label, fill="black", font=font)
        for y, item in enumerate(common):
            top = line + y * (CELL + line + 6)
            picture = ImageOps.pad(open_image(gallery.images[item.id][0]), (CELL, CELL), color="white")
            canvas.paste(picture, (6 + x * (CELL + 6), top))
            if x == 0:
                pen.text((6, top + CELL + 2), item.prompt[:120], fill="#444", font=font)
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()
