"""Tables and self-contained pages, as the reports of runs, experiments, evaluations and studies share them."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any

Rows = Sequence[Sequence[Any]]
"""A table, header first: cells of text, or of whatever `cell` turns into markup."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #1f2328 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px } td, th { padding: 3px 9px; border-bottom: 1px solid #d1d9e0; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% } .alarm { background: #fff1e5; padding: .3em .8em; border-left: 4px solid #bc4c00 }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole HTML document; `body` is HTML, `title` is text. It may load nothing from outside."""
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=content-security-policy content="{POLICY}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style><body>{''.join(body)}\n"
    )


def html_table(rows: Rows, cell: Callable[[Any], str] = html.escape) -> str:
    """A table as HTML."""
    header, *rest = ([cell(content) for content in row] for row in rows)
    head = "".join(f"<th scope=col>{text}</th>" for text in header)
    lines = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in rest)
    return f"<table><tr>{head}</tr>{lines}</table>"


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
