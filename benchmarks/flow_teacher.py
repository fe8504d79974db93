"""A flow-matching teacher of `shapes` in SD3's shape, on pixels: how good in so many seconds, and at what cost a pass.

    python benchmarks/flow_teacher.py OUT [--width 128] [--layers 4] [--patch 4] [--seconds 250] [--batch 512]

An experiment towards a better and cheaper embedded teacher, made for a GPU (a training step is captured as one CUDA graph there). Writes
OUT/pipeline (float16, a stock StableDiffusion3Pipeline), OUT/scores.json and OUT/grid.png: `overall` and Frechet distance on report
prompts, by steps, guidance and time shift.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddmd.method.student import uniform_grid
from ddmd.quiet import quiet_libraries
from ddmd.run.pictures import png_bytes, strips
from ddmd.teachers.builtin import load_suite
from ddmd.teachers.builtin.shapes.build import build_clip, build_tokenizer, identity_autoencoder
from ddmd.teachers.builtin.shapes.world import OMIT
from ddmd.teachers.builtin.shapes.worlds import SHAPES
from ddmd.teachers.denoisers.sd3 import SD3
from ddmd.teachers.sampling import bare, sample_images

WRONG = 0.08  # share of stated words that are wrong on purpose, as in the shipped teacher's training
DROPPED = 0.1  # share of captions left out
PARTS = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


def build(width: int, layers: int, patch: int) -> dict:
    """The parts of a pipeline by name. A T5 of as many tokens as CLIP's keeps the sequence short: without one there are 256 of zeros."""
    from diffusers import SD3Transformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = build_tokenizer(SHAPES)
    clips = [build_clip(tokenizer, 2) for _ in range(2)]
    text = sum(clip.config.hidden_size for clip in clips)
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=text, d_kv=32, d_ff=2 * text, num_layers=1, num_heads=4, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=SHAPES.size, patch_size=patch, in_channels=3, out_channels=3, num_layers=layers, attention_head_dim=32,
        num_attention_heads=width // 32, joint_attention_dim=text, caption_projection_dim=width,
        pooled_projection_dim=sum(clip.config.projection_dim for clip in clips), pos_embed_max_size=SHAPES.size // patch, qk_norm="rms_norm",
    )  # fmt: skip
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    # Blocks begin as the identity, the output as zero.
    gates = [block.norm1.linear for block in transformer.transformer_blocks] + [transformer.norm_out.linear, transformer.proj_out]
    for layer in gates:
        nn.init.zeros_(layer.weight)
    names = {"tokenizer": tokenizer, "tokenizer_2": tokenizer, "tokenizer_3": tokenizer, "vae": identity_autoencoder()}
    return {**names, "transformer": transformer, "text_encoder": clips[0], "text_encoder_2": clips[1], "text_encoder_3": t5}


def pipeline(parts: dict, shift: float):
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=shift), **parts)


