"""Memory, speed and FLOP utilisation of a cycle on a real model's architecture with random weights.

    python benchmarks/full_size.py {sdxl,lumina2,z_image} [--tiny] [--resolution 1024] [--batch 1] [--cycles 3] [--peak-tflops 989]

Three ways in turn, each in a process of its own: `adapters` (one frozen base, two LoRA adapters, one batched teacher call),
`adapters, split` (the teacher's passes one after another) and `copies` (three networks, separate teacher calls). All in bfloat16
with gradient checkpointing. The peak that `ddmd doctor` would name stands beside the measured one (two minutes of one core for all three,
meanwhile; `--no-estimate` leaves it out). `--tiny` shrinks every width, to try the command on a CPU. A way that does not fit is reported as such.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddmd.measure.rehearsal import Count, Moments, Rehearsal
from ddmd.method.batch import Batch
from ddmd.method.distiller import Distiller, Objective, Plan
from ddmd.method.guidance import GuidanceScale
from ddmd.method.student import uniform_grid
from ddmd.run.results import machine
from ddmd.teachers.denoisers.lumina2 import Lumina2
from ddmd.teachers.denoisers.sdxl import SDXL
from ddmd.teachers.denoisers.z_image import ZImage
from ddmd.teachers.roles import CopyRoles, LoraRoles, in_bfloat16

AUTOENCODER = SimpleNamespace(config=FrozenDict(scaling_factor=1.0))  # never asked: latents are random
WAYS = ("adapters", "adapters, split", "copies")
RANK = 64


def sdxl(tiny, where):
    from diffusers import DDIMScheduler, UNet2DConditionModel

    widths, depth, text = ((8, 16, 16), (1, 1, 2), 64) if tiny else ((320, 640, 1280), (1, 2, 10), 2048)
    pooled, ids = (32, 8) if tiny else (1280, 256)
    with where:
        unet = UNet2DConditionModel(
            sample_size=16 if tiny else 128, block_out_channels=widths, transformer_layers_per_block=depth, cross_attention_dim=text,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 2, 2) if tiny else (5, 10, 20),
            addition_embed_type="text_time", addition_time_embed_dim=ids, projection_class_embeddings_input_dim=pooled + 6 * ids,
            use_linear_projection=True, norm_num_groups=4 if tiny else 32,
        )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def condition(n, device):
        return {
            "embeds": torch.randn(n, 77, text, device=device), "pooled": torch.randn(n, pooled, device=device),
            "time_ids": torch.tensor([1024.0, 1024, 0, 0, 1024, 1024], device=device).expand(n, 6),
        }  # fmt: skip

    return SDXL, SimpleNamespace(unet=unet, scheduler=scheduler, vae_scale_factor=8, vae=AUTOENCODER), condition


def lumina2(tiny, where):
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Transformer2DModel

    small = {"hidden_size": 32, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 16,
             "cap_feat_dim": 32, "axes_dim_rope": (4, 6, 6)}  # fmt: skip
    with where:
        transformer = Lumina2Transformer2DModel(in_channels=16, **(small if tiny else {}))
    width = transformer.config.cap_feat_dim

    def condition(n, device):
        return {"embeds": torch.randn(n, 256, width, device=device), "mask": torch.ones(n, 256, dtype=torch.bool, device=device)}

    return (
        Lumina2,
        SimpleNamespace(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), vae_scale_factor=8, vae=AUTOENCODER),
        condition,
    )


def z_image(tiny, where):
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

    small = {"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32, "axes_dims": [4, 6, 6]}
    with where:
        transformer = ZImageTransformer2DModel(**(small if tiny else {}))
    width = transformer.config.cap_feat_dim

    def condition(n, device):
        return {"embeds": [torch.randn(128, width, device=device) for _ in range(n)]}

    return (
        ZImage,
        SimpleNamespace(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae_scale_factor=8, vae=AUTOENCODER),
        condition,
    )


MODELS = {"sdxl": sdxl, "lumina2": lumina2, "z_image": z_image}


def assemble(model, way, tiny, resolution, batch, device, where, optimizer):
    """A distiller of one way, and a cycle of it; the network is made in the context `where`."""
    family, pipeline, condition = MODELS[model](tiny, where)
    network: nn.Module = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    network.enable_gradient_checkpointing()
    denoiser = family(pipeline, resolution)
    call = in_bfloat16(denoiser.call)
    with where:
        if way == "copies":
            roles = CopyRoles(network, call, feature_block=denoiser.feature_block, frozen=torch.bfloat16)
        else:
            roles = LoraRoles(network, call, denoiser.lora_targets, RANK, feature_block=denoiser.feature_block, frozen=torch.bfloat16)
    optimizers = [optimizer(roles.parameters(role)) for role in ("student", "fake")]
    objective = Objective(GuidanceScale(4.0), split_teacher=way != "adapters")
    distiller = Distiller(
        roles, denoiser.path, objective, Plan(grid=uniform_grid(4), sampler=denoiser.sampler), denoiser.shape, *optimizers,
        torch.Generator(device).manual_seed(0), torch.Generator().manual_seed(0),
    )  # fmt: skip
    cond, uncond = condition(batch, device), condition(batch, device)

    def cycle() -> None:
        distiller.rungs.manual_seed(2)  # the same exit step every time, so that cycles are alike
        distiller.fake_update(sample=distiller.generator_update(Batch(cond, uncond)).sample)

    return distiller, cycle


def estimated(model: str, way: str, tiny: bool, resolution: int, batch: int) -> float:
    """The peak in GiB that `ddmd doctor` would name for a cycle: rehearsed on tensors without contents."""
    with Rehearsal() as rehearsal:
        _, cycle = assemble(model, way, tiny, resolution, batch, torch.device("cpu"), rehearsal.fake, Moments)
        with rehearsal("cycle"):
            cycle()
    return rehearsal.peaks["cycle"] / 2**30


def measure(model: str, way: str, tiny: bool, resolution: int, batch: int, cycles: int) -> dict:
    """One way on this process's device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    distiller, cycle = assemble(model, way, tiny, resolution, batch, device, device, lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True))
    weights = sum(p.numel() for name, p in distiller.roles.plain("teacher").named_parameters() if "lora_" not in name)
    cycle()
    with FlopCounterMode(display=False) as counter:
        cycle()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with held(distiller) as count:
        cycle()
    seconds = []
    for _ in range(cycles):
        _wait(device)
        start = time.perf_counter()
        cycle()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    found = {
        "way": way, "parameters": weights, "resolution": resolution, "batch": batch, "seconds": min(seconds), "spread": max(seconds) - min(seconds),
        "tflop": counter.get_total_flops() / 1e12,
        "finite": all(bool(p.isfinite().all()) for role in ("student", "fake") for p in distiller.roles.parameters(role)),
    }  # fmt: skip
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    else:
        found["peak_gib"] = count.peak / 2**30  # by the storages of all tensors
    return found


