"""Measurements besides the scores: what is written at which frequency, what the observer sees, how much guidance is baked in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ...files import write_atomic
from ...method.rng import stream
from ...run import checkpoint as ckpt
from ...run.pictures import png_bytes, strips
from ...run.results import teacher_setting
from ...run.train import Training
from ...teachers.identity import model_identity
from ...teachers.prompts import to_device
from ...teachers.sampling import initial_noise, sample_images
from ..rehearsal import rehearse

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
PROBED = 32  # prompts behind a probe over training
SHOWN = 6
COMPARED = 100  # pictures set beside the teacher's, which are costly

Probe = Callable[[Training, Tensor, Sequence[str]], Any]


def radial_spectrum(images: Tensor) -> Tensor:
    """Mean power of images (N, C, S, S) by radial frequency 0 .. S/2, in cycles an image; the mean colour is taken out."""
    side = images.shape[-1]
    centred = images - images.mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.fft2(centred, norm="ortho").abs().square().mean(dim=(0, 1))
    frequency = torch.fft.fftfreq(side) * side
    radius = (frequency[:, None].square() + frequency[None].square()).sqrt().round().long()
    count = torch.zeros(side, dtype=power.dtype).index_add(0, radius.flatten(), torch.ones(side * side))
    total = torch.zeros(side, dtype=power.dtype).index_add(0, radius.flatten(), power.flatten())
    return (total / count.clamp(min=1))[: side // 2 + 1]


def spectrum(training: Training, images: Tensor, prompts: Sequence[str]) -> dict[str, list[float]]:
    """The radial power spectra of the student's and the teacher's pictures of the same prompts."""
    teacher = teacher_pictures(training, prompts)
    return {"student": radial_spectrum(images[: len(teacher)]).tolist(), "teacher": radial_spectrum(teacher).tolist()}


def matched(training: Training, images: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
    """The scores once every image has the mean and the variance of the teacher's picture of the same prompt and noise.

    Structure is judged apart from colour so. Averages over all pictures would not do: a background's colour is asked for.
    """
    suite = training.parts.suite
    if suite is None:
        return {}
    teacher = teacher_pictures(training, prompts)
    scores = suite.score(match_moments(images[: len(teacher)], teacher), prompts[: len(teacher)])
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def match_moments(images: Tensor, reference: Tensor) -> Tensor:
    """Images (N, C, H, W) whose every mean and standard deviation, by colour, are those of the reference's image at its place."""
    mean, std = images.mean(dim=(2, 3), keepdim=True), images.std(dim=(2, 3), keepdim=True)
    return (images - mean) / std.clamp(min=1e-6) * reference.std(dim=(2, 3), keepdim=True) + reference.mean(dim=(2, 3), keepdim=True)


def teacher_pictures(training: Training, prompts: Sequence[str]) -> Tensor:
    """The teacher's pictures of the first prompts from the students' noise; made once for all runs that lie beside this one."""
    recipe, parts, asked = training.recipe, training.parts, list(prompts[:COMPARED])
    setting = teacher_setting(parts.denoiser, recipe.report.teacher_steps, recipe.teacher_guidance)
    identity = json.dumps([model_identity(parts.denoiser.folder), recipe.resolution, recipe.seed, setting.steps, setting.guidance, asked])
    kept = training.folder.parent / f"teacher-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.safetensors"
    if kept.is_file():
        return ckpt.load_tensors(kept)["images"]
    cond = parts.encode(asked)
    images = sample_images(parts.denoiser, parts.roles.teacher, cond, setting.grid, setting.sampler, setting.guidance, recipe.seed)
    write_atomic(kept, save({"images": images.contiguous()}))
    return images


@torch.no_grad()
def baking(training: Training, images: Tensor, prompts: Sequence[str]) -> list[dict[str, float]]:
    """By checkpoint and level: cosine of (student's x0 - teacher's conditional x0) with the teacher's guidance direction at the
    same input, and the projection's size in units of that direction (alpha - 1 would be all of the guidance)."""
    rows = []
    for cycle, z, u, cond, level, student in _looks(training, prompts):
        parts = training.parts
        teacher = parts.denoiser.path.to_x0(parts.roles.teacher(z, u, cond), z, u)
        without = parts.denoiser.path.to_x0(parts.roles.teacher(z, u, parts.denoiser.unconditional(len(z))), z, u)
        cosine, size = guidance_taken(student, teacher, without)
        rows.append({"cycle": cycle, "level": level, "cosine": cosine, "size": size})
    return rows


