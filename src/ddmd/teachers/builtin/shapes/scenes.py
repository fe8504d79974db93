"""The world of `shapes`: what a scene is, how it is said, and which sentences may be used for what.

A scene is a row of attribute indices, one column per entry of `ATTRIBUTES`. A caption states some of them;
the stated ones are what a picture is later scored on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import InputError

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "texture": ("solid", "striped", "dotted", "checkered"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple"),
    "shape": ("circle", "square", "triangle", "star", "cross"),
    "position": ("center", "left", "right", "top", "bottom"),
    "background": ("gray", "black", "white", "pink"),
}
NAMES = tuple(ATTRIBUTES)
# The categories of DPG-Bench, the benchmark behind the paper's Table 1.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "entity": ("shape",),
    "attribute": ("size", "texture", "colour"),
    "relation": ("position",),
    "global": ("background",),
}
UNSTATED = -1
VOCABULARY = tuple(dict.fromkeys(["a", "at", "the", "on", "background"] + [w for words in ATTRIBUTES.values() for w in words]))
SPLITS = ("validation", "report", "train")


def random_scenes(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw scenes uniformly over all combinations. Returns attribute indices, shape (n, 6), int64."""
    return torch.stack([torch.randint(len(words), (n,), generator=generator) for words in ATTRIBUTES.values()], dim=1)


def random_statements(scenes: Tensor, omit: float, wrong: float, generator: torch.Generator | None = None) -> Tensor:
    """Decide what a caption says about each scene.

    Every attribute but the shape is left out with probability `omit`; a stated one is replaced by another value of
    the same attribute with probability `wrong`, which blurs the conditional law and so gives guidance its work.
    Returns statements, shape (n, 6), with `UNSTATED` where nothing is said.
    """
    statements = scenes.clone()
    for column, words in enumerate(ATTRIBUTES.values()):
        shift = torch.randint(1, len(words), (len(scenes),), generator=generator)
        lie = torch.rand(len(scenes), generator=generator) < wrong
        statements[:, column] = torch.where(lie, (scenes[:, column] + shift) % len(words), scenes[:, column])
    hidden = torch.rand(statements.shape, generator=generator) < omit
    hidden[:, NAMES.index("shape")] = False
    return statements.masked_fill(hidden, UNSTATED)


def caption(statement: list[int]) -> str:
    """Say one statement (six indices, `UNSTATED` where silent) as a sentence."""
    word = {name: ATTRIBUTES[name][i] if i != UNSTATED else "" for name, i in zip(NAMES, statement, strict=True)}
    parts = ["a", word["size"], word["texture"], word["colour"], word["shape"]]
    if word["position"]:
        parts += ["at", "the", word["position"]]
    if word["background"]:
        parts += ["on", "a", word["background"], "background"]
    return " ".join(part for part in parts if part)


def parse(text: str) -> list[int]:
    """Read a sentence back into a statement: the inverse of `caption`, tolerant of word order and case.

    Raises InputError when a word is unknown (the vocabulary is listed) or an attribute is stated twice.
    """
    statement = [UNSTATED] * len(NAMES)
    for word in text.lower().replace(",", " ").replace(".", " ").split():
        if word not in VOCABULARY:
            raise InputError("prompt", f"the word {word!r} in {text!r}", f"shapes knows only: {', '.join(VOCABULARY)}")
        for column, words in enumerate(ATTRIBUTES.values()):
            if word in words:
                if statement[column] not in (UNSTATED, words.index(word)):
                    raise InputError(
                        "prompt", f"two values of {NAMES[column]} in {text!r}", "a scene has one object: name each attribute once"
                    )
                statement[column] = words.index(word)
    return statement


def split_of(text: str) -> str:
    """The split a caption belongs to, fixed by its hash: one tenth validation, one tenth report, the rest train."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10
    return SPLITS[min(bucket, 2)]


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one split in a fixed order drawn by seed; the three splits share no caption."""

    split: str
    seed: int = 0
    omit: float = 0.15

    def __iter__(self) -> Iterator[str]:
        """Endless captions of the split, never one of another split."""
        generator = torch.Generator().manual_seed(1_000 * self.seed + SPLITS.index(self.split))
        while True:
            statements = random_statements(random_scenes(256, generator), self.omit, 0.0, generator)
            for row in statements.tolist():
                text = caption(row)
                if split_of(text) == self.split:
                    yield text

    def take(self, n: int) -> list[str]:
        """The first n distinct captions of the split."""
        found: dict[str, None] = {}
        for text in self:
            found.setdefault(text)
            if len(found) == n:
                return list(found)
        raise AssertionError("unreachable: the stream is endless")
