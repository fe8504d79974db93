"""The door: the `ddmd` command. The only place that prints; heavy libraries are imported inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands.data import builtin, cache
from .commands.measure import evaluate, generate, scorer
from .commands.screen import MOST_GUIDANCE, MOST_STEPS, Out, Screen, Seed, Threads, check_address, print_table, set_threads
from .commands.study import app as study
from .devices import launch
from .errors import InputError, as_input_error, one_line
from .extras import require

# typer keeps its own copy of click, or takes the installed one: either way the public error derives from it.
USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="ddmd", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Decoupled DMD: turn a slow text-to-image diffusion or flow teacher into a 4- or 8-step student.",
)  # fmt: skip
TOGETHER = ("distill", "generate")  # what torchrun's processes share; every other command is one process's
app.add_typer(builtin, name="builtin")
app.add_typer(cache, name="cache")
app.add_typer(scorer, name="scorer")
app.add_typer(study, name="study")


def main() -> None:
    """Run the command line: exit code 0 on success, 2 on bad input (one line), 1 on a failure of ours, 130 when interrupted."""
    try:
        code = app(prog_name="ddmd", standalone_mode=False)
    except USAGE_ERROR as error:
        if not str(error.format_message()).strip() or type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # a command without its words is asked for help
            sys.exit(2)
        command = error.ctx.command_path if getattr(error, "ctx", None) else "ddmd"
        _end(f"{error.format_message().rstrip('.')}; see `{command} --help`", 2)
    except (KeyboardInterrupt, typer.Abort):
        _end("interrupted", 130)
    except Exception as error:
        found = error if isinstance(error, InputError) else as_input_error(error)
        if found is None:
            raise
        _end(str(found), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _end(message: str, code: int) -> None:
    print(f"ddmd: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False
) -> None:
    if version:
        from . import __version__

        print(f"ddmd {__version__}")
        raise typer.Exit
    command, processes = context.invoked_subcommand, launch().processes
    if processes > 1 and command not in (None, *TOGETHER):
        raise InputError(f"ddmd {command}", f"{processes} processes, which would all do the same work", "start it without torchrun")


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
    set_threads(threads)
    from .run.finish import finish
    from .run.results import table
    from .run.train import Interrupted, NonFiniteLoss, Training

    with Screen(show=_is_lead()) as screen:
        training = Training(resolved, folder, screen, resume)
        screen.say(f"{resolved.name}: {resolved.about}\nwriting to {folder}")
        again = " ".join(["ddmd distill", recipe, *(overrides or []), "--out", str(folder), "--resume"])
        try:
            training.run()
        except Interrupted:
            screen.say(f"interrupted at cycle {training.cycle}; saved. Go on with:  {again}")
            raise typer.Exit(130) from None
        except NonFiniteLoss as error:
            screen.say(f"stopped: {error}. {training.last_checkpoint()}; lower optim.student_lr or objective.alpha.")
            raise typer.Exit(1) from None
        if training.lead:
            results = finish(training, screen.count)
            screen.close()
            print_table(table(results["scores"]))
            screen.say(f"student:  {folder / 'student'}\nreport:   {folder / 'report.html'}")


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="A run's folder, a pipeline's folder, or an embedded teacher's name.")],
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to draw; repeat for several. Empty is the unconditional.")],
    steps: Annotated[int | None, typer.Option(min=1, max=MOST_STEPS, help="Steps; a student's own, or 50.")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=1, max=MOST_GUIDANCE, help="Guidance scale alpha; 1 for a student, 3 for a teacher.")
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Another model to draw in a row above, as MODEL or MODEL:STEPS; repeat for several.")
    ] = None,
) -> None:
    """Draw images from prompts."""
    from .files import write_atomic
    from .measure.sample import check_picture_name, draw
    from .run.pictures import check_picture, picture_bytes, strips, to_pil

    path = out or Path("sample.png")
    check_picture_name(path)
    check_picture(path)
    rows: dict[str, Any] = {}
    with Screen() as screen:
        settings = [(*_model_and_steps(other), None) for other in beside or []] + [(model, steps, guidance)]
        for name, count, scale in settings:
            label, images, seconds = draw(name, prompt, count, scale, seed, screen.counter(name, len(prompt)))
            rows[label] = images
            screen.say(f"{label.replace(chr(10), ', ')}: {seconds:.3f} s an image")
    single = not beside and len(prompt) == 1
    picture = to_pil(images[0]) if single else strips(rows, whole=True)
    write_atomic(path, picture_bytes(picture, path.suffix.lower()))
    print(path)


@app.command()
def demo(
    teacher: Annotated[str, typer.Argument(help="An embedded teacher's name or a pipeline's folder.")] = "emoji",
    student: Annotated[str, typer.Argument(help="Its student: a run's folder, or a shipped one's name.")] = "emoji-student",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """A local page that draws a sentence by a teacher and its student side by side (the extra `demo`)."""
    require("demo")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from .measure.demo import Pair, page

    examples = {"shapes": "a large striped red circle", "pairs": "a large striped red circle left of a small blue star"}
    prompt = examples.get(teacher, "a fluent emoji of a red apple")
    check_address(host, port)
    page(Pair.open(teacher, student), prompt).launch(server_name=host, server_port=port, share=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, finished or not.")],
    to: Annotated[str, typer.Option("--to", help="diffusers (a pipeline), lora or comfyui (an adapter).")] = "diffusers",
    out: Out = None,
) -> None:
    """Write a run's student for others to open."""
    from .run.export import export_run

    with Screen() as screen:
        print(export_run(run, to, out or run / f"export-{to}", screen.say))


