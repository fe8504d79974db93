"""The world of `shapes`: one object a scene, what it can be and how it is said."""

from __future__ import annotations

from ....errors import InputError
from .world import UNSTATED, vocabulary

OBJECT: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "texture": ("solid", "striped", "dotted", "checkered"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple"),
    "shape": ("circle", "square", "triangle", "star", "cross"),
}
BACKGROUNDS = ("gray", "black", "white", "pink")
ATTRIBUTES: dict[str, tuple[str, ...]] = {**OBJECT, "position": ("center", "left", "right", "top", "bottom"), "background": BACKGROUNDS}
NAMES = tuple(ATTRIBUTES)
CATEGORIES: dict[str, tuple[str, ...]] = {
    "entity": ("shape",),
    "attribute": ("size", "texture", "colour"),
    "relation": ("position",),
    "global": ("background",),
}
WORDS = ("a", "at", "the", "on", "background")


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
    for word in known_words(text, "shapes", vocabulary(WORDS, ATTRIBUTES)):
        for column, values in enumerate(ATTRIBUTES.values()):
            if word in values:
                state(statement, column, values.index(word), NAMES[column], text)
    return statement


def known_words(text: str, world: str, known: tuple[str, ...]) -> list[str]:
    """The words of a prompt. Raises InputError for one that the world does not know, with the list of those it does."""
    words = text.lower().replace(",", " ").replace(".", " ").split()
    for word in words:
        if word not in known:
            raise InputError("prompt", f"the word {word!r} in {text!r}", f"{world} knows only: {', '.join(known)}")
    return words


def state(statement: list[int], column: int, value: int, name: str, text: str) -> None:
    """Write one attribute's value into a statement. Raises InputError when another one stands there."""
    if statement[column] not in (UNSTATED, value):
        raise InputError("prompt", f"two values of {name} in {text!r}", "name each attribute of an object once")
    statement[column] = value
