"""Settings of accelerate that a shell or `accelerate launch` leaves in the environment: in a run, the recipe decides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

FOREIGN = ("ACCELERATE_", "PARALLELISM_CONFIG_")
OFF = ("", "no", "none", "false", "0")
ONE_IS_NONE = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"


def foreign_settings() -> list[str]:
    """Those that ask for something, as NAME=value; `accelerate launch` always sets some that do not."""
    found = {key: value for key, value in os.environ.items() if key.startswith(FOREIGN) and value.lower() not in OFF}
    return sorted(f"{key}={value}" for key, value in found.items() if (key, value) != (ONE_IS_NONE, "1"))


@contextmanager
def without_foreign_settings() -> Iterator[None]:
    """None of them for the time of the block: accelerate reads some even where it is told otherwise."""
    kept = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith(FOREIGN)}
    try:
        yield
    finally:
        os.environ.update(kept)