app.command()(evaluate)
app.command()(generate)


@app.command()
def lab(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="fig2, fig3, fig4a, fig4b, table1, table2, baking or sensitivity.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every run; recipe=NAME varies another recipe.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Seeds, from 0 on.")] = 5,
    out: Out = None,
    runs: Annotated[Path, typer.Option(help="Where runs lie; experiments share those that they have in common.")] = Path("runs/lab"),
    quick: Annotated[bool, typer.Option("--quick", help="Shorter runs, 300 report prompts.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, max=1024, help="Runs at once; one a core, or one on a GPU, when not given.")] = None,
) -> None:
    """One of the paper's experiments, on any recipe; a killed one goes on by the same command, finished runs are re-used."""
    require("lab")
    from .files import claim
    from .measure.lab.cases import make_cases
    from .measure.lab.experiments import experiment

    found, folder = experiment(name), out or Path("runs") / f"lab-{name}{'-quick' * quick}"
    claim(folder, ("results.json", "index.html", "*.csv", "*.png", "*.jpg"))
    cases = make_cases(found, overrides or [], seeds, runs, quick)
    command = " ".join(["ddmd lab", name, *(overrides or []), f"--seeds {seeds}", *(["--quick"] if quick else [])])
    from .measure.lab.page import write_page
    from .measure.lab.runner import default_jobs, run_all
    from .run.train import Interrupted

    with Screen() as screen:
        screen.say(f"{name}: {found.about}\n{len(cases)} runs, {sum(case.finished for case in cases)} of them finished, in {runs}")
        try:
            run_all(cases, jobs or default_jobs(), screen.count)
        except (Interrupted, KeyboardInterrupt):
            screen.say(f"interrupted; go on with:  {command} --out {folder} --runs {runs}")
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
        print(f"{name:<22}{found}")
    for problem in report.problems:
        print(f"missing: {problem}")
    if recipe is not None:
        _print_estimate(recipe, overrides or [])
    if report.problems:
        raise typer.Exit(2)


def _print_estimate(recipe: str, overrides: list[str]) -> None:
    from .measure.memory import estimate
    from .run.recipe import load_recipe

    asked = load_recipe(recipe, overrides)
    found = estimate(asked)
    print(f"\n{recipe} holds:")
    _print_sizes({**found.parts, "in all": found.total})

    from .measure.rehearsal import rehearse
    from .quiet import quiet_libraries

    quiet_libraries()
    with Screen() as screen:
        peaks = rehearse(asked, lambda stage, done, total: screen.count(f"rehearsing {stage}", done, total))
    whole = ", for one process: optim.sharded divides weights, gradients and moments by torchrun's processes" if asked.optim.sharded else ""
    print(f"at its peaks, rehearsed on tensors without contents{whole}:")
    _print_sizes({**peaks, "the most": max(peaks.values())})
    print("less memory: " + (", ".join(found.savings) or "nothing more to set"))


def _print_sizes(sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        print(f"  {name:<38}{size / 2**30:9.3f} GiB")


def run_folder(name: str, resume: bool) -> Path:
    """runs/<recipe>-<n>: the next free number, or the newest when resuming."""
    runs = Path("runs")
    numbers = [int(p.name.rpartition("-")[2]) for p in runs.glob(f"{name}-*") if p.name[len(name) + 1 :].isdigit()]
    if resume and not numbers:
        raise InputError("--resume", f"no run of {name} in {runs}/", "name its folder with --out")
    return runs / f"{name}-{max(numbers, default=0) + (0 if resume else 1)}"


def _model_and_steps(text: str) -> tuple[str, int | None]:
    name, separator, number = text.rpartition(":")
    return (
        (name, int(number)) if separator and number.isdecimal() and 0 < len(number) < 5 and 0 < int(number) <= MOST_STEPS else (text, None)
    )


def _is_lead() -> bool:
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    main()
