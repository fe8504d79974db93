"""`ddmd study`: blind user studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..extras import require
from .screen import Out, Screen, Seed, check_address

app = typer.Typer(no_args_is_help=True, help="Blind user studies: ranking and side-by-side comparison on a web page.")

Study = Annotated[Path, typer.Argument(help="The study's folder.")]


@app.command("new")
def study_new(
    folder: Study,
    more: Annotated[list[str] | None, typer.Argument(metavar="[NAME=DIR]...", help="More models, after --images.")] = None,
    images: Annotated[list[str] | None, typer.Option("--images", metavar="NAME=DIR", help="A model and its images, one a prompt.")] = None,
    prompts: Annotated[Path, typer.Option(help="The prompts, in the order of the images.")] = Path("prompts.txt"),
    kind: Annotated[str, typer.Option(help="ranking (all models, each prompt) or sidebyside (the last against each other).")] = "ranking",
    n: Annotated[int, typer.Option("--n", min=1, help="Prompts to draw.")] = 500,
    seed: Seed = 0,
    annotators: Annotated[int, typer.Option(min=1, max=10_000, help="Links to make.")] = 10,
    judges: Annotated[int, typer.Option(min=1, help="Ranking: annotators who see each item; two or more measure agreement.")] = 1,
    checks: Annotated[int, typer.Option(min=0, help="Ranking: attention checks, with one spoiled image, for everybody.")] = 0,
    repeats: Annotated[int, typer.Option(min=0, help="Ranking: items shown a second time.")] = 0,
    reason: Annotated[bool, typer.Option("--reason", help="Ranking: ask for a written reason (side by side always does).")] = False,
) -> None:
    """Make a study from folders of images: ddmd study new STUDY --images A=DIR B=DIR --prompts FILE."""
    from typing import cast

    from ..measure.study.blinding import giveaways
    from ..measure.study.plan import Kind, Wish, find_images, new_study
    from ..teachers.prompt_files import read_prompts

    found: dict[str, Path] = {}
    for text in [*(images or []), *(more or [])]:
        name, separator, place = text.partition("=")
        if not separator or not name or not place:
            raise InputError("--images", repr(text), "write NAME=DIR")
        if name in found:
            raise InputError("--images", f"{name} twice", "give each model a name of its own")
        found[name] = Path(place)
    wish = Wish(cast(Kind, kind), n, seed, annotators, judges, checks, repeats, reason)
    with Screen() as screen:
        plan = new_study(folder, found, prompts, wish, lambda done, total: screen.count("copying images", done, total))
    texts = read_prompts(prompts)
    notes = giveaways({model: find_images(source, texts) for model, source in found.items()})
    idle = sum(not hand for hand in plan.annotators.values())
    if idle:
        notes.append(f"{idle} of {len(plan.annotators)} annotators have nothing to judge: there are fewer items")
    for note in notes:
        print(f"note: {note}")
    print(f"{folder}: {len(plan.items)} items, {len(plan.annotators)} annotators. Next:  ddmd study serve {folder}")


@app.command("serve")
def study_serve(
    folder: Study,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve a study; prints one link for each annotator."""
    require("study")
    from ..measure.study.plan import Plan
    from ..measure.study.server import serve

    links = Plan.load(folder).annotators
    check_address(host, port)
    for number, token in enumerate(links, 1):
        print(f"annotator {number}: http://{host}:{port}/a/{token}/", flush=True)
    serve(folder, host, port)


@app.command("report")
def study_report(
    folder: Study,
    out: Out = None,
    votes: Annotated[Path | None, typer.Option("--csv", help="Votes made elsewhere: item,annotator,model,rank[,reason].")] = None,
) -> None:
    """Tables, tests and plots of a study; with --csv, of one that was run elsewhere."""
    require("study")
    from ..measure.study.report import find, read_csv, read_study, write_report

    checks = repeats = None
    if votes is not None:
        kind, rankings = read_csv(votes)
    else:
        kind, rankings, checks, repeats = read_study(folder)
    found = find(kind, rankings)
    found.checks, found.repeats = checks, repeats
    place = out or folder / "report"
    if votes is not None and votes.resolve().parent == place.resolve():
        raise InputError("--out", f"{place}, where --csv lies, too", "give another folder")
    print(write_report(place, found, rankings))
