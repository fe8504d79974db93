"""What a model is worth: rows of results.json, sampled and scored in one place for runs and for `ddmd evaluate`."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..method.batch import Condition, batch_size, select
from ..method.student import Sampler
from ..teachers.builtin import Suite
from ..teachers.cache import Report, silent
from ..teachers.denoisers import Denoiser
from ..teachers.identity import files_under
from ..teachers.sampling import Network, sample_images, say_what_is_not_followed

SPEED_IMAGES = 16  # images over which seconds_per_image is measured
SPEED_REPEATS = 3


@dataclass(frozen=True)
class Setting:
    """How a row of the table is sampled."""

    grid: tuple[float, ...]
    sampler: Sampler
    guidance: float
    resolution: int | None = None  # pixels; the model's own when None

    @property
    def steps(self) -> int:
        return len(self.grid)


def teacher_setting(denoiser: Denoiser, steps: int, guidance: float) -> Setting:
    """The teacher in so many steps of its own scheduler, as far as ddmd follows that (`Denoiser.not_followed`)."""
    say_what_is_not_followed(denoiser)
    return Setting(denoiser.teacher_grid(steps), denoiser.teacher_sampler, guidance)


def teacher_settings(denoiser: Denoiser, steps: int, few: int, guidance: float) -> dict[str, Setting]:
    """The teacher's rows: many steps with and without guidance, and as few steps as the student."""
    return {
        "teacher": teacher_setting(denoiser, steps, guidance),
        "teacher-no-cfg": teacher_setting(denoiser, steps, 1.0),
        "teacher-few-step": teacher_setting(denoiser, few, guidance),
    }


def score_row(
    denoiser: Denoiser,
    network: Network,
    setting: Setting,
    suite: Suite,
    prompts: Sequence[str],
    cond: Condition,
    seed: int,
    report: Report = silent,
) -> dict[str, Any]:
    """Sample every prompt once and score it: one row of results.json."""
    images = sample_images(denoiser, network, cond, setting.grid, setting.sampler, setting.guidance, seed, report=report)
    scores = suite.score(images, prompts)
    intervals = scores.pop("intervals")
    row = {"steps": setting.steps, "guidance": setting.guidance, **scores}
    row["seconds_per_image"] = seconds_per_image(denoiser, network, setting, cond)
    return {**row, "images": row.pop("n"), "intervals": intervals}


def seconds_per_image(denoiser: Denoiser, network: Network, setting: Setting, cond: Condition) -> float:
    """Median time of sampling and decoding one batch of up to 16 prompts, per image."""
    part = select(cond, slice(0, SPEED_IMAGES))
    times = []
    for _ in range(SPEED_REPEATS):
        start = time.perf_counter()
        sample_images(denoiser, network, part, setting.grid, setting.sampler, setting.guidance, seed=0)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] / batch_size(part)


def results_object(suite: str, seed: int, scores: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The one shape of results.json."""
    return {"suite": suite, "machine": machine(), "seed": seed, **more, "scores": scores}


def machine() -> str:
    """The machine in words: processor or GPU, cores, threads, torch."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def weights_hash(folder: Path) -> str:
    """Identity of a pipeline: sha256 over its safetensors files, names included. Raises InputError where there is none."""
    digest = hashlib.sha256()
    for file in files_under(folder, lambda path: path.suffix == ".safetensors"):
        digest.update(str(file.relative_to(folder)).encode())
        with open(file, "rb") as handle:
            while block := handle.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


COLUMNS = (
    "steps", "guidance", "overall", "entity", "attribute", "relation", "global", "frechet", "text_image", "recall", "style", "kid_lite0", "frechet_lite0",
    "std", "saturation", "seconds_per_image", "images", "skipped",
)  # fmt: skip
PRECISE = ("frechet", "frechet_lite0", "guidance", "text_image", "kid_lite0")  # one decimal
SHOWN_INTERVALS = ("overall", "text_image")


def table(scores: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text, header first, for the terminal and the report: the columns that any row fills, main scores with 95 % intervals."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in scores.values())]
    rows = [["", *(name.replace("_", " ") for name in columns)]]
    for name, row in scores.items():
        rows.append([name, *(_cell(row, column) for column in columns)])
    return rows


def _cell(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    digits = 1 if column in PRECISE or value >= 10 else 3
    text = f"{value:.{digits}f}"
    interval = row.get("intervals", {}).get(column)
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval and column in SHOWN_INTERVALS else text
