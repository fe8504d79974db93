"""Train the `emoji` teacher: v-prediction on the latents of a fetched picture set, resumable, weights averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....errors import InputError
from ....method.rng import stream_seed
from ...denoisers.parts import load_network
from ..training import TeacherRecipe, TeacherTraining, run_training
from .autoencoder import to_unit
from .build import build_pipeline
from .concepts import STYLES, captions, split_of
from .pictures import Pictures

ENCODE_BATCH = 256


@dataclass(frozen=True)
class EmojiRecipe(TeacherRecipe):
    """The shipped teacher's stage (model card); `shift` 2 for the reason given in `shapes`: large shapes stay visible through noise."""

    steps: int = 6000
    batch: int = 64
    lr: float = 6e-4
    warmup: int = 200
    decay: float = 0.5
    drop_caption: float = 0.1
    shift: float = 2.0


class EmojiTraining(TeacherTraining):
    """Pairs of a picture's latent and one of its captions, all encoded beforehand."""

    def __init__(self, recipe: EmojiRecipe, pictures: Pictures, autoencoder: torch.nn.Module, device: torch.device) -> None:
        torch.manual_seed(stream_seed(recipe.seed, "initial weights"))
        super().__init__(recipe, build_pipeline(pictures.images.shape[-1], autoencoder=autoencoder), ("unet",), device)
        rows = pictures.rows(tuple(STYLES), held_out=False)
        self.latents = self._encode_pictures(to_unit(pictures.images[rows]))
        said = [_training_captions(pictures, row) for row in rows]
        texts = sorted({text for texts in said for text in texts})
        place = {text: i for i, text in enumerate(texts)}
        self.embeds = self._encode_texts(["", *texts])  # row 0 is the unconditional
        self.captions = [[place[text] + 1 for text in texts] for texts in said]

    def loss(self, generator: torch.Generator) -> Tensor:
        batch = self.recipe.batch
        rows = torch.randint(len(self.latents), (batch,), generator=generator)
        pick = torch.rand(batch, generator=generator).tolist()
        said = [self.captions[row][int(p * len(self.captions[row]))] for row, p in zip(rows.tolist(), pick)]
        dropped = torch.rand(batch, generator=generator) < self.recipe.drop_caption
        embeds = self.embeds[torch.tensor(said).masked_fill(dropped, 0)].to(self.device, torch.float32)

        def predict(noisy: Tensor, index: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16):
                return self.pipeline.unet(noisy, index, encoder_hidden_states=embeds).sample

        return self.velocity_loss(self.latents[rows].to(self.device), predict, generator)

    @torch.no_grad()
    def _encode_pictures(self, images: Tensor) -> Tensor:
        vae = self.pipeline.vae
        parts = [vae.encode(part.to(self.device)).latents.cpu() for part in images.split(ENCODE_BATCH)]
        return torch.cat(parts) * vae.config.scaling_factor

    @torch.no_grad()
    def _encode_texts(self, texts: list[str]) -> Tensor:
        parts = []
        for start in range(0, len(texts), ENCODE_BATCH):
            with torch.autocast(self.device.type, torch.bfloat16):
                embeds, _ = self.pipeline.encode_prompt(texts[start : start + ENCODE_BATCH], self.device, 1, False)
            parts.append(embeds.half().cpu())
        return torch.cat(parts)

    def warm_start(self, folder: Path) -> None:
        """Begin with the denoiser of a trained `emoji` pipeline."""
        from diffusers import UNet2DConditionModel

        try:
            weights = load_network(UNet2DConditionModel, folder / "unet").state_dict()
            self.pipeline.unet.load_state_dict(weights)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(str(folder), f"no weights of this architecture ({type(error).__name__})", "give an emoji pipeline") from error
        self.start_average()


def _training_captions(pictures: Pictures, row: int) -> list[str]:
    """The captions of a picture that training may see; the plain one where that leaves none."""
    every = captions(pictures.concepts[pictures.codes[row]], pictures.styles[row])
    return [text for text in every if split_of(text) == "train"] or every[:1]


def train_teacher(
    folder: Path,
    recipe: EmojiRecipe,
    pictures: Pictures,
    autoencoder: torch.nn.Module,
    device: torch.device,
    report: Callable[[int, float], None],
    save_every: int = 500,
    start: Path | None = None,
) -> Path:
    """Train to the recipe's last step; returns the pipeline's folder. Goes on from `folder`, else begins with the weights in `start`."""
    training = EmojiTraining(recipe, pictures, autoencoder, device)
    return run_training(training, folder, report, save_every, (lambda: training.warm_start(start)) if start else None)
