"""Tables and self-contained pages, as the reports of runs, experiments, evaluations and studies share them."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

Rows = Sequence[Sequence[Any]]
"""A table, header first: cells of text, or of whatever `cell` turns into markup."""

PREVIEW = 1_000_000  # pixels of a picture within a page; larger ones are linked
PREVIEW_BYTES = 400_000
SHARP = 128  # pixels from which an image is shown smoothly
PIXELATED = "img { image-rendering: pixelated }\n"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #1f2328 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px } td, th { padding: 3px 9px; border-bottom: 1px solid #d1d9e0; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100%; height: auto } .wide { overflow-x: auto } .alarm { background: #fff1e5; padding: .3em .8em; border-left: 4px solid #bc4c00 }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole HTML document; `body` is HTML, `title` is text. It may load nothing from outside."""
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><meta http-equiv=content-security-policy content="{POLICY}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style><body>{''.join(body)}\n"
    )


def html_table(rows: Rows, cell: Callable[[Any], str] = html.escape) -> str:
    """A table as HTML."""
    header, *rest = ([cell(content) for content in row] for row in rows)
    head = "".join(f"<th scope=col>{text}</th>" for text in header)
    lines = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in rest)
    return f"<div class=wide><table><tr>{head}</tr>{lines}</table></div>"


def markdown_table(rows: Rows, cell: Callable[[Any], str] | None = None) -> str:
    """A table as Markdown, without a line break at its end."""
    header, *rest = ([(cell or markdown_text)(content) for content in row] for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rest))


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, within one cell."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def inline_image(content: bytes, alt: str = "", kind: str = "image/png") -> str:
    """An image within the page."""
    return f'<img alt="{html.escape(alt)}" src="data:{kind};base64,{base64.b64encode(content).decode()}">'


def linked_image(content: bytes, href: str, alt: str = "") -> str:
    """A preview of an image within the page, linked to its file at a path beside the page."""
    return f'<a href="{html.escape(quote(href))}">{inline_image(*preview(content, alt))}</a>'


def preview(content: bytes, alt: str = "") -> tuple[bytes, str, str]:
    """An image file's content, of at most a megapixel: as it is where it is small, else a JPEG; with `alt` and its kind."""
    import io

    from PIL import Image

    from .images import open_image

    image = open_image(content, alt)
    scale = min(1.0, (PREVIEW / (image.width * image.height)) ** 0.5)
    if scale == 1 and len(content) <= PREVIEW_BYTES:
        for mark, kind in ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg")):
            if content.startswith(mark):
                return content, alt, kind
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=85)
    return out.getvalue(), alt, "image/jpeg"


def picture_table(columns: Mapping[str, Sequence[str]], captions: Sequence[str]) -> str:
    """Pictures (markup) side by side: a column each, a row a caption."""
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in columns)
    lines = (
        f"<tr><td>{html.escape(caption)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for caption, *cells in zip(captions, *columns.values(), strict=True)
    )
    return f"<div class=wide><table class=pictures><tr><th></th>{head}</tr>{''.join(lines)}</table></div>"
