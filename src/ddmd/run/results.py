"""What a model is worth: rows of results.json, sampled and scored in one place for runs and for `ddmd evaluate`."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..method.batch import Condition, batch_size, select
from ..method.student import Sampler
from ..teachers.builtin import Suite
from ..teachers.cache import Report, silent
from ..teachers.denoisers import Denoiser
from ..teachers.identity import files_under
from ..teachers.sampling import Network, sample_images, say_what_is_not_followed

SPEED_IMAGES = 16  # images over which seconds_per_image is measured
SPEED_REPEATS = 3
SHOWN_IMAGES = 8  # of each row, for pages


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
) -> tuple[Tensor, dict[str, Any]]:
    """Sample every prompt once and score it: the first images and one row of results.json, not timed yet (`add_seconds`)."""
    images = sample_images(denoiser, network, cond, setting.grid, setting.sampler, setting.guidance, seed, report=report)
    scores = suite.score(images, prompts)
    intervals = scores.pop("intervals")
    row = {"steps": setting.steps, "guidance": setting.guidance, **scores}
    row = {**row, "images": row.pop("n"), "intervals": intervals}
    return images[:SHOWN_IMAGES], row


@dataclass(frozen=True)
class Timed:
    """What a row of the table samples by, kept until all rows are timed."""

    denoiser: Denoiser
    network: Network
    setting: Setting
    cond: Condition

    def draw(self, steps: int | None = None) -> int:
        """Sample and decode the first prompts, at most 16; `steps` ends the way early. Returns how many."""
        part, s = select(self.cond, slice(0, SPEED_IMAGES)), self.setting
        sample_images(self.denoiser, self.network, part, s.grid[:steps], s.sampler, s.guidance, seed=0)
        return batch_size(part)


def add_seconds(scores: dict[str, dict[str, Any]], timed: Mapping[str, Timed]) -> None:
    """Write every row's `seconds_per_image`: the median over rounds in which all rows sample and decode the same prompts in turn.

    One row after another would compare a busy minute of the machine with a quiet one, and the first with the warm. A step of
    each row warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in timed}
    for row in timed.values():
        row.draw(steps=1)
    for _ in range(SPEED_REPEATS):
        for name, row in timed.items():
            start = time.perf_counter()
            n = row.draw()
            times[name].append((time.perf_counter() - start) / n)
    for name, found in times.items():
        scores[name]["seconds_per_image"] = statistics.median(found)


def results_object(suite: str, seed: int, scores: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The one shape of results.json."""
    return {"suite": suite, "machine": machine(), "seed": seed, **more, "scores": scores}


def machine() -> str:
    """The machine in words: processor or GPU, cores, threads, torch."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' * (threads != 1)}, torch {torch.__version__}"


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
    "std", "saturation", "seconds_per_image", "images", "skipped", "nonfinite",
)  # fmt: skip
PRECISE = ("frechet", "frechet_lite0", "guidance", "text_image", "kid_lite0")  # one decimal
SHOWN_INTERVALS = ("overall", "text_image")
QUIET = ("skipped", "nonfinite")  # shown where there are any


def table(scores: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text, header first, for the terminal and the report: the columns that any row fills, main scores with 95 % intervals."""
    columns = [name for name in COLUMNS if any(row.get(name) if name in QUIET else row.get(name) is not None for row in scores.values())]
    rows = [["", *(name.replace("_", " ") for name in columns)]]
    for name, row in scores.items():
        rows.append([name, *(_cell(row, column) for column in columns)])
    return rows


def remarks(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What must be said of numbers, or of those that are left out; a line each."""
    return [f"{label}, {name}: {remark}." for label, row in scores.items() for name, remark in row.get("remarks", {}).items()]


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
