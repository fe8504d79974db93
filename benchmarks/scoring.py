"""What scoring costs beyond the scorer's own forward passes: decoding, resizing, keeping values.

    python benchmarks/scoring.py [--images 64] [--side 1024] [--clip large|huge]

Scores random pictures with a CLIP of full size and random weights, and with EfficientNet-Lite0's features; a hook sums the time
of the networks' forward passes in the same run. Prints the overhead, (whole - forward) / forward, of each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddmd.measure.evaluate import scoring
from ddmd.measure.evaluate.gallery import find_images
from ddmd.measure.evaluate.items import Item
from ddmd.measure.evaluate.scorers.clip import VIT_H, ClipRater, HpsRater
from ddmd.measure.evaluate.scorers.features import Lite0
from ddmd.measure.evaluate.suites import SUITES
from ddmd.measure.evaluate.wish import Wish
from ddmd.run.results import machine

LARGE = {
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14},
    "projection_dim": 768,
}


class Words:
    """A tokenizer of fixed length."""

    def __call__(self, texts, **kwargs):
        from transformers import BatchEncoding

        ids = torch.randint(5, 40_000, (len(texts), 77))
        ids[:, -1] = 49_407
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def random_clip(shape) -> ClipRater:
    """A CLIP of full size with random weights, as the raters hold it."""
    from transformers import CLIPConfig, CLIPModel

    text = {**shape["text"], "eos_token_id": 49_407}
    rater = HpsRater(
        CLIPModel(CLIPConfig(text_config=text, vision_config=shape["vision"], projection_dim=shape["projection_dim"])),
        Words(),
        Path("none"),
    )
    rater.identity = lambda: {"name": "random"}  # type: ignore[method-assign]
    return rater


def timed(module: torch.nn.Module, spent: list[float]) -> None:
    """Sum the time of a module's forward passes."""
    began = []
    module.register_forward_pre_hook(lambda *_: began.append(time.perf_counter()))
    module.register_forward_hook(lambda *_: spent.append(time.perf_counter() - began.pop()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--clip", choices=("large", "huge"), default="large")
    args = parser.parse_args()
    found = {"machine": machine(), "images": args.images, "side": args.side}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        chance = np.random.default_rng(0)
        for i in range(args.images):
            small = Image.fromarray(chance.integers(0, 255, (64, 64, 3), dtype=np.uint8))
            small.resize((args.side, args.side), Image.Resampling.BICUBIC).save(root / f"{i:06d}.png")
        items = [Item(f"{i:06d}", "a prompt of some words") for i in range(args.images)]
        gallery = find_images("random", root, items)
        wish = Wish((place,), root, root / "out", reference=root)
        rater, spent = random_clip(LARGE if args.clip == "large" else VIT_H), []
        timed(rater.model.vision_model, spent)
        timed(rater.model.text_model, spent)
        found[f"clip {args.clip}"] = measured(rater, "clip", items, gallery, wish, spent)
        from ddmd.teachers.builtin.emoji import judge

        spent = []
        bare = judge.lite0().extract_features

        def extract(pixels):
            start = time.perf_counter()
            features = bare(pixels)
            spent.append(time.perf_counter() - start)
            return features

        judge.lite0().extract_features = extract
        found["lite0"] = measured(Lite0(), "lite0", items, gallery, wish, spent)
    print(json.dumps(found, indent=1))


def measured(scorer, name, items, gallery, wish, spent) -> dict[str, float]:
    """Seconds and overhead of one scorer, without reference images and after one warm-up batch."""
    part = SUITES["images" if name == "lite0" else "clip"].parts[0]
    work = scoring.Scoring(name, scorer, part, items, wish, lambda *_: None)
    if name == "lite0":
        work._streams([path for _, path in gallery.pairs(items)][:4], lambda *_: None)
    else:
        scorer.rate([Image.new("RGB", (64, 64))], ["warm up"])
    spent.clear()
    began = time.perf_counter()
    if name == "lite0":
        work._streams([path for _, path in gallery.pairs(items)], lambda *_: None)
    else:
        work.measure(gallery)
    whole, forward = time.perf_counter() - began, sum(spent)
    return {"seconds": whole, "forward": forward, "overhead": (whole - forward) / forward}


if __name__ == "__main__":
    main()
