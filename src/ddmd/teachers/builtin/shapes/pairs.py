"""The world of `pairs`: two objects a scene and how they stand to each other.

The picture of "a left of b" is that of "b right of a": `retold` turns the one into the other, and `seen` is the telling
that begins with the object at the left or at the top.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....errors import InputError
from .scenes import BACKGROUNDS, OBJECT, known_words, state
from .world import UNSTATED, vocabulary

RELATIONS = ("left of", "right of", "above", "below")  # each odd one is its neighbour told from the second object
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **{f"first {name}": values for name, values in OBJECT.items()},
    **{f"second {name}": values for name, values in OBJECT.items()},
    "relation": RELATIONS,
    "background": BACKGROUNDS,
}
NAMES = tuple(ATTRIBUTES)
CATEGORIES: dict[str, tuple[str, ...]] = {
    "entity": ("first shape", "second shape"),
    "attribute": tuple(f"{which} {name}" for which in ("first", "second") for name in ("size", "texture", "colour")),
    "relation": ("relation",),
    "global": ("background",),
}
WORDS = ("a", "and", "on", "background")
WIDTH = len(OBJECT)  # columns of one object
RELATION = NAMES.index("relation")


def caption(statement: list[int]) -> str:
    """Say one statement (ten indices, `UNSTATED` where silent) as a sentence; an unstated relation is "and"."""
    word = {name: ATTRIBUTES[name][i] if i != UNSTATED else "" for name, i in zip(NAMES, statement, strict=True)}
    parts = ["a", *(word[f"first {name}"] for name in OBJECT)]
    parts += [word["relation"] or "and", "a", *(word[f"second {name}"] for name in OBJECT)]
    if word["background"]:
        parts += ["on", "a", word["background"], "background"]
    return " ".join(part for part in parts if part)


def parse(text: str) -> list[int]:
    """Read a sentence back into a statement: the inverse of `caption`.

    Raises InputError when a word is unknown (the vocabulary is listed), when no relation or more than one joins the objects, or when an attribute is
    stated twice.
    """
    words = " ".join(known_words(text, "pairs", vocabulary(WORDS, ATTRIBUTES)))
    joints = [(joint, f" {words} ".count(f" {joint} ")) for joint in (*RELATIONS, "and")]
    found = [joint for joint, times in joints for _ in range(times)]
    if len(found) != 1:
        raise InputError(
            "prompt", f"{len(found) or 'no'} relations in {text!r}", f"a scene has two objects: join them by {', '.join(RELATIONS)} or and"
        )
    statement = [UNSTATED] * len(NAMES)
    if found[0] != "and":
        statement[RELATION] = RELATIONS.index(found[0])
    for half, part in enumerate(f" {words} ".split(f" {found[0]} ")):
        for word in part.split():
            for i, (name, values) in enumerate(OBJECT.items()):
                if word in values:
                    state(statement, half * WIDTH + i, values.index(word), name, text)
            if word in BACKGROUNDS:
                state(statement, NAMES.index("background"), BACKGROUNDS.index(word), "background", text)
    return statement


def retold(scenes: Tensor) -> Tensor:
    """The same pictures told from the other object, (n, 10)."""
    swapped = torch.cat([scenes[:, WIDTH : 2 * WIDTH], scenes[:, :WIDTH], scenes[:, 2 * WIDTH :]], dim=1)
    swapped[:, RELATION] = scenes[:, RELATION] ^ 1
    return swapped


def seen(scenes: Tensor) -> Tensor:
    """The same pictures told from the object at the left or at the top, (n, 10)."""
    return torch.where(scenes[:, RELATION, None] % 2 == 1, retold(scenes), scenes)
