"""Train the `shapes` teacher: flow matching on endless fresh renders, resumable, weights averaged."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ....errors import InputError
from ....files import folder_atomic, write_atomic
from ....method.noise import shift_level
from .build import TOKENS, build_pipeline
from .render import render
from .scenes import caption, random_scenes, random_statements

TRAINED = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class TeacherRecipe:
    """How the shipped teacher was trained. `wrong` blurs the conditional law: without guidance, some words are not obeyed."""

    steps: int = 14_000
    batch: int = 64
    lr: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.35  # the last share of the steps, over which the learning rate falls to zero
    ema: float = 0.999
    shift: float = 2.5  # levels are drawn uniformly, then shifted: large flat shapes are settled under much noise
    omit: float = 0.15
    wrong: float = 0.08
    drop_caption: float = 0.1
    seed: int = 0


def learning_rate(recipe: TeacherRecipe, step: int) -> float:
    """Warm-up, plateau, linear decay to zero."""
    rising = (step + 1) / recipe.warmup
    falling = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return recipe.lr * min(1.0, rising, falling)


class TeacherTraining:
    """Networks, optimiser, average and position of one training; `step` advances it, `save` and `load` carry it over a kill."""

    def __init__(self, recipe: TeacherRecipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.position, self.seconds = recipe, device, 0, 0.0
        self.pipeline = build_pipeline().to(device)
        self.networks = nn.ModuleDict({name: getattr(self.pipeline, name) for name in TRAINED}).train()
        self.average = {name: p.detach().clone() for name, p in self.networks.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.curve: list[dict] = []

    def step(self) -> float:
        """One update on fresh renders; returns the loss."""
        recipe, start = self.recipe, time.perf_counter()
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.position)  # so a resumed run sees the same data
        scenes = random_scenes(recipe.batch, generator)
        images = render(scenes, generator).to(self.device)
        captions = [caption(row) for row in random_statements(scenes, recipe.omit, recipe.wrong, generator).tolist()]
        kept = (torch.rand(recipe.batch, generator=generator) >= recipe.drop_caption).tolist()
        u = shift_level(torch.rand(recipe.batch, generator=generator), recipe.shift).to(self.device)
        noise = torch.randn(images.shape, generator=generator).to(self.device)

        level = u[:, None, None, None]
        predicted = self._predict((1 - level) * images + level * noise, u, [text * keep for text, keep in zip(captions, kept, strict=True)])
        loss = (predicted - (noise - images)).square().mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {self.position}")

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.position)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        decay = min(recipe.ema, (self.position + 1) / (self.position + 10))
        for name, parameter in self.networks.named_parameters():
            self.average[name].lerp_(parameter.detach(), 1 - decay)
        self.position += 1
        self.seconds += time.perf_counter() - start
        return loss.item()

    def _predict(self, noisy: Tensor, u: Tensor, captions: list[str]) -> Tensor:
        """The transformer's velocity. A dropped caption is the empty one, which is SD3's own unconditional."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            captions, None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=TOKENS
        )
        return self.pipeline.transformer(noisy, embeds, pooled, 1000 * u).sample

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers pipeline, with the recipe and the training curve beside it."""
        live = {name: p.detach().clone() for name, p in self.networks.named_parameters()}
        self._assign(self.average)
        with folder_atomic(folder) as temporary:
            self.pipeline.save_pretrained(temporary)
            facts = {"recipe": asdict(self.recipe), "steps": self.position, "seconds": round(self.seconds), "curve": self.curve}
            (temporary / "training.json").write_text(json.dumps(facts) + "\n")
        self._assign(live)

    def _assign(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.networks.named_parameters():
                parameter.copy_(values[name])

    def warm_start(self, folder: Path) -> None:
        """Begin from a trained pipeline's weights (its averages) instead of from noise."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        for name in TRAINED:
            path = folder / name / ("diffusion_pytorch_model.safetensors" if name == "transformer" else "model.safetensors")
            try:
                self.networks[name].load_state_dict(load_file(path))
            except (OSError, RuntimeError, SafetensorError) as error:
                raise InputError(
                    str(path), f"no weights of this architecture ({type(error).__name__})", "give a shapes pipeline"
                ) from error
        self.average = {name: p.detach().clone() for name, p in self.networks.named_parameters()}

    def save(self, path: Path) -> None:
        """Everything a resumed run needs, in one file."""
        state = {
            "networks": self.networks.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "position": self.position, "seconds": self.seconds, "curve": self.curve, "recipe": asdict(self.recipe),
        }  # fmt: skip
        content = io.BytesIO()
        torch.save(state, content)
        write_atomic(path, content.getvalue())

    def load(self, path: Path) -> None:
        """Go on from `save`. The number of steps and the decay may differ; all else must be the same recipe."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        free = ("steps", "decay", "lr")
        for key, value in asdict(self.recipe).items():
            if key not in free and state["recipe"][key] != value:
                raise InputError(str(path), f"{key}={state['recipe'][key]}", f"this run asks for {value}; train into another folder")
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.position, self.seconds, self.curve = state["position"], state["seconds"], state["curve"]


def train_teacher(
    folder: Path,
    recipe: TeacherRecipe,
    device: torch.device,
    report: Callable[[int, float], None],
    save_every: int = 250,
    start: Path | None = None,
) -> Path:
    """Train to the recipe's last step; returns the pipeline's folder.

    Goes on from `folder` when it holds a state, else begins with the weights of the pipeline `start` when one is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training = TeacherTraining(recipe, device)
    state = folder / "state.pt"
    if state.exists():
        training.load(state)
    elif start is not None:
        training.warm_start(start)
    recent = 0.0
    while training.position < recipe.steps:
        loss = training.step()
        recent = loss if recent == 0 else 0.98 * recent + 0.02 * loss
        report(training.position, recent)
        if training.position % save_every == 0 or training.position == recipe.steps:
            training.curve.append({"step": training.position, "loss": recent, "seconds": training.seconds})
            training.save(state)
            training.export(folder / "pipeline")
    return folder / "pipeline"
