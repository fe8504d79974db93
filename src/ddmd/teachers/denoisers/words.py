"""Refuse prompts that a word-level tokenizer cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import InputError


def check_words(tokenizer: Any, prompts: Sequence[str]) -> None:
    """Raise InputError for unknown words and for prompts that are too long; byte-pair tokenizers know every word.

    A tokenizer has a real unknown token when that token is none of its other marks.
    """
    unknown = tokenizer.unk_token_id
    if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        return
    for prompt in prompts:
        ids = tokenizer(prompt).input_ids
        if unknown in ids:
            words = [word for word in prompt.split() if unknown in tokenizer(word).input_ids]
            known = [word for word in tokenizer.get_vocab() if not word.startswith("<")]
            raise InputError("prompt", f"unknown words {', '.join(words)} in {prompt!r}", f"this model knows only: {', '.join(known)}")
        if len(ids) > tokenizer.model_max_length:
            raise InputError("prompt", f"{len(ids)} tokens in {prompt!r}", f"this model reads at most {tokenizer.model_max_length}")
