"""From packages to pictures: SVG rasterised by resvg on white, with their concepts, in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....errors import InputError
from ....extras import require
from ....files import folder_atomic, read_json, read_json_lines, read_object
from .concepts import STYLES, UNSEEN_STYLES, Concept, concepts_json
from .packages import FLUENT, FLUENT_FLAT, NOTO, OPENMOJI, PACKAGES, TWEMOJI, WORDS, read_package

SIZES = (64, 128)
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
Report = Callable[[str, int, int], None]
"""(what, done, total)."""


@dataclass(frozen=True)
class Drawing:
    """One emoji in one style, not yet drawn."""

    style: str
    code: str
    svg: str


@dataclass(frozen=True)
class Pictures:
    """A fetched set: images (N, 3, S, S) uint8, and the style and the concept of each."""

    images: Tensor
    styles: list[str]
    codes: list[str]
    concepts: dict[str, Concept]

    def rows(self, styles: tuple[str, ...], held_out: bool) -> list[int]:
        """Rows of some styles, of concepts that training may see or of those that it may not."""
        return [
            i
            for i, (style, code) in enumerate(zip(self.styles, self.codes))
            if style in styles and self.concepts[code].held_out == held_out
        ]


def fetch(folder: Path, size: int, source: Path | None, report: Report, say: Callable[[str], None]) -> Path:
    """Fetch, check, rasterise and write one picture set into `folder`; returns it. A folder that holds this set is left as it is."""
    if size not in SIZES:
        raise InputError("--size", str(size), f"use one of {', '.join(map(str, SIZES))}")
    require("emoji", ("resvg_py",))
    index = folder / "set.json"
    if index.is_file() and read_object(index).get("size") == size:
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise InputError(str(folder), "a folder that holds something else", "give an empty or a new folder with --out")
    drawings, concepts = read_drawings({p.name: read_package(p, source, say) for p in PACKAGES})
    images, kept, skipped = [], [], []
    for i, drawing in enumerate(drawings):
        try:
            images.append(rasterise(drawing.svg, size))
            kept.append(drawing)
        except ValueError as error:
            skipped.append(f"{drawing.style} {drawing.code}: {' '.join(str(error).split())[:100]}")
        report("drawing emoji", i + 1, len(drawings))
    for line in skipped[:5]:
        say(f"skipped {line}")
    say(f"{len(kept)} pictures of {len(concepts)} concepts; {len(skipped)} skipped")
    from safetensors.torch import save_file

    with folder_atomic(folder) as temporary:
        save_file({"images": torch.from_numpy(np.stack(images))}, temporary / "images.safetensors")
        rows = [{"row": i, "style": d.style, "code": d.code, "name": concepts[d.code].name} for i, d in enumerate(kept)]
        (temporary / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (temporary / "concepts.json").write_text(concepts_json(list(concepts.values())), encoding="utf-8")
        (temporary / "NOTICE.md").write_text(notice(), encoding="utf-8")
        facts = {"size": size, "pictures": len(kept), "skipped": skipped, "packages": {p.name: [p.version, p.digest] for p in PACKAGES}}
        (temporary / "set.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return folder


def load_pictures(folder: Path) -> Pictures:
    """The set that `fetch` wrote. Raises InputError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        images = load_file(folder / "images.safetensors")["images"]
        rows = read_json_lines(folder / "manifest.jsonl")
        table = read_json(folder / "concepts.json")
    except (OSError, ValueError, KeyError, SafetensorError, InputError) as error:
        raise InputError(str(folder), f"no emoji pictures ({type(error).__name__})", "run `ddmd builtin fetch emoji`") from error
    concepts = {c["code"]: Concept(c["code"], c["name"], tuple(c["keywords"]), tuple(c["styles"])) for c in table}
    return Pictures(images, [row["style"] for row in rows], [row["code"] for row in rows], concepts)


def read_drawings(packages: dict[str, dict[str, bytes]]) -> tuple[list[Drawing], dict[str, Concept]]:
    """All drawings without skin tones of concepts that have a name, and these concepts by code."""
    names = {row["hexcode"].lower(): row for row in json.loads(packages[WORDS.name]["en/data.json"])}
    names = {plain_code(code): row for code, row in names.items()}
    flat_codes = _codes(packages[FLUENT_FLAT.name])
    found = [
        *_iconify("noto", packages[NOTO.name], _codes(packages[NOTO.name])),
        *_iconify("fluent", packages[FLUENT.name], flat_codes),  # this package lists no characters; its names are the flat one's
        *_iconify("flat", packages[FLUENT_FLAT.name], flat_codes),
    ]
    found = [drawing for drawing in found if drawing.code in names]
    styles: dict[str, list[str]] = {}
    for drawing in found:
        styles.setdefault(drawing.code, []).append(drawing.style)
    concepts = {
        code: Concept(code, _plain_name(names[code]["label"]), tuple(names[code].get("tags", ())), tuple(s for s in STYLES if s in drawn))
        for code, drawn in sorted(styles.items())
    }
    found += [d for d in _files("twemoji", packages[TWEMOJI.name]) if d.code in concepts]
    found += [d for d in _files("openmoji", packages[OPENMOJI.name]) if d.code in concepts]
    return found, concepts


def plain_code(code: str) -> str:
    """Code points in small hexadecimal joined by hyphens, without variation selectors."""
    return "-".join(part for part in code.lower().split("-") if part not in ("fe0f", "fe0e"))


def _plain_name(label: str) -> str:
    return label.lower().replace(":", "").replace("“", "").replace("”", "").replace("\u2019", "'")


def _codes(files: dict[str, bytes]) -> dict[str, str]:
    """Icon name -> code."""
    return {name: plain_code(code) for code, name in json.loads(files["chars.json"]).items()}


def _iconify(style: str, files: dict[str, bytes], codes: dict[str, str]) -> Iterator[Drawing]:
    icons = json.loads(files["icons.json"])
    seen = set()
    for name, icon in icons["icons"].items():
        code = codes.get(name)
        if code is None or code in seen or SKIN_TONES & set(code.split("-")):
            continue
        seen.add(code)
        box = [
            icon.get("left", 0),
            icon.get("top", 0),
            icon.get("width", icons.get("width", 16)),
            icon.get("height", icons.get("height", 16)),
        ]
        head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{" ".join(map(str, box))}">'
        yield Drawing(style, code, f"{head}{icon['body']}</svg>")


def _files(style: str, files: dict[str, bytes]) -> Iterator[Drawing]:
    for path, content in sorted(files.items()):
        name = path.rpartition("/")[2].removesuffix(".svg")
        yield Drawing(style, plain_code(name), content.decode("utf-8", errors="replace"))


def rasterise(svg: str, size: int) -> np.ndarray:
    """An SVG on white, as (3, size, size) uint8. Raises ValueError for one that cannot be drawn."""
    from PIL import Image

    from ....images import open_image

    require("emoji", ("resvg_py",))
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    page = Image.new("RGB", (size, size), "white")
    page.paste(open_image(png, "a drawing"))
    return np.asarray(page).transpose(2, 0, 1).copy()


def notice() -> str:
    """Licences and attributions of the pictures."""
    lines = [f"- {p.name} {p.version}: {p.credit}; {p.licence}" for p in PACKAGES]
    unseen = " and ".join(UNSEEN_STYLES)
    return "# Where these pictures come from\n\n" + "\n".join(lines) + f"\n\nNo training sees {unseen}.\n"
