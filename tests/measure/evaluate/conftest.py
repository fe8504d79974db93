"""Small random networks of the real architectures."""

import pytest
import torch

from .small import save_clip_tokenizer


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP of 2 + 2 layers."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    words = save_clip_tokenizer(folder)
    torch.manual_seed(0)
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    marks = {"vocab_size": words, "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    config = CLIPConfig(text_config={**common, **marks}, vision_config={**common, "image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    return folder
