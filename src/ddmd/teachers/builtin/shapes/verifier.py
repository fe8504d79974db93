"""The verifier: a small network that reads every attribute back from an image, and whose features measure a Frechet distance."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from ....files import folder_atomic
from .world import World

FEATURES = 128


class Verifier(nn.Module):
    """Images (B, 3, size, size) in [-1, 1] -> one set of logits per column of the world's scenes, told as `World.seen` tells them."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        widths = (3, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (world.size // 8) ** 2, FEATURES))
        self.heads = nn.ModuleList([nn.Linear(FEATURES, len(words)) for words in world.attributes.values()])

    def features(self, images: Tensor) -> Tensor:
        """Features for the Frechet distance, shape (B, 128)."""
        return self.body(images)

    def forward(self, images: Tensor) -> list[Tensor]:
        hidden = torch.relu(self.body(images))
        return [head(hidden) for head in self.heads]

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The most likely value of every attribute, shape (B, columns)."""
        return torch.stack([logits.argmax(1) for logits in self(images)], dim=1)


def save_verifier(verifier: Verifier, folder: Path, facts: dict) -> None:
    """Write weights (safetensors) and what is known of them."""
    from safetensors.torch import save_file

    with folder_atomic(folder) as temporary:
        save_file(verifier.state_dict(), temporary / "verifier.safetensors")
        (temporary / "verifier.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_verifier(folder: Path, world: World) -> Verifier:
    """The verifier of a world saved in a folder, in evaluation mode."""
    from safetensors.torch import load_file

    verifier = Verifier(world)
    verifier.load_state_dict(load_file(folder / "verifier.safetensors"))
    return verifier.eval().requires_grad_(False)


def train_verifier(world: World, steps: int, seed: int, device: torch.device, report: Callable[[int, float], None]) -> Verifier:
    """Learn to read fresh renders, seen through noise and faded or stretched colours so that samples are read as well."""
    torch.manual_seed(seed)
    verifier = Verifier(world).to(device)
    optimizer = torch.optim.AdamW(verifier.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        scenes = world.scenes(96, generator)
        images = world.render(scenes, generator)
        strength = torch.rand(len(images), 1, 1, 1, generator=generator)
        contrast = 1 + 0.3 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
        images = images * contrast + 0.15 * strength**2 * torch.randn(images.shape, generator=generator)
        logits = verifier(images.to(device))
        truth = world.seen(scenes).to(device)
        loss = torch.stack([nn.functional.cross_entropy(z, truth[:, i]) for i, z in enumerate(logits)]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        report(step + 1, loss.item())
    return verifier.eval().requires_grad_(False)


def verifier_accuracy(verifier: Verifier, n: int, seed: int) -> dict[str, float]:
    """Share of fresh renders on which each attribute is read rightly, and on which all are."""
    device, world = next(verifier.parameters()).device, verifier.world
    generator = torch.Generator().manual_seed(seed)
    right = []
    for start in range(0, n, 500):
        scenes = world.scenes(min(500, n - start), generator)
        right.append(verifier.read(world.render(scenes, generator).to(device)).cpu() == world.seen(scenes))
    hits = torch.cat(right)
    accuracy = {name: hits[:, i].float().mean().item() for i, name in enumerate(world.columns)}
    return accuracy | {"all": hits.all(1).float().mean().item()}
