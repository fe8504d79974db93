"""Run a plan of cases, several at once where cores allow; what is finished is kept, what was killed goes on."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path

from ...errors import InputError
from ...files import read_json_lines
from .cases import Case, run_case

POLL_SECONDS = 2.0
Count = Callable[[str, int, int], None]
"""(what, done, total)."""


def default_jobs() -> int:
    """One case at a time on a GPU, else one a core: two one-thread runs beat one two-thread run."""
    import torch

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def run_all(cases: Sequence[Case], jobs: int, count: Count) -> None:
    """Run every case that is not finished. Raises what a case raises, once the others that run have ended."""
    todo = [case for case in cases if not case.finished]
    total = sum(case.recipe.train.cycles for case in cases)

    def report() -> None:
        done = sum(case.recipe.train.cycles if case.finished else cycles_done(case.folder) for case in cases)
        ready = sum(case.finished for case in cases)
        count(f"{ready} of {len(cases)} runs done, cycles", min(done, total), total)

    report()
    if jobs == 1:
        for case in todo:
            run_case(case, report)
            report()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_begin_worker) as pool:
        waiting = {pool.submit(run_case, case) for case in todo}
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                report()
                _raise_failures(ended)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _raise_failures(ended: set[Future[None]]) -> None:
    for future in ended:
        try:
            future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "lab", "a run that was killed", "start the same command again: it goes on; fewer --jobs need less memory"
            ) from error


def _begin_worker() -> None:
    """One thread a worker, and none outlives the command: a killed one leaves nobody to take its queue's end away."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    wait_for([parent.sentinel])
    os._exit(1)


def cycles_done(run: Path) -> int:
    """How far a run's log has come."""
    try:
        return int(read_json_lines(run / "metrics.jsonl")[-1]["cycle"])
    except (InputError, ValueError, TypeError, IndexError, KeyError):
        return 0  # not begun, or just writing: it is only for the bar
