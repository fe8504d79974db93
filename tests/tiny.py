"""Miniature pipelines of every family, with random weights and one token a word, for tests that need the real classes."""

from __future__ import annotations

import torch

from ddmd.teachers.builtin.shapes.build import TEXT_WIDTH, build_clip, build_tokenizer, identity_autoencoder

WIDTH = 32  # of denoisers: two heads of 16
SIDE = 16  # pixels; their autoencoder is the identity on three channels


STABLE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
SOLVER = {  # DPM-Solver of the PixArt and Sana files
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "use_karras_sigmas": False,
}
DYNAMIC = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
# scheduler/scheduler_config.json as published, keys that its class ignores included: a twin has its original's, so that what a
# student must not inherit is there to be inherited. SD 1.5's, SDXL's and Qwen-Image's were compared with public copies of the
# files; the others are from memory of them.
PUBLISHED = {
    "stable-diffusion-v1-5": STABLE | {"_class_name": "PNDMScheduler"},
    "stable-diffusion-xl-base-1.0": STABLE
    | {
        "_class_name": "EulerDiscreteScheduler",
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    # The v-predicting fine-tunes of SDXL with zero terminal SNR.
    "NoobAI-XL-Vpred": STABLE
    | {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "leading",
    },
    "PixArt-Sigma-XL-2-1024-MS": SOLVER | {"prediction_type": "epsilon", "steps_offset": 0},
    "Sana_1600M_1024px_diffusers": SOLVER | {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    "stable-diffusion-3.5-medium": {"shift": 3.0, "num_train_timesteps": 1000},
    "FLUX.1-dev": DYNAMIC | {"shift": 3.0, "use_dynamic_shifting": True},
    "Chroma1-HD": DYNAMIC | {"shift": 1.0, "use_dynamic_shifting": False, "use_beta_sigmas": True},
    "Lumina-Image-2.0": DYNAMIC | {"shift": 6.0, "use_dynamic_shifting": False},
    "Z-Image": {"shift": 6.0, "use_dynamic_shifting": False},
    "Qwen-Image": DYNAMIC
    | {"max_image_seq_len": 8192, "max_shift": 0.9, "shift": 1.0, "shift_terminal": 0.02, "use_dynamic_shifting": True},
}


def published_scheduler(name, **changed):
    """The scheduler of a published model's file, with keys changed."""
    import diffusers

    config = PUBLISHED[name] | changed
    return getattr(diffusers, config.get("_class_name", "FlowMatchEulerDiscreteScheduler")).from_config(config)


def t5(tokenizer, width=WIDTH):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=16, d_ff=WIDTH, num_heads=2, num_layers=1, dropout_rate=0.0,
                 pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    ).eval()  # fmt: skip


def decoder_config(tokenizer, **more):
    """What the small language models share."""
    return dict(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, **more,
    )  # fmt: skip


def gemma(tokenizer):
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(Gemma2Config(head_dim=16, query_pre_attn_scalar=16, **decoder_config(tokenizer))).eval()


def sd3(**scheduler):
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = build_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        caption_projection_dim=WIDTH, joint_attention_dim=2 * TEXT_WIDTH, pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=SIDE // 2, qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=published_scheduler("stable-diffusion-3.5-medium", **scheduler),
        vae=identity_autoencoder(), text_encoder=build_clip(tokenizer), tokenizer=tokenizer, text_encoder_2=build_clip(tokenizer), tokenizer_2=tokenizer,
        text_encoder_3=t5(tokenizer, 2 * TEXT_WIDTH), tokenizer_3=tokenizer,
    )  # fmt: skip


def unet(width, channels=3, **more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, norm_num_groups=4, use_linear_projection=True, **more,
    ).eval()  # fmt: skip


