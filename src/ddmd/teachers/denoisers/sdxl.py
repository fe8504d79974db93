"""SDXL: two text encoders (or the second alone), pooled text and micro-conditioning, a U-Net in VP noise.

The unconditional is zeros where the pipeline says so (`force_zeros_for_empty_prompt`, SDXL's default), else the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...method.distiller import Condition
from ...method.noise import DiffusionPath, Prediction
from ...method.student import Sampler
from .base import Denoiser

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


class SDXL(Denoiser):
    """StableDiffusionXLPipeline and everything saved in its shape, such as the embedded `shapes` teacher."""

    family = "sdxl"
    component = "unet"
    feature_block = "mid_block"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    sampler: ClassVar[Sampler] = "sde"

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        kind = pipeline.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise InputError("scheduler.prediction_type", repr(kind), f"an SDXL teacher predicts one of {', '.join(PREDICTIONS)}")
        self.path = DiffusionPath(pipeline.scheduler.alphas_cumprod, PREDICTIONS[kind])
        size = pipeline.unet.config.sample_size
        self.shape = (pipeline.unet.config.in_channels, size, size)

    @property
    def pipeline_options(self) -> dict[str, Any]:
        return {"force_zeros_for_empty_prompt": self._zero_uncond, "add_watermarker": False}

    def call(self, network: nn.Module, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        added = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]}
        return network(z, self.path.time(u), encoder_hidden_states=cond["embeds"], added_cond_kwargs=added, return_dict=False)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        texts = list(prompts)
        self._check_words(texts)
        embeds, _, pooled, _ = self.pipeline.encode_prompt(texts, device=self.pipeline.device, do_classifier_free_guidance=False)
        if self._zero_uncond:
            said = torch.tensor([bool(text.strip()) for text in texts], device=embeds.device)
            embeds, pooled = embeds * said[:, None, None], pooled * said[:, None]
        return {"embeds": embeds, "pooled": pooled, "time_ids": self._time_ids(len(texts), embeds)}

    @torch.no_grad()
    def unconditional(self, n: int) -> Condition:
        return self.encode([""] * n)

    @property
    def _zero_uncond(self) -> bool:
        return bool(self.pipeline.config.force_zeros_for_empty_prompt)

    def _time_ids(self, n: int, like: Tensor) -> Tensor:
        """Original size, crop corner and target size, in pixels."""
        size = self.shape[-1] * self.pipeline.vae_scale_factor
        return like.new_tensor([size, size, 0, 0, size, size]).expand(n, 6)

    def _check_words(self, prompts: Sequence[str]) -> None:
        """Refuse words and lengths that a word-level tokenizer cannot hold; byte-pair tokenizers know every word."""
        tokenizer = self.pipeline.tokenizer_2
        unknown = tokenizer.unk_token_id
        if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
            return
        for prompt in prompts:
            ids = tokenizer(prompt).input_ids
            if unknown in ids:
                words = [word for word in prompt.split() if unknown in tokenizer(word).input_ids]
                known = [word for word in tokenizer.get_vocab() if not word.startswith("<")]
                raise InputError("prompt", f"unknown words {', '.join(words)} in {prompt!r}", f"this model knows only: {', '.join(known)}")
            if len(ids) > tokenizer.model_max_length:
                raise InputError("prompt", f"{len(ids)} tokens in {prompt!r}", f"this model reads at most {tokenizer.model_max_length}")

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]

    def student_scheduler(self, grid: Sequence[float], sampler: Sampler) -> Any:
        from diffusers import DDIMScheduler, LCMScheduler

        config = dict(self.pipeline.scheduler.config)
        steps = len(grid)
        scheduler: Any
        if sampler == "sde":
            # LCM's own grid is `original_inference_steps` equal strides of the table, the same levels as 1 - k / N.
            scheduler = LCMScheduler.from_config(config, original_inference_steps=steps, clip_sample=False)
        else:
            scheduler = DDIMScheduler.from_config(config, timestep_spacing="trailing", clip_sample=False)
        scheduler.set_timesteps(steps)
        ours = self.path.time(torch.tensor(list(grid), dtype=torch.float64)).tolist()
        if scheduler.timesteps.tolist() != ours:
            raise InputError(
                "student.grid", f"indices {ours}, where {type(scheduler).__name__} would use {scheduler.timesteps.tolist()}",
                "use equal steps whose number divides 1000",
            )  # fmt: skip
        return scheduler


DENOISER = SDXL
