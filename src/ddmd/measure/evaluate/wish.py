"""What is asked of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...run.results import Setting
from .dpg import Mode

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What is asked of a benchmark. `paths` are the scorers' files; `setting` is how a teacher is sampled."""

    models: tuple[str, ...]
    data: Path | None
    out: Path
    paths: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    reference: Path | None = None
    base: Path | None = None
    setting: Setting | None = None
    mode: Mode = "strict"
    seed: int = 0
    batch: int = 4
    resolution: int | None = None
    limit: int | None = None
    skip_bad: bool = False
    shard: tuple[int, int] = (0, 1)
