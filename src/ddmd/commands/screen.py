"""What commands share: progress on a terminal or in a log, and common options."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError

Out = Annotated[Path | None, typer.Option("--out", help="Folder (or file) to write to.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; all cores when not given.")]

MOST_THREADS = 4096
MOST_STEPS, MOST_GUIDANCE = 1000, 1000.0  # as in a recipe
LARGEST_BATCH, MOST_PROMPTS = 65536, 10**6
SMALLEST, LARGEST = 8, 16384  # pixels on a side
QUIET_SECONDS = 20  # between progress lines in a log


class Screen:
    """Progress on a terminal, plain lines in a log. Implements the run's Observer."""

    def __init__(self, show: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = Console(stderr=True, quiet=not show, soft_wrap=True, highlight=False, markup=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task: Any = None
        self.spoke = self.began = time.monotonic()

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.progress.stop()

    def start(self, total: int, position: int) -> None:
        self._begin("distilling", total, position)

    def cycle(self, position: int, metrics: dict[str, float]) -> None:
        rate = f"{metrics['seconds_per_cycle']:.2f} s/cycle"
        self._show(f"distilling, {rate}, fake loss {metrics.get('fake_loss', 0):.4f}", position)

    def count(self, what: str, done: int, total: int) -> None:
        if self.task is None or self.progress.tasks[-1].total != total:
            self._begin(what, total, 0)
        self._show(what, done)

    def counter(self, what: str, total: int) -> Callable[[int], None]:
        """For callers that report only how many are done."""
        return lambda done: self.count(what, done, total)

    def _begin(self, what: str, total: int, position: int) -> None:
        """One bar at a time."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(what, total=total, completed=position)
        self.began = time.monotonic()

    def _show(self, what: str, done: int) -> None:
        """Move the bar; where there is no terminal to draw on, a line now and then."""
        with suppress(OSError):  # a terminal that has gone: the work goes on
            self.progress.update(self.task, completed=done, description=what)
        now, total = time.monotonic(), self.progress.tasks[-1].total or done
        if not self.console.is_terminal and now - self.spoke > QUIET_SECONDS:
            self.spoke = now
            self.say(f"{what}: {done} of {total:.0f}, {now - self.began:.0f} s")

    def say(self, text: str) -> None:
        with suppress(OSError):
            self.progress.print(text) if self.console.is_terminal else self.console.print(text)


def print_table(rows: Sequence[Sequence[str]], numbers: bool = True) -> None:
    """A table of text, header first, on standard output; numbers to the right, words to the left."""
    from rich.console import Console
    from rich.table import Table

    header, *rest = rows
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for i, cell in enumerate(header):
        drawn.add_column(cell, justify="right" if numbers and i else "left", overflow="fold")
    for row in rest:
        drawn.add_row(*row)
    Console(width=max(140, Console().width)).print(drawn)


def set_threads(threads: int | None) -> None:
    """Limit torch to a number of CPU threads, where one is given."""
    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise InputError("--threads", str(threads), f"give 1 to {MOST_THREADS}")
        import torch

        torch.set_num_threads(threads)


def check_address(host: str, port: int) -> None:
    """Raise InputError where nothing can listen at an address."""
    import socket

    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise InputError(
            "--host, --port", f"{host}:{port}: {error.strerror or error}", "give another, or stop what listens there"
        ) from error
