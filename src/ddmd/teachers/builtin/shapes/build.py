"""The architecture of the `shapes` teacher: a miniature Stable Diffusion 3 made only of stock classes, in pixel space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .render import SIZE
from .scenes import VOCABULARY

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, PreTrainedTokenizerFast

TEXT_WIDTH = 64  # of each of the two CLIP encoders; side by side they are as wide as the T5 encoder
TOKENS = 16  # the longest caption has twelve words, plus its two ends
PATCH = 4
HEAD = 32


def build_pipeline(width: int = 160, layers: int = 4) -> StableDiffusion3Pipeline:
    """A pipeline with random weights, in evaluation mode: 32 x 32 pixels in 64 patches, flow matching without a time shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import T5Config, T5EncoderModel

    tokenizer = build_tokenizer()
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=2 * TEXT_WIDTH, d_kv=HEAD, d_ff=4 * TEXT_WIDTH, num_heads=4, num_layers=1,
            relative_attention_num_buckets=8, relative_attention_max_distance=TOKENS, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=SIZE, patch_size=PATCH, in_channels=3, out_channels=3, num_layers=layers, attention_head_dim=HEAD,
        num_attention_heads=width // HEAD, caption_projection_dim=width, joint_attention_dim=2 * TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH, pos_embed_max_size=SIZE // PATCH, qk_norm="rms_norm",
    )  # fmt: skip
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=FlowMatchEulerDiscreteScheduler(), vae=identity_autoencoder(),
        text_encoder=build_clip(tokenizer), tokenizer=tokenizer, text_encoder_2=build_clip(tokenizer), tokenizer_2=tokenizer,
        text_encoder_3=t5.eval(), tokenizer_3=tokenizer,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def build_clip(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModelWithProjection:
    """A small CLIP text encoder whose words start at unit size instead of CLIP's 0.02, and the marks around them at zero.

    The denoiser reads these vectors almost raw; at 0.02 it stays deaf to them for a thousand steps. With a silent end
    mark, the pooled text begins as an average of the words.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=2 * TEXT_WIDTH, projection_dim=TEXT_WIDTH,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    words = encoder.text_model.embeddings.token_embedding.weight
    words.normal_()
    for mark in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id):
        words[mark] = 0
    return encoder.eval()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the vocabulary; anything else becomes <unk>, which the prompt encoder refuses."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<unk>", "<bos>", "<eos>")
    ids = {word: i for i, word in enumerate(special + VOCABULARY)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", model_max_length=TOKENS
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
