"""Cosines of a picture and its prompt: CLIP score, and HPS v2.1, which is a fine-tuned CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ....devices import best_device
from ....errors import InputError
from ....teachers.denoisers.parts import load_network
from ..weights import read_states, sha256_of

if TYPE_CHECKING:
    from PIL import Image

PREFIX = "A photo depicts "  # of the evaluation that the paper's Table 2 most likely used
SIDE = 256  # that evaluation's centre square, by Lanczos, before CLIP's own resizing
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's CLIP, and of all made after it
VIT_H = {
    "text": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vision": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14},
    "projection_dim": 1024,
}


class ClipRater:
    """100 x cosine by a CLIP model in transformers' format. `side` None leaves the picture to the model's own resizing."""

    def __init__(self, folder: Path, prefix: str = PREFIX, side: int | None = SIDE) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        try:
            self.model = load_network(CLIPModel, folder, use_safetensors=None).eval()
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                str(folder), f"no CLIP model ({' '.join(str(error).split())[:100]})", "give a folder in transformers' format"
            ) from error
        self.prefix, self.side, self._source = prefix, side, folder
        self.device = best_device()
        self.model.to(self.device)

    @torch.no_grad()
    def rate(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """See `Rater`."""
        pixels = torch.stack([self.prepare(image) for image in images]).to(self.device)
        words = self.tokenizer([self.prefix + prompt for prompt in prompts], padding="max_length", truncation=True, return_tensors="pt")
        text = self.model.text_model(words.input_ids.to(self.device), attention_mask=words.attention_mask.to(self.device)).pooler_output
        seen = normalize(self.model.visual_projection(self.model.vision_model(pixels).pooler_output), dim=-1)
        said = normalize(self.model.text_projection(text), dim=-1)
        return (100 * (seen * said).sum(-1)).tolist()

    def prepare(self, image: Image.Image) -> Tensor:
        """(3, S, S): centre square by Lanczos to `side`, then by cubic interpolation to the network's size."""
        from PIL import Image as Pil
        from PIL import ImageOps

        if self.side is not None:
            image = ImageOps.fit(image, (self.side, self.side), Pil.Resampling.LANCZOS)
        own = self.model.config.vision_config.image_size
        return to_clip(ImageOps.fit(image, (own, own), Pil.Resampling.BICUBIC))

    def identity(self) -> dict[str, Any]:
        """See `Rater`."""
        return {
            "name": "clip",
            "model": self._source.name,
            "weights_sha256": sha256_of(self._source),
            "prefix": self.prefix,
            "side": self.side,
        }

    def close(self) -> None:
        """Nothing is held but memory."""


class HpsRater(ClipRater):
    """HPS v2.1: 100 x cosine of its ViT-H/14; the picture's longer side to 224, the rest black."""

    def __init__(self, model: Any, tokenizer: Any, weights: Path) -> None:
        self.model, self.tokenizer, self.prefix, self._source = model.eval(), tokenizer, "", weights
        self.device = best_device()
        self.model.to(self.device)

    def prepare(self, image: Image.Image) -> Tensor:
        """(3, S, S): the whole picture, padded."""
        from PIL import Image as Pil
        from PIL import ImageOps

        own = self.model.config.vision_config.image_size
        return to_clip(ImageOps.pad(image, (own, own), Pil.Resampling.BICUBIC, color="black"))

    def identity(self) -> dict[str, Any]:
        """See `Rater`."""
        return {"name": "hps21", "model": self._source.name, "weights_sha256": sha256_of(self._source), "prefix": ""}


def to_clip(image: Image.Image) -> Tensor:
    """A picture as CLIP's networks take it."""
    import numpy as np

    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def hps_rater(weights: Path, tokenizer: Path, shape: dict[str, Any] = VIT_H) -> HpsRater:
    """HPS v2.1 from its published checkpoint, which has the names of open_clip's ViT-H/14."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    saved = read_states(weights)
    try:
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(str(tokenizer), f"no tokenizer ({type(error).__name__})", "give a CLIP tokenizer's folder") from error
    states = saved.get("state_dict", saved)
    text = {
        **shape["text"],
        "hidden_act": "gelu",
        "eos_token_id": words.eos_token_id,
        "bos_token_id": words.bos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    if (table := states.get("token_embedding.weight")) is not None:
        text["vocab_size"] = len(table)
    config = CLIPConfig(text_config=text, vision_config={**shape["vision"], "hidden_act": "gelu"}, projection_dim=shape["projection_dim"])
    with torch.device("meta"):
        model = CLIPModel(config)
    try:
        model.load_state_dict(from_open_clip(states), strict=True, assign=True)
    except (KeyError, RuntimeError) as error:
        raise InputError(str(weights), f"other weights ({' '.join(str(error).split())[:100]})", "give HPS_v2.1_compressed.pt") from error
    for part in (model.text_model.embeddings, model.vision_model.embeddings):  # counters that no checkpoint holds
        part.position_ids = torch.arange(part.position_embedding.num_embeddings)[None]
    return HpsRater(model.float(), words, weights)


def from_open_clip(states: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names of a CLIP with two plain transformers -> transformers' names."""
    renamed = {
        "logit_scale": states["logit_scale"],
        "text_model.embeddings.token_embedding.weight": states["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": states["positional_embedding"],
        "text_projection.weight": states["text_projection"].T.contiguous(),
        "visual_projection.weight": states["visual.proj"].T.contiguous(),
        "vision_model.embeddings.class_embedding": states["visual.class_embedding"],
        "vision_model.embeddings.position_embedding.weight": states["visual.positional_embedding"],
        "vision_model.embeddings.patch_embedding.weight": states["visual.conv1.weight"],
    }
    norms = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }
    for theirs, ours in norms.items():
        renamed |= {f"{ours}.{kind}": states[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    for theirs, ours in (
        ("transformer.resblocks", "text_model.encoder.layers"),
        ("visual.transformer.resblocks", "vision_model.encoder.layers"),
    ):
        layers = {key.removeprefix(theirs + ".").split(".")[0] for key in states if key.startswith(theirs + ".")}
        for layer in layers:
            renamed |= _layer(states, f"{theirs}.{layer}", f"{ours}.{layer}")
    return renamed


def _layer(states: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        parts = states[f"{theirs}.attn.in_proj_{kind}"].chunk(3)
        found |= {f"{ours}.self_attn.{name}_proj.{kind}": part.contiguous() for name, part in zip("qkv", parts, strict=True)}
        pairs = {
            "attn.out_proj": "self_attn.out_proj",
            "ln_1": "layer_norm1",
            "ln_2": "layer_norm2",
            "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2",
        }
        found |= {f"{ours}.{mine}.{kind}": states[f"{theirs}.{name}.{kind}"] for name, mine in pairs.items()}
    return found
