"""`ddmd evaluate`, `ddmd generate` and `ddmd scorer`: models and folders of images against benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..devices import launch
from ..errors import InputError
from .screen import (
    LARGEST,
    LARGEST_BATCH,
    MOST_GUIDANCE,
    MOST_PROMPTS,
    MOST_STEPS,
    SMALLEST,
    Out,
    Screen,
    Seed,
    Threads,
    print_table,
    set_threads,
)

scorer = typer.Typer(no_args_is_help=True, help="Scorers: what each needs, and environments for those that pin old packages.")

Models = Annotated[
    list[str], typer.Argument(help="Runs, pipeline folders, embedded teachers, KIND:PATH (a published student), or folders of images.")
]
SuiteName = Annotated[
    str, typer.Option("--suite", help="shapes, pairs, emoji, dpg, hps21, hps3, imagereward, clip, fid, images, offline, coco10k or table1.")
]
Data = Annotated[Path | None, typer.Option(help="The benchmark's prompts: a file or folder, as published.")]
Base = Annotated[Path | None, typer.Option(help="The SDXL pipeline that a published student's U-Net or LoRA belongs to.")]
Steps = Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="A teacher's many steps.")]
Guidance = Annotated[float, typer.Option(min=1, max=MOST_GUIDANCE, help="A teacher's guidance scale.")]
ImageBatch = Annotated[int, typer.Option(min=1, max=LARGEST_BATCH, help="Images drawn at once.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts: for a trial.")]


def evaluate(
    models: Models,
    suite: SuiteName = "shapes",
    data: Data = None,
    scorers: Annotated[
        list[str] | None, typer.Option("--scorer", help="A scorer's files, NAME=PATH; repeat. `ddmd scorer list` names them.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Distances: a folder of real images.")] = None,
    base: Base = None,
    mode: Annotated[str, typer.Option(help="dpg: strict, or official (the published script's numbers, quirks included).")] = "strict",
    resolution: Annotated[
        int | None, typer.Option(min=SMALLEST, max=LARGEST, help="The side that every image must have; for grids of dpg, of one square.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that are missing or damaged, and say how many.")] = False,
    prompts: Annotated[int, typer.Option(min=2, max=MOST_PROMPTS, help="shapes, pairs, emoji: number of report prompts.")] = 1000,
    limit: Limit = None,
    teacher_steps: Steps = 50,
    few_steps: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="shapes, pairs, emoji: a teacher's few steps.")] = 4,
    guidance: Guidance = 3.0,
    batch: ImageBatch = 4,
    seed: Seed = 0,
    out: Out = None,
    threads: Threads = None,
) -> None:
    """Score models, or images made elsewhere, on a benchmark: results.json and tables. A killed one goes on by the same command."""
    set_threads(threads)
    folder = out or Path("evaluation")
    from ..teachers.builtin import SUITES as EMBEDDED

    with Screen() as screen:
        if suite in EMBEDDED:
            from ..measure.evaluate import evaluate as score

            n = min(prompts, limit or prompts)
            results = score(models, suite, folder, n, teacher_steps, few_steps, guidance, seed, screen.count)
        else:
            from ..measure.evaluate.benchmark import run_benchmark
            from ..measure.evaluate.scorers import parse_paths

            if mode not in ("strict", "official"):
                raise InputError("--mode", repr(mode), "use strict or official")
            wish = _wish(
                models, data, folder, base, teacher_steps, guidance, seed, batch, limit, paths=parse_paths(scorers or []), reference=reference,
                mode=mode, resolution=resolution, skip_bad=skip_bad,
            )  # fmt: skip
            results = run_benchmark(suite, wish, screen.count, screen.say)
    from ..run.results import remarks

    if suite in EMBEDDED:
        from ..run.results import table

        print_table(table(results["scores"]))
        for remark in remarks(results["scores"]):
            print(remark)
    else:
        from ..measure.evaluate.report import score_table

        print_table([[text for text, _ in row] for row in score_table(results["scores"])])
        for remark in remarks(results["scores"]):
            print(remark)
    print(folder / "results.json")


def generate(
    models: Models,
    suite: SuiteName = "clip",
    data: Data = None,
    base: Base = None,
    limit: Limit = None,
    teacher_steps: Steps = 50,
    guidance: Guidance = 3.0,
    batch: ImageBatch = 4,
    seed: Seed = 0,
    shard: Annotated[
        str | None, typer.Option(help="I/N: draw every N-th prompt from the I-th on. Under torchrun: each process its own.")
    ] = None,
    out: Out = None,
    threads: Threads = None,
) -> None:
    """Only draw a benchmark's images, this process's share of them; `ddmd evaluate` with the same words then scores them."""
    set_threads(threads)
    folder = out or Path("evaluation")
    share = _shard(shard)
    from ..measure.evaluate.benchmark import draw_only

    with Screen() as screen:
        wish = _wish(models, data, folder, base, teacher_steps, guidance, seed, batch, limit, shard=share)
        draw_only(suite, wish, screen.count)
    print(folder / "images")


def _wish(
    models: list[str], data: Path | None, out: Path, base: Path | None, steps: int, guidance: float, seed: int, batch: int, limit: int | None,
    **more: Any,
) -> Any:  # fmt: skip
    from ..measure.evaluate.wish import Wish
    from ..method.student import uniform_grid
    from ..run.results import Setting

    teacher = Setting(uniform_grid(steps), "ode", guidance)
    return Wish(tuple(models), data, out, base=base, setting=teacher, seed=seed, batch=batch, limit=limit, **more)


def _shard(text: str | None) -> tuple[int, int]:
    """(number, of how many), from I/N or from torchrun's environment."""
    if text is None:
        told = launch()
        return told.rank, told.processes
    number, separator, of = text.partition("/")
    digits = number.isdecimal() and of.isdecimal() and len(number + of) < 20  # int() refuses thousands of them
    if not (separator and digits and int(number) < int(of)):
        raise InputError("--shard", repr(text), "write I/N with I from 0 to N - 1, such as 0/4")
    return int(number), int(of)


@scorer.command("list")
def scorer_list() -> None:
    """What every scorer gives, where it runs, and the files it needs."""
    from ..measure.evaluate.scorers.remote import statuses

    print_table(statuses(), numbers=False)


@scorer.command("setup")
def scorer_setup(name: Annotated[str, typer.Argument(help="imagereward, hps3 or mplug.")]) -> None:
    """Make the environment of a scorer that pins old packages (a download of some gigabytes)."""
    from ..measure.evaluate.scorers.remote import setup

    with Screen() as screen:
        print(setup(name, screen.say))
