"""The two drawn worlds: `shapes`, one object a scene, and `pairs`, two objects and a relation."""

from __future__ import annotations

from . import pairs, scenes
from .render import PAIRS_SIZE, SIZE, render, render_pairs
from .world import World

SHAPES = World(
    "shapes", scenes.ATTRIBUTES, ("shape",), scenes.CATEGORIES, scenes.WORDS, SIZE, tokens=16, text_layers=2, render=render,
    caption=scenes.caption, parse=scenes.parse, retold=lambda rows: rows, seen=lambda rows: rows,
)  # fmt: skip
PAIRS = World(
    "pairs", pairs.ATTRIBUTES, ("first shape", "second shape"), pairs.CATEGORIES, pairs.WORDS, PAIRS_SIZE, tokens=20, text_layers=3,
    render=render_pairs, caption=pairs.caption, parse=pairs.parse, retold=pairs.retold, seen=pairs.seen,
)  # fmt: skip
WORLDS = {world.name: world for world in (SHAPES, PAIRS)}
