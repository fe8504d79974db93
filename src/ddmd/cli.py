"""The door: the `ddmd` command. The only place that prints; heavy libraries are imported inside the commands."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import InputError

app = typer.Typer(
    name="ddmd", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Decoupled DMD: turn a slow text-to-image diffusion or flow teacher into a 4- or 8-step student.",
)  # fmt: skip
builtin = typer.Typer(no_args_is_help=True, help="Train the embedded teachers and their verifiers.")
app.add_typer(builtin, name="builtin")
cache = typer.Typer(no_args_is_help=True, help="Real images for GAN terms, as latents on disk (train.reals).")
app.add_typer(cache, name="cache")
study = typer.Typer(no_args_is_help=True, help="Blind user studies: ranking and side-by-side comparison on a web page.")
app.add_typer(study, name="study")

Out = Annotated[Path | None, typer.Option("--out", help="Folder (or file) to write to.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; all cores when not given.")]

QUIET_SECONDS = 20  # between progress lines in a log


def main() -> None:
    """Run the command line: exit code 0 on success, 2 on bad input (one line), 1 on a failure of ours, 130 when interrupted."""
    try:
        app()
    except InputError as error:
        print(f"ddmd: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("ddmd: interrupted", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False) -> None:
    if version:
        from . import __version__

        print(f"ddmd {__version__}")
        raise typer.Exit


@app.command()
def distill(
    recipe: Annotated[str, typer.Argument(help="A preset's name (see `ddmd recipes`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value pairs, such as objective.alpha=3.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out (or this recipe's newest).")] = False,
    threads: Threads = None,
) -> None:
    """Train a few-step student."""
    from .run.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    folder = out or run_folder(resolved.name, resume)
    _set_threads(threads)
    from .run.finish import finish
    from .run.train import Interrupted, NonFiniteLoss, Training

    with _Screen(show=_is_lead()) as screen:
        training = Training(resolved, folder, screen, resume)
        screen.say(f"{resolved.name}: {resolved.about}\nwriting to {folder}")
        again = " ".join(["ddmd distill", recipe, *(overrides or []), "--out", str(folder), "--resume"])
        try:
            training.run()
        except Interrupted:
            screen.say(f"interrupted at cycle {training.cycle}; saved. Go on with:  {again}")
            raise typer.Exit(130) from None
        except NonFiniteLoss as error:
            screen.say(
                f"stopped: {error}. The last checkpoint is intact in {folder / 'checkpoints'}; lower optim.student_lr or objective.alpha."
            )
            raise typer.Exit(1) from None
        if training.lead:
            results = finish(training, screen.count)
            screen.close()
            _print_table(results["scores"])
            screen.say(f"student:  {folder / 'student'}\nreport:   {folder / 'report.html'}")


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="A run's folder, a pipeline's folder, or an embedded teacher's name.")],
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to draw; repeat for several. Empty is the unconditional.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; a student's own, or 50.")] = None,
    guidance: Annotated[float | None, typer.Option(min=1, help="Guidance scale alpha; 1 for a student, 3 for a teacher.")] = None,
    seed: Seed = 0,
    out: Out = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Another model to draw in a row above, as MODEL or MODEL:STEPS; repeat for several.")
    ] = None,
) -> None:
    """Draw images from prompts."""
    from .files import write_atomic
    from .measure.sample import draw
    from .run.pictures import png_bytes, strips, to_pil

    rows: dict[str, Any] = {}
    with _Screen() as screen:
        settings = [(*_model_and_steps(other), None) for other in beside or []] + [(model, steps, guidance)]
        for name, count, scale in settings:
            label, images, seconds = draw(name, prompt, count, scale, seed, partial(_count, screen, name, len(prompt)))
            rows[label] = images
            screen.say(f"{label.replace(chr(10), ', ')}: {seconds:.3f} s an image")
    path = out or Path("sample.png")
    single = not beside and len(prompt) == 1
    write_atomic(path, png_bytes(to_pil(images[0]) if single else strips(rows)))
    print(path)


@app.command()
def demo(
    teacher: Annotated[str, typer.Argument(help="An embedded teacher's name or a pipeline's folder.")] = "emoji",
    student: Annotated[str, typer.Argument(help="Its student: a run's folder, or a shipped one's name.")] = "emoji-student",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """A local page that draws a sentence by a teacher and its student side by side (the extra `demo`)."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from .measure.demo import Pair, page

    prompt = "a large striped red circle" if teacher == "shapes" else "a fluent emoji of a red apple"
    page(Pair.open(teacher, student), prompt).launch(server_name=host, server_port=port, share=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, finished or not.")],
    to: Annotated[str, typer.Option("--to", help="diffusers (a pipeline), lora or comfyui (an adapter).")] = "diffusers",
    out: Out = None,
) -> None:
    """Write a run's student for others to open."""
    from .run.export import export_run

    print(export_run(run, to, out or run / f"export-{to}"))


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Runs, pipeline folders or embedded teachers.")],
    suite: Annotated[
        str, typer.Option(help="shapes or emoji (draws, then scores); images (folders of images, against --reference).")
    ] = "shapes",
    out: Out = None,
    prompts: Annotated[int, typer.Option(min=2, help="Number of report prompts.")] = 1000,
    teacher_steps: Annotated[int, typer.Option(min=1, help="A teacher's many steps.")] = 50,
    few_steps: Annotated[int, typer.Option(min=1, help="A teacher's few steps.")] = 4,
    guidance: Annotated[float, typer.Option(min=1, help="A teacher's guidance scale.")] = 3.0,
    reference: Annotated[Path | None, typer.Option(help="images: a folder of real images.")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="images: the prompts; every one needs its numbered image.")] = None,
    resolution: Annotated[int | None, typer.Option(min=1, help="images: the side that every image must have.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="images: leave out what is missing or damaged, and say how many.")] = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Score models, or folders of images made elsewhere; writes results.json and table.md."""
    _set_threads(threads)
    folder = out or Path("evaluation")
    with _Screen() as screen:
        if suite == "images":
            from .measure.evaluate.folders import evaluate_folders
            from .teachers.prompt_files import read_prompts

            if reference is None:
                raise InputError("--reference", "nothing", "name a folder of real images")
            count = len(read_prompts(prompts_file)) if prompts_file else None
            results = evaluate_folders([Path(m) for m in models], reference, count, folder, resolution, skip_bad, screen.count)
        else:
            from .measure.evaluate import evaluate as score

            results = score(models, suite, folder, prompts, teacher_steps, few_steps, guidance, seed, screen.count)
    _print_table(results["scores"])
    print(folder / "results.json")


@app.command()
def lab(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="fig2, fig3, fig4a, fig4b, table1, table2, baking or sensitivity.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every run; recipe=NAME varies another recipe.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds, from 0 on.")] = 5,
    out: Out = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter runs, 300 report prompts.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; one a core, or one on a GPU, when not given.")] = None,
) -> None:
    """One of the paper's experiments, on any recipe; a killed one goes on by the same command, finished runs are re-used."""
    from .measure.lab.cases import make_cases
    from .measure.lab.experiments import experiment

    found, folder = experiment(name), out or Path("runs") / f"lab-{name}{'-quick' * quick}"
    cases = make_cases(found, overrides or [], seeds, folder, quick)
    command = " ".join(["ddmd lab", name, *(overrides or []), f"--seeds {seeds}", *(["--quick"] if quick else [])])
    with _needs("lab"), _Screen() as screen:
        from .measure.lab.page import write_page
        from .measure.lab.runner import default_jobs, run_all
        from .run.train import Interrupted

        screen.say(f"{name}: {found.about}\n{len(cases)} runs, {sum(case.finished for case in cases)} of them finished, in {folder}")
        try:
            run_all(cases, jobs or default_jobs(), screen.count)
        except (Interrupted, KeyboardInterrupt):
            screen.say(f"interrupted; go on with:  {command} --out {folder}")
            raise typer.Exit(130) from None
        print(write_page(name, found, cases, folder, command))


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Show this preset, resolved.")] = None) -> None:
    """List the presets, or show one with every key."""
    from .run.recipe import load_recipe, preset_names

    if name:
        print(load_recipe(name).to_yaml(), end="")
        return
    width = max(len(preset) for preset in preset_names())
    for preset in preset_names():
        print(f"{preset:<{width}}  {load_recipe(preset).about}")


