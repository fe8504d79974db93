"""A world of drawn scenes: what its training, its verifier and its scores need to know of it.

A scene is a row of attribute indices, one column per entry of `attributes`. A caption states some of them;
the stated ones are what a picture is later scored on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

UNSTATED = -1
SPLITS = ("validation", "report", "train")
OMIT = 0.15  # how often an attribute is left out of a prompt
BARREN = 5_000  # captions of a split in a row, none of them new, after which it is taken to have no more


@dataclass(frozen=True)
class World:
    """Words, pictures and their truth.

    `attributes` are the columns of a scene and their values; captions never leave out those in `always`. `categories` sort the
    columns as DPG-Bench sorts its questions, the benchmark behind the paper's Table 1. `words` are those beside the values.
    `size` is in pixels, `tokens` holds the longest caption and its two ends, `text_layers` is the depth of its text encoder.
    `render` draws scenes, `caption` says a statement, `parse` reads it back. `retold` says the same pictures with the objects in
    the other order (the scenes themselves where there is but one); `seen` is the order that a verifier tells them in.
    """

    name: str
    attributes: Mapping[str, tuple[str, ...]]
    always: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    words: tuple[str, ...]
    size: int
    tokens: int
    text_layers: int
    render: Callable[[Tensor, torch.Generator | None], Tensor]
    caption: Callable[[list[int]], str]
    parse: Callable[[str], list[int]]
    retold: Callable[[Tensor], Tensor]
    seen: Callable[[Tensor], Tensor]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a scene's columns."""
        return tuple(self.attributes)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of every caption."""
        return vocabulary(self.words, self.attributes)

    def scenes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw scenes uniformly over all combinations. Returns attribute indices, shape (n, columns), int64."""
        return torch.stack([torch.randint(len(values), (n,), generator=generator) for values in self.attributes.values()], dim=1)

    def statements(self, scenes: Tensor, omit: float, wrong: float, generator: torch.Generator | None = None) -> Tensor:
        """Decide what a caption says about each scene.

        Every attribute but those of `always` is left out with probability `omit`; a stated one is replaced by another value of
        the same attribute with probability `wrong`, which blurs the conditional law and so gives guidance its work.
        Returns statements, shape (n, columns), with `UNSTATED` where nothing is said.
        """
        statements = scenes.clone()
        for column, values in enumerate(self.attributes.values()):
            shift = torch.randint(1, len(values), (len(scenes),), generator=generator)
            lie = torch.rand(len(scenes), generator=generator) < wrong
            statements[:, column] = torch.where(lie, (scenes[:, column] + shift) % len(values), scenes[:, column])
        hidden = torch.rand(statements.shape, generator=generator) < omit
        hidden[:, [self.columns.index(name) for name in self.always]] = False
        return statements.masked_fill(hidden, UNSTATED)

    def prompts(self, split: str, seed: int = 0) -> Iterator[str]:
        """Endless captions of a split in a fixed order drawn by seed, with repetitions, never one of another split."""
        generator = torch.Generator().manual_seed(1_000 * seed + SPLITS.index(split))
        while True:
            for row in self.statements(self.scenes(256, generator), OMIT, 0.0, generator).tolist():
                text = self.caption(row)
                if split_of(text) == split:
                    yield text

    def take(self, split: str, n: int, seed: int = 0) -> list[str]:
        """The first n distinct captions of a split; all that there are, but perhaps for some very rare ones, where they are fewer."""
        found: dict[str, None] = {}
        barren = 0
        for text in self.prompts(split, seed):
            barren = barren + 1 if text in found else 0
            found.setdefault(text)
            if len(found) == n or barren == BARREN:
                break
        return list(found)

    def right(self, read: Tensor, asked: Tensor) -> Tensor:
        """What is stated and shown: booleans of shape (N, columns), from a verifier's readings and the statements asked for.

        Which object of the picture is which of the prompt's is not given: the order that agrees with more of it counts.
        """
        one, two = ((scene == asked) & (asked != UNSTATED) for scene in (read, self.retold(read)))
        return torch.where((one.sum(1) >= two.sum(1))[:, None], one, two)


def vocabulary(words: tuple[str, ...], attributes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Every word of every caption once, in a fixed order; a value of two words counts as two."""
    return tuple(dict.fromkeys([*words, *(word for values in attributes.values() for value in values for word in value.split())]))


def split_of(text: str) -> str:
    """The split a caption belongs to, fixed by its hash: one tenth validation, one tenth report, the rest train."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10
    return SPLITS[min(bucket, 2)]
