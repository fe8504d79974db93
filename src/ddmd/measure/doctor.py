"""What is installed, what the machine has, and what is missing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

from ..errors import InputError
from ..teachers.builtin import BUILTIN, WEIGHTS, model_folder

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pydantic", "tensorboard")


@dataclass(frozen=True)
class Examination:
    """Facts as (name, value) in order, and problems that keep something from working."""

    facts: list[tuple[str, str]]
    problems: list[str]


def examine() -> Examination:
    """Look at packages, devices, memory and the embedded teachers."""
    facts = [("python", platform.python_version())]
    problems = []
    for name in ("decoupled-dmd", *PACKAGES):
        try:
            facts.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            facts.append((name, "not installed"))
            problems.append(f"package {name}: pip install {name}")
    facts += _devices()
    for teacher in BUILTIN:
        try:
            folder = model_folder(teacher)
            size = sum(file.stat().st_size for file in (WEIGHTS / teacher).rglob("*") if file.is_file())
            facts.append((f"teacher {teacher}", f"{size / 2**20:.1f} MiB in {folder.parent}"))
        except InputError as error:
            problems.append(str(error))
    return Examination(facts, problems)


def _devices() -> list[tuple[str, str]]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = [("cpu", f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"), ("memory", f"{memory:.1f} GiB")]
    if not torch.cuda.is_available():
        return [*facts, ("gpu", "none; everything runs on the CPU in float32")]
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        facts.append((f"gpu {i}", f"{torch.cuda.get_device_name(i)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"))
    return facts