@app.command()
def doctor(
    recipe: Annotated[str | None, typer.Argument(help="Also estimate what this recipe holds in memory.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, any key of the recipe.")] = None,
) -> None:
    """Versions, device, memory, and what is missing; what a recipe needs."""
    from .measure.doctor import examine

    report = examine()
    for name, found in report.facts:
        print(f"{name:<18}{found}")
    for problem in report.problems:
        print(f"missing: {problem}")
    if recipe is not None:
        _print_estimate(recipe, overrides or [])
    if report.problems:
        raise typer.Exit(2)


def _print_estimate(recipe: str, overrides: list[str]) -> None:
    from .measure.memory import estimate
    from .run.recipe import load_recipe

    found = estimate(load_recipe(recipe, overrides))
    print(f"\n{recipe} holds, besides activations:")
    for name, size in {**found.parts, "in all": found.total}.items():
        print(f"  {name:<38}{size / 2**30:9.3f} GiB")
    print("less memory: " + (", ".join(found.savings) or "nothing more to set"))


Teacher = Annotated[str, typer.Argument(help="A pipeline's folder or an embedded teacher's name.")]
Resolution = Annotated[int | None, typer.Option(min=1, help="Pixels on a side; the model's own when not given.")]


@cache.command("latents")
def cache_latents(
    model: Teacher,
    images: Annotated[Path, typer.Argument(help="A folder of captioned pictures, a WebDataset .tar, or a folder of them.")],
    out: Out = None,
    resolution: Resolution = None,
) -> None:
    """Encode captioned pictures by a model's autoencoder; run it again to go on after an interruption."""
    from .teachers.builtin import model_folder
    from .teachers.denoisers import load_denoiser
    from .teachers.pictures import find_pictures
    from .teachers.reals import cache_pictures

    pictures = find_pictures(images)
    denoiser = load_denoiser(model_folder(model), resolution)
    denoiser.move(_device())
    folder = out or Path("reals")
    with _Screen() as screen:
        print(cache_pictures(denoiser, pictures, folder, partial(_count, screen, "encoding", len(pictures))))


