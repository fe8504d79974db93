"""Train the teacher of a drawn world: v-prediction on endless fresh renders, resumable, weights averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....errors import InputError
from ....method.rng import stream_seed
from ..training import TeacherRecipe, TeacherTraining, run_training
from .adopt import adopt_words
from .build import build_pipeline
from .retime import retime
from .world import OMIT
from .worlds import WORLDS


@dataclass(frozen=True)
class ShapesRecipe(TeacherRecipe):
    """One stage of training; the shipped teachers came in several (model cards), the default is one.

    `wrong` blurs the conditional law: without guidance, some words are not obeyed. `shift` 3 because large flat shapes stay
    visible through much noise: at 1 little training falls where place and shape are settled.
    """

    steps: int = 19_000
    batch: int = 32
    lr: float = 6e-4
    shift: float = 3.0
    omit: float = OMIT
    wrong: float = 0.08
    world: str = "shapes"


class ShapesTraining(TeacherTraining):
    """Fresh renders and captions, the U-Net and the text encoder both learning."""

    def __init__(self, recipe: ShapesRecipe, device: torch.device) -> None:
        torch.manual_seed(stream_seed(recipe.seed, "initial weights"))
        self.world = WORLDS[recipe.world]
        super().__init__(recipe, build_pipeline(world=self.world), ("unet", "text_encoder_2"), device)

    def loss(self, generator: torch.Generator) -> Tensor:
        recipe = self.recipe
        scenes = self.world.scenes(recipe.batch, generator)
        images = self.world.render(scenes.to(self.device), generator)
        captions = [self.world.caption(row) for row in self.world.statements(scenes, recipe.omit, recipe.wrong, generator).tolist()]
        kept = (torch.rand(recipe.batch, generator=generator) >= recipe.drop_caption).to(self.device)
        return self.velocity_loss(images, lambda noisy, index: self._predict(noisy, index, captions, kept), generator)

    def _predict(self, noisy: Tensor, index: Tensor, captions: list[str], kept: Tensor) -> Tensor:
        """The U-Net's output; a dropped caption is zeros, which is SDXL's own unconditional."""
        pipeline = self.pipeline
        tokens = pipeline.tokenizer_2(captions, padding="max_length", return_tensors="pt").input_ids.to(self.device)
        encoded = pipeline.text_encoder_2(tokens, output_hidden_states=True)
        embeds = encoded.hidden_states[-2] * kept[:, None, None]
        pooled = encoded.text_embeds * kept[:, None]
        size = self.world.size
        time_ids = torch.tensor([size, size, 0, 0, size, size], device=self.device).expand(len(captions), 6)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return pipeline.unet(noisy, index, encoder_hidden_states=embeds, added_cond_kwargs=added).sample

    def warm_start(self, folder: Path) -> None:
        """Begin from a trained pipeline's weights (its averages) instead of from noise, moved to this table of noise levels.

        It may be of another world: the words that both know are carried over by name.
        """
        from diffusers import DDIMScheduler
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from transformers import PreTrainedTokenizerFast

        unet, text = self.pipeline.unet, self.pipeline.text_encoder_2
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        try:
            unet.load_state_dict(load_file(path))
            path = folder / "text_encoder_2" / "model.safetensors"
            known = PreTrainedTokenizerFast.from_pretrained(folder, subfolder="tokenizer_2").get_vocab()
            adopt_words(text, self.pipeline.tokenizer_2.get_vocab(), load_file(path), known)
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise InputError(
                str(path), f"no weights of this architecture ({type(error).__name__})", "give a shapes or pairs pipeline"
            ) from error
        abar = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod
        if not torch.equal(abar, self.abar.cpu()):
            retime(unet.to("cpu"), abar, self.abar)
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
