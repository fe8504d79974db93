"""Train the `shapes` teacher: v-prediction on endless fresh renders, resumable, weights averaged."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ....errors import InputError
from ....files import folder_atomic, write_atomic
from .build import build_pipeline
from .render import SIZE, render
from .retime import retime
from .scenes import caption, random_scenes, random_statements


@dataclass(frozen=True)
class TeacherRecipe:
    """One stage of training.

    `wrong` blurs the conditional law: without guidance, some words are not obeyed. `shift` multiplies the noise at which
    the network trains (not its table): large flat shapes stay visible through much noise, and at 1 little training falls
    where place and shape are settled. The shipped teacher came in four stages (model card); the default is one.
    """

    steps: int = 19_000
    batch: int = 32
    lr: float = 6e-4
    warmup: int = 100
    decay: float = 0.6  # the last share of the steps, over which the learning rate falls to zero
    ema: float = 0.999
    omit: float = 0.15
    wrong: float = 0.08
    drop_caption: float = 0.1
    shift: float = 3.0
    seed: int = 0


def training_levels(n: int, steps: int, shift: float, generator: torch.Generator) -> Tensor:
    """Indices of a cosine table of `steps` levels at which to train: noise over signal is shift * tan(pi r / 2), r uniform."""
    r = torch.rand(n, generator=generator, dtype=torch.float64)
    place = 2 / math.pi * torch.atan(shift * torch.tan(math.pi / 2 * r))
    return (place * steps).long().clamp(max=steps - 1)


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
        self.networks = nn.ModuleDict({"unet": self.pipeline.unet, "text_encoder_2": self.pipeline.text_encoder_2}).train()
        self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: p.detach().clone() for name, p in self.networks.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.abar = self.pipeline.scheduler.alphas_cumprod.to(device)
        self.curve: list[dict] = []

    def step(self) -> float:
        """One update on fresh renders; returns the loss."""
        recipe, start = self.recipe, time.perf_counter()
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.position)  # so a resumed run sees the same data
        scenes = random_scenes(recipe.batch, generator)
        images = render(scenes, generator).to(self.device)
        captions = [caption(row) for row in random_statements(scenes, recipe.omit, recipe.wrong, generator).tolist()]
        kept = (torch.rand(recipe.batch, generator=generator) >= recipe.drop_caption).to(self.device)
        index = training_levels(recipe.batch, len(self.abar), recipe.shift, generator).to(self.device)
        noise = torch.randn(images.shape, generator=generator).to(self.device)

        a = self.abar[index].sqrt()[:, None, None, None]
        s = (1 - self.abar[index]).sqrt()[:, None, None, None]
        predicted = self._predict(a * images + s * noise, index, captions, kept)
        loss = (predicted - (a * noise - s * images)).square().mean()
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

    def _predict(self, noisy: Tensor, index: Tensor, captions: list[str], kept: Tensor) -> Tensor:
        """The U-Net's output; a dropped caption is zeros, which is SDXL's own unconditional."""
        pipeline = self.pipeline
        tokens = pipeline.tokenizer_2(captions, padding="max_length", return_tensors="pt").input_ids.to(self.device)
        encoded = pipeline.text_encoder_2(tokens, output_hidden_states=True)
        embeds = encoded.hidden_states[-2] * kept[:, None, None]
        pooled = encoded.text_embeds * kept[:, None]
        time_ids = torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], device=self.device).expand(len(captions), 6)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return pipeline.unet(noisy, index, encoder_hidden_states=embeds, added_cond_kwargs=added).sample

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
        """Begin from a trained pipeline's weights (its averages) instead of from noise, moved to this table of noise levels."""
        from diffusers import DDIMScheduler
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        files = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder_2": "model.safetensors"}
        for name, file in files.items():
            path = folder / name / file
            try:
                self.networks[name].load_state_dict(load_file(path))
            except (OSError, RuntimeError, SafetensorError) as error:
                raise InputError(
                    str(path), f"no weights of this architecture ({type(error).__name__})", "give a shapes pipeline"
                ) from error
        abar = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod
        if not torch.equal(abar, self.abar.cpu()):
            unet = self.pipeline.unet.to("cpu")
            retime(unet, abar, self.abar)
            unet.to(self.device)
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
