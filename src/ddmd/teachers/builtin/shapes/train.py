"""Train the `shapes` teacher: v-prediction on endless fresh renders, resumable, weights averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....errors import InputError
from ..training import TeacherRecipe, TeacherTraining, run_training
from .build import build_pipeline
from .render import SIZE, render
from .retime import retime
from .scenes import caption, random_scenes, random_statements


@dataclass(frozen=True)
class ShapesRecipe(TeacherRecipe):
    """One stage of training; the shipped teacher came in four (model card), the default is one.

    `wrong` blurs the conditional law: without guidance, some words are not obeyed. `shift` 3 because large flat shapes stay
    visible through much noise: at 1 little training falls where place and shape are settled.
    """

    steps: int = 19_000
    batch: int = 32
    lr: float = 6e-4
    shift: float = 3.0
    omit: float = 0.15
    wrong: float = 0.08


class ShapesTraining(TeacherTraining):
    """Fresh renders and captions, the U-Net and the text encoder both learning."""

    def __init__(self, recipe: ShapesRecipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        super().__init__(recipe, build_pipeline(), ("unet", "text_encoder_2"), device)

    def loss(self, generator: torch.Generator) -> Tensor:
        recipe = self.recipe
        scenes = random_scenes(recipe.batch, generator)
        images = render(scenes, generator).to(self.device)
        captions = [caption(row) for row in random_statements(scenes, recipe.omit, recipe.wrong, generator).tolist()]
        kept = (torch.rand(recipe.batch, generator=generator) >= recipe.drop_caption).to(self.device)
        return self.velocity_loss(images, lambda noisy, index: self._predict(noisy, index, captions, kept), generator)

    def _predict(self, noisy: Tensor, index: Tensor, captions: list[str], kept: Tensor) -> Tensor:
        """The U-Net's output; a dropped caption is zeros, which is SDXL's own unconditional."""
        pipeline = self.pipeline
        tokens = pipeline.tokenizer_2(captions, padding="max_length", return_tensors="pt").input_ids.to(self.device)
        encoded = pipeline.text_encoder_2(tokens, output_hidden_states=True)
        embeds = encoded.hidden_states[-2] * kept[:, None, None]
        pooled = encoded.text_embeds * kept[:, None]
        time_ids = torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], device=self.device).expand(len(captions), 6)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return pipeline.unet(noisy, index, encoder_hidden_states=embeds, added_cond_kwargs=added).sample

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
        self.start_average()


def train_teacher(
    folder: Path,
    recipe: ShapesRecipe,
    device: torch.device,
    report: Callable[[int, float], None],
    save_every: int = 250,
    start: Path | None = None,
) -> Path:
    """Train to the recipe's last step; returns the pipeline's folder.

    Goes on from `folder` when it holds a state, else begins with the weights of the pipeline `start` when one is given.
    """
    training = ShapesTraining(recipe, device)
    return run_training(training, folder, report, save_every, (lambda: training.warm_start(start)) if start else None)