def guidance_taken(student: Tensor, cond: Tensor, uncond: Tensor) -> tuple[float, float]:
    """Mean cosine of (student - cond) with (cond - uncond), and the projection's mean size in units of the latter; all x0, (B, ...)."""
    taken, direction = (student - cond).flatten(1), (cond - uncond).flatten(1)
    inner = (taken * direction).sum(1)
    cosine = inner / (taken.norm(dim=1) * direction.norm(dim=1)).clamp(min=1e-12)
    return cosine.mean().item(), (inner / direction.square().sum(1).clamp(min=1e-12)).mean().item()


@torch.no_grad()
def observer(training: Training, images: Tensor, prompts: Sequence[str]) -> list[dict[str, float]]:
    """By checkpoint and level: how far real and fake x0 of the same re-noised sample are apart, and how much of the student's
    own deviation from the teacher's pictures that difference would take away. Writes observer.png."""
    rows, shown = [], {}
    for cycle, z, u, cond, level, student in _looks(training, prompts, fake=True):
        parts = training.parts
        real = parts.denoiser.path.to_x0(parts.roles.teacher(z, u, cond), z, u)
        fake = parts.denoiser.path.to_x0(parts.roles.call(parts.roles.plain("fake"), z, u, cond), z, u)
        gap, removed = artefact_removed(student, real, fake)
        rows.append({"cycle": cycle, "level": level, "gap": gap, "removed": removed})
        if level == LEVELS[2]:
            first = slice(0, SHOWN)
            decode = parts.denoiser.decode
            shown = {"sample": decode(student[first]), "real x0": decode(real[first]), "fake x0": decode(fake[first])}
            shown["real - fake"] = shown["real x0"] - shown["fake x0"]
    write_atomic(training.folder / "observer.png", png_bytes(strips(shown)))
    return rows


def artefact_removed(sample: Tensor, real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Root mean square of (real - fake), and the share of (sample - real) that a step along it would take away; all x0, (B, ...)."""
    artefact, push = (sample - real).flatten(1), (real - fake).flatten(1)
    removed = -(artefact * push).sum(1) / artefact.square().sum(1).clamp(min=1e-12)
    return push.square().mean().sqrt().item(), removed.mean().item()


def _looks(training: Training, prompts: Sequence[str], fake: bool = False) -> Any:
    """At every kept checkpoint and level: the same noise on the student's own pictures then.

    For `baking` the student answers on that input as a denoiser; for the observer, `student` is the picture before the noise.
    """
    parts = training.parts
    device = training.accelerator.device
    cond = to_device(parts.encode(prompts[:PROBED]), device)
    setting, path = training.student_setting, parts.denoiser.path
    from ...method.student import sample

    for folder in ckpt.step_folders(training.folder / "checkpoints"):
        tensors, facts = ckpt.load_checkpoint(folder, ["average", *(["fake"] if fake else [])])
        training.average = {name: value.to(training.accelerator.device) for name, value in tensors["average"].items()}
        if fake:
            parts.roles.load_state_dict("fake", tensors["fake"])
        generator = stream(training.recipe.seed, "probe", device=device)
        with training.averaged() as network:

            def predict(z: Tensor, u: Tensor, network: Any = network) -> Tensor:
                return path.to_x0(network(z, u, cond), z, u)

            x = sample(
                predict, path, setting.grid, initial_noise(parts.denoiser, len(prompts[:PROBED]), generator), setting.sampler, generator
            )
            for level in LEVELS:
                u = torch.full((len(x),), level, dtype=torch.float64, device=device)
                z = path.add_noise(x, u, torch.randn(x.shape, generator=generator, device=device))
                yield facts["cycle"], z, u, cond, level, x if fake else predict(z, u)


def memory(training: Training, images: Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """What a cycle holds at its peak, GiB, rehearsed on tensors without contents: the same on every machine."""
    peaks = rehearse(training.recipe)
    return {"cycle_gib": max(size for stage, size in peaks.items() if stage.endswith("update")) / 2**30}


PROBES: dict[str, Probe] = {"spectrum": spectrum, "matched": matched, "baking": baking, "observer": observer, "memory": memory}


def likeness_table(features: dict[str, Tensor]) -> list[tuple[str, str, float]]:
    """Mean cosine of the features of two cases' pictures of the same prompts and seeds, less what other prompts' pictures have."""
    rows = []
    names = list(features)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            fa, fb = (torch.nn.functional.normalize(features[n] - features[n].mean(0), dim=-1) for n in (a, b))
            own = (fa * fb).sum(-1).mean()
            other = (fa * fb.roll(1, 0)).sum(-1).mean()
            rows.append((a, b, (own - other).item()))
    return rows