def held(distiller: Distiller) -> Count:
    """A count of the storages alive, which knows of the weights and moments that are there already."""
    count = Count()
    roles, optimizers = distiller.roles, (distiller.student_optimizer, distiller.fake_optimizer)
    moments = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    for tensor in [*moments, *(p.data for role in ("teacher", "student", "fake") for p in roles.plain(role).parameters())]:
        count.see(tensor)
    return count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="the device's dense bfloat16 peak; an H100's is 989")
    parser.add_argument("--estimate", action="store_true", help="only what `ddmd doctor` would say, on any machine")
    parser.add_argument("--no-estimate", action="store_true", help="only what is measured")
    parser.add_argument("--way", choices=WAYS, help="one way alone, in this process")
    given = parser.parse_args()
    if given.estimate:
        peaks = {way: round(estimated(given.model, way, given.tiny, given.resolution, given.batch), 4) for way in WAYS}
        print(json.dumps({"model": given.model, "resolution": given.resolution, "batch": given.batch, "estimated_gib": peaks}))
        return
    if given.way:
        print(json.dumps(measure(given.model, given.way, given.tiny, given.resolution, given.batch, given.cycles)))
        return
    command = [sys.executable, *sys.argv]
    rehearsal = (
        None
        if given.no_estimate
        else subprocess.Popen([*command, "--estimate"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    )
    rows = []
    for way in WAYS:
        done = subprocess.run([*command, "--way", way], capture_output=True, text=True, check=False)
        last = done.stdout.strip().splitlines()[-1:]
        row = json.loads(last[0]) if done.returncode == 0 else {"way": way, "failed": done.stderr.strip().splitlines()[-1][:200]}
        if given.peak_tflops and "seconds" in row:
            row["flop_utilisation"] = row["tflop"] / row["seconds"] / given.peak_tflops
        rows.append(row)
    base = rows[-1].get("seconds")
    estimates = json.loads(rehearsal.communicate()[0])["estimated_gib"] if rehearsal is not None else {}
    for row in rows:
        if row["way"] in estimates:
            row["estimated_gib"] = estimates[row["way"]]
            if "peak_gib" in row:
                row["estimated_over_peak"] = row["estimated_gib"] / row["peak_gib"]
        if base and "seconds" in row:
            row["seconds_over_copies"] = row["seconds"] / base
    print(json.dumps({"machine": machine(), "model": given.model, "tiny": given.tiny, "ways": rows}, indent=1))


if __name__ == "__main__":
    main()