class Trainer:
    """A pool of renders with captions, the networks, and one step on a batch of them."""

    def __init__(self, parts: dict, batch: int, pool: int, device: torch.device) -> None:
        self.parts, self.batch, self.device = parts, batch, device
        self.networks = nn.ModuleDict({name: parts[name] for name in PARTS}).to(device).train()
        self.images, self.tokens = self._draw(pool)
        self.empty = self._tokenize([""])
        self.parameters = list(self.networks.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        on_gpu = device.type == "cuda"
        self.rate = torch.tensor(1e-5, device=device)  # a tensor, so that a captured step reads it anew
        self.optimizer = torch.optim.AdamW(self.parameters, self.rate, (0.9, 0.99), weight_decay=0.01, fused=on_gpu, capturable=on_gpu)

    def _draw(self, pool: int):
        generator, images, captions = torch.Generator().manual_seed(1), [], []
        for start in range(0, pool, 2000):
            scenes = SHAPES.scenes(min(2000, pool - start), generator)
            images.append((SHAPES.render(scenes.to(self.device), generator) * 127.5).round().to(torch.int8))
            captions += [SHAPES.caption(row) for row in SHAPES.statements(scenes, OMIT, WRONG, generator).tolist()]
        return torch.cat(images), self._tokenize(captions)

    def _tokenize(self, captions: list[str]):
        return self.parts["tokenizer"](captions, padding="max_length", return_tensors="pt").input_ids.to(self.device)

    def encode(self, tokens):
        """As the stock pipeline: both CLIPs' states side by side, T5's after them."""
        clips = [self.parts[name](tokens, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
        states = torch.cat([clip.hidden_states[-2] for clip in clips], -1)
        pooled = torch.cat([clip.text_embeds for clip in clips], -1)
        return torch.cat([states, self.parts["text_encoder_3"](tokens)[0]], 1), pooled

    def step(self):
        """One update; returns the loss. Levels are uniform, three in five of them shifted by 3 towards noise."""
        n, device = self.batch, self.device
        rows = torch.randint(len(self.images), (n,), device=device)
        x = self.images[rows].float() / 127.5
        tokens = torch.where(torch.rand(n, 1, device=device) < DROPPED, self.empty, self.tokens[rows])
        u = torch.rand(n, device=device)
        sigma = torch.where(torch.rand(n, device=device) < 0.6, 3 * u / (1 + 2 * u), u)
        noise, s = torch.randn_like(x), sigma.view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            states, pooled = self.encode(tokens)
            called = {"timestep": 1000 * sigma, "encoder_hidden_states": states, "pooled_projections": pooled, "return_dict": False}
            v = self.parts["transformer"](hidden_states=(1 - s) * x + s * noise, **called)[0]
        loss = (v.float() - (noise - x)).square().mean()
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        return loss.detach()

    def captured(self):
        """`step`, on a GPU as one graph: launching its small kernels one by one takes longer than running them."""
        if self.device.type != "cuda":
            return self.step
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.step()

        def replay():
            graph.replay()
            return loss

        return replay

    def train(self, seconds: float, rate: float) -> int:
        """For so long: a short warm-up, then a cosine fall over the last 60 %. Leaves the averaged weights; returns the steps."""
        step, start, steps = self.captured(), time.perf_counter(), 0
        while (spent := (time.perf_counter() - start) / seconds) < 1:
            falling = 0.5 + 0.5 * math.cos(math.pi * max(0.0, (spent - 0.4) / 0.6))
            self.rate.fill_(rate * min(1.0, spent / 0.01 + 1e-3, falling))
            loss = step()
            steps += 1
            if steps % 5 == 0:
                decay = min(0.9995, (steps + 1) / (steps + 10)) ** 5
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
            if steps % 500 == 0:
                print(f"step {steps}, {spent:.0%}, loss {loss.item():.4f}", flush=True)
        for parameter, value in zip(self.parameters, self.average, strict=True):
            parameter.data.copy_(value)
        self.networks.eval()
        return steps


def measure(parts: dict, device: torch.device, prompts: int, out: Path) -> dict:
    """Scores by time shift, steps and guidance, with a grid of samples; and the cost of a pass."""
    suite = load_suite("shapes")
    texts = suite.prompts("report", prompts)
    rows, scores = {}, {}
    for shift in (1.0, 2.0, 3.0):
        model = SD3(pipeline(parts, shift))
        model.move(device)
        cond = model.encode(texts)
        if "gflop_an_image" not in scores:
            one = {name: value[:1] for name, value in cond.items()}
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model.call(model.network, torch.randn(1, *model.shape, device=device), torch.full((1,), 0.5, device=device).double(), one)
            scores["gflop_an_image"] = counter.get_total_flops() / 1e9
        for steps, alpha in ((50, 3.0), (50, 1.0), (4, 3.0)):
            name = f"shift {shift:g}, {steps} steps, alpha {alpha:g}"
            images = sample_images(model, bare(model), cond, uniform_grid(steps), "ode", alpha, seed=0)
            scores[name] = {key: value for key, value in suite.score(images, texts).items() if isinstance(value, float)}
            rows[name] = images[:10]
            print(name, f"overall {scores[name]['overall']:.3f}, frechet {scores[name]['frechet']:.0f}", flush=True)
    (out / "grid.png").write_bytes(png_bytes(strips(rows)))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("width", 128), ("layers", 4), ("patch", 4), ("batch", 512), ("pool", 400_000), ("prompts", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=250)
    parser.add_argument("--rate", type=float, default=2e-3)
    given = parser.parse_args()
    quiet_libraries()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given.out.mkdir(parents=True, exist_ok=True)
    parts = build(given.width, given.layers, given.patch)
    steps = Trainer(parts, given.batch, given.pool, device).train(given.seconds, given.rate)
    scores = measure(parts, device, given.prompts, given.out)
    stored = pipeline(parts, 1.0)
    stored.to("cpu", torch.float16)
    stored.save_pretrained(given.out / "pipeline")
    (given.out / "scores.json").write_text(json.dumps({"steps": steps, **scores}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
