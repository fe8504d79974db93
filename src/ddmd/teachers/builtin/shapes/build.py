"""The architecture of the `shapes` and `pairs` teachers: a miniature SDXL pipeline made only of stock classes, in pixel space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .world import World
from .worlds import SHAPES

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionXLPipeline
    from transformers import CLIPTextModelWithProjection, PreTrainedTokenizerFast

TEXT_WIDTH = 96
TIME_IDS = 8  # sinusoidal width of each of SDXL's six micro-conditions


def build_pipeline(widths: tuple[int, int, int, int] = (24, 48, 96, 128), world: World = SHAPES) -> StableDiffusionXLPipeline:
    """A pipeline with random weights, in evaluation mode; of the world's size, v-prediction on the cosine schedule."""
    from ....quiet import quiet_libraries

    quiet_libraries()  # before diffusers is imported: some of it speaks then
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    tokenizer = build_tokenizer(world)
    unet = UNet2DConditionModel(
        sample_size=world.size, in_channels=3, out_channels=3, block_out_channels=widths, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH, attention_head_dim=4, norm_num_groups=8, use_linear_projection=True,
        resnet_time_scale_shift="scale_shift", addition_embed_type="text_time", addition_time_embed_dim=TIME_IDS,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * TIME_IDS,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
    )
    pipeline = StableDiffusionXLPipeline(
        vae=identity_autoencoder(), text_encoder=None, text_encoder_2=build_clip(tokenizer, world.text_layers), tokenizer=None, tokenizer_2=tokenizer,
        unet=unet.eval(), scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def build_clip(tokenizer: PreTrainedTokenizerFast, layers: int = 2) -> CLIPTextModelWithProjection:
    """A small CLIP text encoder whose words start at unit size instead of CLIP's 0.02, and the marks around them at zero.

    Cross-attention reads these vectors almost raw: at 0.02 it was deaf to position for a thousand steps, at 1 it hears it
    within three hundred. With a silent end mark, the pooled text begins as an average of the words.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=2 * TEXT_WIDTH, projection_dim=TEXT_WIDTH,
            num_hidden_layers=layers, num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    words = encoder.text_model.embeddings.token_embedding.weight
    words.normal_()
    for mark in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id):
        words[mark] = 0
    return encoder.eval()


def build_tokenizer(world: World = SHAPES) -> PreTrainedTokenizerFast:
    """One token a word of the world's vocabulary; anything else becomes <unk>, which the prompt encoder refuses."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<unk>", "<bos>", "<eos>")
    ids = {word: i for i, word in enumerate(special + world.vocabulary)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", model_max_length=world.tokens
    )


@torch.no_grad()
def identity_autoencoder() -> AutoencoderTiny:
    """A stock autoencoder that changes nothing, so that the stock pipeline runs in pixel space.

    Its decoder is x -> 3 tanh(x / 3) followed by relu(x) - relu(-x). Latents are kept `gain` times smaller inside it,
    where that tanh is straight: the round trip is exact to 4e-4 of the colour range.
    """
    from diffusers import AutoencoderTiny

    gain, rgb = 10.0, 3
    vae = AutoencoderTiny(
        latent_channels=rgb, encoder_block_out_channels=(2 * rgb,), decoder_block_out_channels=(2 * rgb,), num_encoder_blocks=(0,),
        num_decoder_blocks=(0,), scaling_factor=gain,
    )  # fmt: skip
    for parameter in vae.parameters():
        parameter.zero_()
    encoder: list[Any] = [m for m in vae.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    decoder: list[Any] = [m for m in vae.decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    for channel in range(rgb):
        encoder[0].weight[channel, channel, 1, 1] = 1
        encoder[-1].weight[channel, channel, 1, 1] = 2 / gain
        decoder[0].weight[channel, channel, 1, 1] = 1
        decoder[0].weight[channel + rgb, channel, 1, 1] = -1
        decoder[-1].weight[channel, channel, 1, 1] = gain / 2
        decoder[-1].weight[channel, channel + rgb, 1, 1] = -gain / 2
    # The class maps [-1, 1] to [0, 1] on its way in and back on its way out; these undo it.
    encoder[-1].bias.fill_(-1 / gain)
    decoder[-1].bias.fill_(0.5)
    return vae.eval()
