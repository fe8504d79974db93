"""Give a text encoder what another one has learnt, where their vocabularies or depths differ."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

LAYER = re.compile(r"(?P<before>.*encoder\.layers\.)(?P<number>\d+)(?P<after>\..+)")
WORDS, PLACES = "token_embedding.weight", "position_embedding.weight"
BRANCH_ENDS = ("self_attn.out_proj", "mlp.fc2")


@torch.no_grad()
def adopt_words(encoder: Any, words: dict[str, int], weights: dict[str, Tensor], known: dict[str, int]) -> None:
    """Load `weights` of an encoder of the same width into `encoder`: words by name, places as far as both go, layers in order.

    `words` and `known` are the vocabularies of this encoder and of that one. The last layer stays the last; layers that only
    this one has begin by doing nothing. Raises KeyError or RuntimeError where the widths or the parts differ.
    """
    depth = encoder.config.num_hidden_layers
    given = 1 + max((int(found["number"]) for name in weights if (found := LAYER.fullmatch(name))), default=-1)
    if not 1 <= given <= depth:
        raise RuntimeError(f"{given} layers do not fit into {depth}")
    for name, value in encoder.state_dict().items():  # the parameters themselves, written in place
        found = LAYER.fullmatch(name)
        if name.endswith(WORDS):
            for word in words.keys() & known.keys():
                value[words[word]] = weights[name][known[word]]
        elif name.endswith(PLACES):
            shared = min(len(value), len(weights[name]))
            value[:shared] = weights[name][:shared]
        elif found is None:
            value.copy_(weights[name])
        elif (source := _source(int(found["number"]), depth, given)) is not None:
            value.copy_(weights[f"{found['before']}{source}{found['after']}"])
        elif any(end in name for end in BRANCH_ENDS):
            value.zero_()


def _source(layer: int, depth: int, given: int) -> int | None:
    """Which of the given layers becomes this one, if any."""
    if layer == depth - 1:
        return given - 1
    return layer if layer < given - 1 else None