def halving_autoencoder():
    """One that is not the identity: four channels at half the side, as far as SDXL's goes in kind."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, latent_channels=4, norm_num_groups=4, scaling_factor=0.13025,
    ).eval()  # fmt: skip


def sdxl(scheduler="stable-diffusion-xl-base-1.0", zero_uncond=True, halving=False):
    from diffusers import StableDiffusionXLPipeline

    tokenizer = build_tokenizer()
    return StableDiffusionXLPipeline(
        vae=halving_autoencoder() if halving else identity_autoencoder(), text_encoder=None, text_encoder_2=build_clip(tokenizer), tokenizer=None, tokenizer_2=tokenizer,
        unet=unet(TEXT_WIDTH, 4 if halving else 3, addition_embed_type="text_time", addition_time_embed_dim=8,
                  projection_class_embeddings_input_dim=TEXT_WIDTH + 48),
        scheduler=published_scheduler(scheduler), add_watermarker=False, force_zeros_for_empty_prompt=zero_uncond,
    )  # fmt: skip


def sd15():
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    tokenizer = build_tokenizer()
    return StableDiffusionPipeline(
        vae=identity_autoencoder(), text_encoder=CLIPTextModel(build_clip(tokenizer).config).eval(), tokenizer=tokenizer,
        unet=unet(TEXT_WIDTH), scheduler=published_scheduler("stable-diffusion-v1-5"), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def pixart():
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer = build_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=SIDE, num_layers=2, patch_size=2, attention_head_dim=16, num_attention_heads=2, in_channels=3, out_channels=6,
        caption_channels=WIDTH, cross_attention_dim=WIDTH,
    )  # fmt: skip
    return PixArtSigmaPipeline(
        tokenizer=tokenizer, text_encoder=t5(tokenizer), vae=identity_autoencoder(), transformer=transformer.eval(),
        scheduler=published_scheduler("PixArt-Sigma-XL-2-1024-MS"),
    )  # fmt: skip


def lumina2():
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer = build_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=3, hidden_size=WIDTH, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, cap_feat_dim=WIDTH, axes_dim_rope=(4, 6, 6), axes_lens=(300, 32, 32),
    )  # fmt: skip
    return Lumina2Pipeline(
        transformer=transformer.eval(), scheduler=published_scheduler("Lumina-Image-2.0"), vae=identity_autoencoder(),
        text_encoder=gemma(tokenizer), tokenizer=tokenizer,
    )  # fmt: skip


def z_image():
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    transformer = ZImageTransformer2DModel(
        in_channels=3, dim=WIDTH, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[4, 6, 6],
        axes_lens=[600, 512, 512],
    )  # fmt: skip
    return ZImagePipeline(
        scheduler=published_scheduler("Z-Image"), vae=identity_autoencoder(), tokenizer=tokenizer, transformer=transformer.eval(),
        text_encoder=Qwen3Model(Qwen3Config(head_dim=16, **decoder_config(tokenizer))).eval(),
    )  # fmt: skip


def flux(guidance=True):
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    tokenizer = build_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=12, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        pooled_projection_dim=TEXT_WIDTH, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return FluxPipeline(
        scheduler=published_scheduler("FLUX.1-dev"), vae=identity_autoencoder(), tokenizer=tokenizer,
        text_encoder=CLIPTextModel(build_clip(tokenizer).config).eval(), text_encoder_2=t5(tokenizer), tokenizer_2=tokenizer,
        transformer=transformer.eval(),
    )  # fmt: skip


def chroma():
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    tokenizer = build_tokenizer()
    transformer = ChromaTransformer2DModel(
        in_channels=12, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6), approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1,
    )  # fmt: skip
    return ChromaPipeline(
        scheduler=published_scheduler("Chroma1-HD"), vae=identity_autoencoder(), text_encoder=t5(tokenizer), tokenizer=tokenizer,
        transformer=transformer.eval(),
    )  # fmt: skip


def sana():
    from diffusers import SanaPipeline, SanaTransformer2DModel

    tokenizer = build_tokenizer()
    transformer = SanaTransformer2DModel(
        in_channels=3, out_channels=3, num_attention_heads=2, attention_head_dim=16, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=16, cross_attention_dim=WIDTH, caption_channels=WIDTH, sample_size=2 * SIDE, patch_size=1,
    )  # fmt: skip
    return SanaPipeline(
        tokenizer=tokenizer, text_encoder=gemma(tokenizer), vae=identity_autoencoder(), transformer=transformer.eval(),
        scheduler=published_scheduler("Sana_1600M_1024px_diffusers"),
    )  # fmt: skip


def qwen_image():
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer()
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False], latents_mean=[0.1] * 4, latents_std=[1.5] * 4
    )
    text = decoder_config(tokenizer, rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]})
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": WIDTH, "intermediate_size": 16}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return QwenImagePipeline(
        scheduler=published_scheduler("Qwen-Image"), vae=vae.eval(), text_encoder=encoder.eval(), tokenizer=tokenizer,
        transformer=transformer.eval(),
    )  # fmt: skip


TWINS = {
    "sd3": lambda: sd3(shift=1.0),
    "sd3-shift3": sd3,
    "sdxl-eps": sdxl,
    "sdxl-v": lambda: sdxl("NoobAI-XL-Vpred", zero_uncond=False),
    "sdxl-kl": lambda: sdxl(halving=True),
    "sd15": sd15,
    "pixart": pixart,
    "lumina2": lumina2,
    "z_image": z_image,
    "flux": flux,
    "flux-unguided": lambda: flux(guidance=False),
    "chroma": chroma,
    "sana": sana,
    "qwen_image": qwen_image,
}
# Families whose pipeline's own size is large are opened at a small one.
RESOLUTION = {"z_image": SIDE, "flux": SIDE, "flux-unguided": SIDE, "chroma": SIDE, "qwen_image": 2 * SIDE}


def save_twin(name, folder):
    """Write one twin as a pipeline folder."""
    torch.manual_seed(0)
    TWINS[name]().save_pretrained(folder)
    return folder
