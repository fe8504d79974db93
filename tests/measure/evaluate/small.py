"""Small pictures and small random networks of the real architectures."""

import json

import numpy as np
from PIL import Image


def paint(folder, n, seed=0, side=64, level=0, name="image_{:04d}.png"):
    """n different pictures of 8 x 8 blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for i in range(n):
        small = chance.integers(level, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST).save(folder / name.format(i))
    return folder


def save_clip_tokenizer(folder):
    """CLIP's byte-pair tokenizer without a single merge: one token a letter."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks}))
    return len(words)
