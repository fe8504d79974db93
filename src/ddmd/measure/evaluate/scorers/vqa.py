"""Yes or no about a picture, by a model of transformers at a local path: DPG-Bench's judge where mPLUG is not at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ....devices import best_device
from ....errors import InputError
from ....teachers.denoisers.parts import load_network
from ..weights import sha256_of

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 4  # tokens of an answer
ASK = "{question} Answer with yes or no."


class VisualAnswerer:
    """A visual question answering model (BLIP and its like), or a chat model that sees."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BlipForQuestionAnswering

        try:
            kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            loader = BlipForQuestionAnswering if kind == "blip" else AutoModelForImageTextToText
            precision = torch.float32 if kind == "blip" else "auto"  # chat models are large, and take pictures in any
            self.model = load_network(loader, folder, precision, use_safetensors=None).eval()
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(str(folder), f"no model that sees ({reason})", "give a model's folder in transformers' format") from error
        except ImportError as error:  # a chat model's processor may need torchvision, for films
            reason = " ".join(str(error).split())[:100]
            raise InputError(str(folder), f"a model that needs another package ({reason})", "install that package") from error
        self.kind, self._folder = kind, folder
        self.device = best_device()
        self.model.to(self.device)

    @torch.no_grad()
    def answer(self, image: Image.Image, questions: Sequence[str]) -> list[str]:
        """See `Answerer`; the answer's first word, in small letters."""
        return [first_word(self._say(image, question)) for question in questions]

    def _say(self, image: Image.Image, question: str) -> str:
        if self.kind == "blip":
            asked = self.processor(images=image, text=question, return_tensors="pt").to(self.device)
            said = self.model.generate(**asked, max_new_tokens=LONGEST)
            return self.processor.decode(said[0], skip_special_tokens=True)
        turn = [{"type": "image", "image": image}, {"type": "text", "text": ASK.format(question=question)}]
        asked = self.processor.apply_chat_template(
            [{"role": "user", "content": turn}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.device)
        said = self.model.generate(**asked, max_new_tokens=LONGEST, do_sample=False)
        return self.processor.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)

    def identity(self) -> dict[str, Any]:
        """See `Answerer`."""
        return {"name": "vqa", "model": self._folder.name, "kind": self.kind, "weights_sha256": sha256_of(self._folder)}

    def close(self) -> None:
        """Nothing is held but memory."""


def first_word(text: str) -> str:
    """The first word without its punctuation, in small letters."""
    words = text.strip().lower().split()
    return words[0].strip(".,!?\"'") if words else ""
