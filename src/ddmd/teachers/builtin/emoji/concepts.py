"""What the emoji are called: concepts with names and keywords, captions made of them, and the splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from ....files import read_json

TABLE = Path(__file__).parents[1] / "weights" / "emoji" / "concepts.json"
STYLES = {"noto": "noto", "fluent": "fluent", "flat": "fluent flat"}  # those that training sees, and what a caption calls them
UNSEEN_STYLES = ("twemoji", "openmoji")
SPLITS = ("train", "validation", "report")
SHARES = (0.8, 0.1)  # of the prompts, for train and validation; the rest is for reporting
HELD_OUT = 20  # one concept in twenty is never trained on


@dataclass(frozen=True)
class Concept:
    """One emoji, whatever its style. `code` is its code points in hexadecimal, without variation selectors."""

    code: str
    name: str
    keywords: tuple[str, ...]
    styles: tuple[str, ...]  # the training styles that draw it

    @property
    def held_out(self) -> bool:
        """Whether no training may see this concept: fixed by its code alone."""
        return _place("concept " + self.code) < 1 / HELD_OUT


def _place(text: str) -> float:
    """A fixed number in [0, 1) for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def captions(concept: Concept, style: str) -> list[str]:
    """All captions of a picture; the first is the plain one. Words in brackets of a name are left out."""
    name, said = concept.name, STYLES[style]
    thing = f"{_article(name)} {name}"
    out = [f"a {said} emoji of {name}", f"a {said} emoji of {thing}", f"{name}, {said} emoji", f"{thing} drawn as a {said} emoji"]
    others = [word for word in concept.keywords if word not in name.split()]
    for first, second in zip(others[0:4:2], others[1:4:2], strict=False):
        out += [f"a {said} emoji of {name}, {first}, {second}", f"{said} emoji: {name} ({first} {second})"]
    return out


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def split_of(prompt: str) -> str:
    """Which split a prompt of a training concept belongs to: fixed by its text."""
    place = _place("prompt " + prompt)
    return SPLITS[0] if place < SHARES[0] else SPLITS[1] if place < sum(SHARES) else SPLITS[2]


def prompts_of(split: str, n: int, concepts: Sequence[Concept]) -> list[str]:
    """The first n distinct prompts of a split, in a fixed random order; the splits share none.

    Held-out concepts appear in `report` only, and there with every caption.
    """
    found = set()
    for concept in concepts:
        for style in concept.styles:
            for caption in captions(concept, style):
                if split == ("report" if concept.held_out else split_of(caption)):
                    found.add(caption)
    return sorted(found, key=lambda prompt: _place("order " + prompt))[:n]


@lru_cache
def load_concepts() -> tuple[Concept, ...]:
    """The concepts that the shipped teacher was trained with; needs no fetched pictures."""
    rows = read_json(TABLE)
    return tuple(Concept(row["code"], row["name"], tuple(row["keywords"]), tuple(row["styles"])) for row in rows)


def concepts_json(concepts: Sequence[Concept]) -> str:
    """The table of `load_concepts`, one concept a line."""
    return "[\n" + ",\n".join(json.dumps(asdict(concept), ensure_ascii=False) for concept in concepts) + "\n]\n"