@cache.command("samples")
def cache_teacher_samples(
    model: Teacher,
    prompts: Annotated[Path, typer.Argument(help="A file of prompts (txt, jsonl, csv, parquet) or a saved dataset.")],
    out: Out = None,
    resolution: Resolution = None,
    steps: Annotated[int, typer.Option(min=1, help="The teacher's steps.")] = 50,
    guidance: Annotated[float, typer.Option(min=1, help="The teacher's guidance scale alpha.")] = 3.0,
    seed: Seed = 0,
) -> None:
    """Draw a teacher's own pictures of prompts; run it again to go on after an interruption."""
    from .teachers.builtin import model_folder
    from .teachers.denoisers import load_denoiser
    from .teachers.prompt_files import read_prompts
    from .teachers.reals import cache_samples

    texts = read_prompts(prompts)
    denoiser = load_denoiser(model_folder(model), resolution)
    device = _device()
    denoiser.move(device)
    denoiser.network.to(device)
    folder = out or Path("reals")
    with _Screen() as screen:
        print(cache_samples(denoiser, texts, folder, steps, guidance, seed, partial(_count, screen, "drawing", len(texts))))


def _device() -> Any:
    from accelerate import Accelerator

    return Accelerator().device


Study = Annotated[Path, typer.Argument(help="The study's folder.")]


