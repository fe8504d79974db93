"""Words before they are encoded: what a tokenizer cannot hold, and preambles that the empty prompt goes without."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import InputError
from ...method.batch import Condition


def check_words(tokenizer: Any, prompts: Sequence[str]) -> None:
    """Raise InputError for unknown words and for prompts that are too long, where a tokenizer knows a list of whole words only."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(core, "model", None)).__name__ != "WordLevel":
        return
    unknown = tokenizer.unk_token_id
    for prompt in prompts:
        ids = tokenizer(prompt).input_ids
        if unknown in ids:
            words = [word for word in prompt.split() if unknown in tokenizer(word).input_ids]
            known = [word for word in tokenizer.get_vocab() if not word.startswith("<")]
            raise InputError("prompt", f"unknown words {', '.join(words)} in {prompt!r}", f"this model knows only: {', '.join(known)}")
        if len(ids) > tokenizer.model_max_length:
            raise InputError("prompt", f"{len(ids)} tokens in {prompt!r}", f"this model reads at most {tokenizer.model_max_length}")


def too_long(pipeline: Any, prompts: Sequence[str]) -> tuple[list[str], int]:
    """The prompts that a pipeline cuts, and its limit in tokens.

    Counted by its last tokenizer, the one that reads most; a preamble of the pipeline's own is not counted.
    """
    names = [name for name in ("tokenizer_3", "tokenizer_2", "tokenizer") if pipeline.components.get(name) is not None]
    tokenizer = pipeline.components[names[0]]
    option = inspect.signature(pipeline.encode_prompt).parameters.get("max_sequence_length")
    limit = min(tokenizer.model_max_length, option.default if option and option.default else tokenizer.model_max_length)
    # A token is at least one character, so short texts need no count.
    return [text for text in prompts if len(text) + 2 > limit and len(tokenizer(text, truncation=False).input_ids) > limit], limit


def encode_after_preamble(pipeline: Any, prompts: Sequence[str], **options: Any) -> Condition:
    """Embeddings and masks by a pipeline that puts a text of its own before a prompt, but not before the empty one."""
    said = torch.tensor([bool(prompt.strip()) for prompt in prompts])
    some_empty = not bool(said.all())
    embeds, mask, empty, empty_mask = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=some_empty, **options)
    if some_empty:
        said = said.to(embeds.device)
        embeds, mask = torch.where(said[:, None, None], embeds, empty), torch.where(said[:, None], mask, empty_mask)
    return {"embeds": embeds, "mask": mask}
