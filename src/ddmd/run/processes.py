"""What several processes of a run tell each other, and what the system tells all of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

# The last two: SLURM's warning before a time limit, and a terminal that goes.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def gather(accelerator: Any, value: Any) -> list[Any]:
    """One object of every process, in rank order."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def lead_finds(accelerator: Any, find: Callable[[], Any]) -> Any:
    """What the lead process finds, told to all; where it raises an InputError, all do."""
    found: Any = None
    if accelerator.is_main_process:
        try:
            found = find()
        except InputError as error:
            found = error
    found = gather(accelerator, found)[0]
    if isinstance(found, InputError):
        raise found
    return found


@dataclass
class Stop:
    """Whether this process was asked to stop."""

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Ctrl-C and the signals by which systems end a job only ask, for the time of the block.

    One that is ignored, as SIGHUP is under nohup, stays so.
    """
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        stop.requested = True

    heeded = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]
    kept = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