@study.command("new")
def study_new(
    folder: Study,
    more: Annotated[list[str] | None, typer.Argument(metavar="[NAME=DIR]...", help="More models, after --images.")] = None,
    images: Annotated[list[str] | None, typer.Option("--images", metavar="NAME=DIR", help="A model and its images, one a prompt.")] = None,
    prompts: Annotated[Path, typer.Option(help="The prompts, in the order of the images.")] = Path("prompts.txt"),
    kind: Annotated[str, typer.Option(help="ranking (all models, each prompt) or sidebyside (the last against each other).")] = "ranking",
    n: Annotated[int, typer.Option("--n", min=1, help="Prompts to draw.")] = 500,
    seed: Seed = 0,
    annotators: Annotated[int, typer.Option(min=1, help="Links to make.")] = 10,
    judges: Annotated[int, typer.Option(min=1, help="Ranking: annotators who see each item; two or more measure agreement.")] = 1,
    checks: Annotated[int, typer.Option(min=0, help="Ranking: attention checks, with one spoiled image, for everybody.")] = 0,
    repeats: Annotated[int, typer.Option(min=0, help="Ranking: items shown a second time.")] = 0,
    reason: Annotated[bool, typer.Option("--reason", help="Ranking: ask for a written reason (side by side always does).")] = False,
) -> None:
    """Make a study from folders of images: ddmd study new STUDY --images A=DIR B=DIR --prompts FILE."""
    from typing import cast

    from .measure.study.plan import Kind, Wish, new_study

    found: dict[str, Path] = {}
    for text in [*(images or []), *(more or [])]:
        name, separator, place = text.partition("=")
        if not separator or not name or not place:
            raise InputError("--images", repr(text), "write NAME=DIR")
        if name in found:
            raise InputError("--images", f"{name} twice", "give each model a name of its own")
        found[name] = Path(place)
    wish = Wish(cast(Kind, kind), n, seed, annotators, judges, checks, repeats, reason)
    with _Screen() as screen:
        plan = new_study(folder, found, prompts, wish, lambda done, total: screen.count("copying images", done, total))
    print(f"{folder}: {len(plan.items)} items, {len(plan.annotators)} annotators. Next:  ddmd study serve {folder}")


@study.command("serve")
def study_serve(
    folder: Study,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve a study; prints one link for each annotator."""
    with _needs("study"):
        from .measure.study.server import serve
    from .measure.study.plan import Plan

    for number, token in enumerate(Plan.load(folder).annotators, 1):
        print(f"annotator {number}: http://{host}:{port}/a/{token}/", flush=True)
    serve(folder, host, port)


@study.command("report")
def study_report(
    folder: Study,
    out: Out = None,
    votes: Annotated[Path | None, typer.Option("--csv", help="Votes made elsewhere: item,annotator,model,rank[,reason].")] = None,
) -> None:
    """Tables, tests and plots of a study; with --csv, of one that was run elsewhere."""
    with _needs("study"):
        from .measure.study.report import find, read_csv, read_study, write_report

        checks = repeats = None
        if votes is not None:
            kind, rankings = read_csv(votes)
        else:
            kind, rankings, checks, repeats = read_study(folder)
        found = find(kind, rankings)
        found.checks, found.repeats = checks, repeats
        print(write_report(out or folder / "report", found, rankings))


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Names the extra that brings a missing package."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(str(error.name), "not installed", f"install the extra: pip install 'decoupled-dmd[{extra}]'") from error


@builtin.command("fetch")
def builtin_fetch(
    name: Annotated[str, typer.Argument(help="emoji: 8,000 captioned pictures in five styles.")],
    out: Out = None,
    size: Annotated[int, typer.Option(help="Pixels on a side: 64 or 128.")] = 64,
    source: Annotated[Path | None, typer.Option("--from", help="A folder that holds the npm packages, packed or unpacked.")] = None,
) -> None:
    """Fetch and draw the pictures that an embedded teacher is trained on; sampling and distilling need none."""
    if name != "emoji":
        raise InputError("builtin fetch", repr(name), "use emoji")
    from .teachers.builtin.emoji.pictures import fetch

    with _Screen() as screen:
        print(fetch(out or _pictures_folder(size), size, source, screen.count, screen.say))


def _pictures_folder(size: int) -> Path:
    from .teachers.builtin import cache_folder

    return cache_folder() / f"emoji-pictures-{size}"


@builtin.command("train")
def builtin_train(
    name: Annotated[str, typer.Argument(help="shapes, shapes-verifier, emoji (the autoencoder, then the teacher) or emoji-judge.")],
    out: Out = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; the shipped weights' number when not given.")] = None,
    start: Annotated[Path | None, typer.Option(help="Begin with the weights of this pipeline folder.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Emoji: the folder that `ddmd builtin fetch` wrote.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Train an embedded teacher, verifier or judge; a teacher's training goes on from what is in --out."""
    _set_threads(threads)
    from .teachers.builtin.emoji.make import make_judge
    from .teachers.builtin.emoji.make import make_teacher as make_emoji
    from .teachers.builtin.shapes.make import make_teacher as make_shapes
    from .teachers.builtin.shapes.make import make_verifier

    found = pictures or _pictures_folder(64)
    makers: dict[str, Any] = {
        "shapes": make_shapes, "shapes-verifier": make_verifier, "emoji": partial(make_emoji, found), "emoji-judge": partial(make_judge, found),
    }  # fmt: skip
    if name not in makers:
        raise InputError("builtin train", repr(name), f"use one of {', '.join(makers)}")
    folder = out or Path("runs") / f"builtin-{name}"
    with _Screen() as screen:
        made = makers[name](folder, steps, seed, start, lambda done, total, loss: screen.count(f"{name}, loss {loss:.4f}", done, total))
    print(made)


@builtin.command("pack")
def builtin_pack(pipeline: Annotated[Path, typer.Argument(help="A trained emoji pipeline, or a student of one.")], out: Out = None) -> None:
    """Write the parts of an emoji pipeline that ship with ddmd: half precision, without the text encoder."""
    from .teachers.builtin.emoji.make import pack

    print(pack(pipeline, out or Path("packed")))


def run_folder(name: str, resume: bool) -> Path:
    """runs/<recipe>-<n>: the next free number, or the newest when resuming."""
    runs = Path("runs")
    numbers = [int(p.name.rpartition("-")[2]) for p in runs.glob(f"{name}-*") if p.name[len(name) + 1 :].isdigit()]
    if resume and not numbers:
        raise InputError("--resume", f"no run of {name} in {runs}/", "name its folder with --out")
    return runs / f"{name}-{max(numbers, default=0) + (0 if resume else 1)}"


def _model_and_steps(text: str) -> tuple[str, int | None]:
    name, separator, number = text.rpartition(":")
    return (name, int(number)) if separator and number.isdigit() and int(number) > 0 else (text, None)


def _count(screen: _Screen, what: str, total: int, done: int) -> None:
    screen.count(what, done, total)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        if threads < 1:
            raise InputError("--threads", str(threads), "give 1 or more")
        import torch

        torch.set_num_threads(threads)


def _is_lead() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print_table(scores: dict[str, Any]) -> None:
    if not scores:
        return
    from rich.console import Console
    from rich.table import Table

    from .run.results import table

    header, *rows = table(scores)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for i, cell in enumerate(header):
        drawn.add_column(cell, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    Console(width=max(140, Console().width)).print(drawn)


class _Screen:
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

    def __enter__(self) -> _Screen:
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

    def _begin(self, what: str, total: int, position: int) -> None:
        """One bar at a time."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(what, total=total, completed=position)
        self.began = time.monotonic()

    def _show(self, what: str, done: int) -> None:
        """Move the bar; where there is no terminal to draw on, a line now and then."""
        self.progress.update(self.task, completed=done, description=what)
        now, total = time.monotonic(), self.progress.tasks[-1].total or done
        if not self.console.is_terminal and now - self.spoke > QUIET_SECONDS:
            self.spoke = now
            self.say(f"{what}: {done} of {total:.0f}, {now - self.began:.0f} s")

    def say(self, text: str) -> None:
        self.progress.print(text) if self.console.is_terminal else self.console.print(text)


if __name__ == "__main__":
    main()
