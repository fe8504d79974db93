"""`ddmd cache` and `ddmd builtin`: real images for GAN terms, and the embedded teachers' own pictures and weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..devices import best_device
from ..errors import InputError
from .screen import LARGEST, LARGEST_BATCH, MOST_GUIDANCE, MOST_STEPS, SMALLEST, Out, Screen, Seed, Threads, set_threads

builtin = typer.Typer(no_args_is_help=True, help="Fetch, train and pack what the embedded teachers are made of.")
cache = typer.Typer(no_args_is_help=True, help="Real images for GAN terms, as latents on disk (train.reals).")

Teacher = Annotated[str, typer.Argument(help="A pipeline's folder or an embedded teacher's name.")]
Resolution = Annotated[int | None, typer.Option(min=SMALLEST, max=LARGEST, help="Pixels on a side; the model's own when not given.")]


@cache.command("latents")
def cache_latents(
    model: Teacher,
    images: Annotated[Path, typer.Argument(help="A folder of captioned pictures, a WebDataset .tar, or a folder of them.")],
    out: Out = None,
    resolution: Resolution = None,
) -> None:
    """Encode captioned pictures by a model's autoencoder; run it again to go on after an interruption."""
    from ..teachers.builtin import model_folder
    from ..teachers.denoisers import load_denoiser
    from ..teachers.pictures import find_pictures
    from ..teachers.reals import cache_pictures

    pictures = find_pictures(images)
    denoiser = load_denoiser(model_folder(model), resolution)
    denoiser.move(best_device())
    folder = out or Path("reals")
    with Screen() as screen:
        print(cache_pictures(denoiser, pictures, folder, screen.counter("encoding", len(pictures))))


@cache.command("samples")
def cache_teacher_samples(
    model: Teacher,
    prompts: Annotated[Path, typer.Argument(help="A file of prompts (txt, jsonl, json, csv, tsv, parquet) or a saved dataset.")],
    out: Out = None,
    resolution: Resolution = None,
    steps: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="The teacher's steps.")] = 50,
    guidance: Annotated[float, typer.Option(min=1, max=MOST_GUIDANCE, help="The teacher's guidance scale alpha.")] = 3.0,
    seed: Seed = 0,
) -> None:
    """Draw a teacher's own pictures of prompts; run it again to go on after an interruption."""
    from ..teachers.builtin import model_folder
    from ..teachers.denoisers import load_denoiser
    from ..teachers.prompt_files import read_prompts
    from ..teachers.reals import cache_samples

    texts = read_prompts(prompts)
    denoiser = load_denoiser(model_folder(model), resolution)
    place = best_device()
    denoiser.move(place)
    denoiser.network.to(place)
    folder = out or Path("reals")
    with Screen() as screen:
        print(cache_samples(denoiser, texts, folder, steps, guidance, seed, screen.counter("drawing", len(texts))))


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
    from ..teachers.builtin.emoji.pictures import fetch

    with Screen() as screen:
        print(fetch(out or _pictures_folder(size), size, source, screen.count, screen.say))


def _pictures_folder(size: int) -> Path:
    from ..teachers.builtin import cache_folder

    return cache_folder() / f"emoji-pictures-{size}"


@builtin.command("train")
def builtin_train(
    name: Annotated[
        str, typer.Argument(help="shapes, pairs, either with -verifier, emoji (the autoencoder, then the teacher) or emoji-judge.")
    ],
    out: Out = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; the shipped weights' number when not given.")] = None,
    start: Annotated[Path | None, typer.Option(help="Begin with the weights of this pipeline folder.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_BATCH, help="A teacher's pictures a step; the recipe's when not given.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="A teacher's highest learning rate; the recipe's when not given.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Emoji: the folder that `ddmd builtin fetch` wrote.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Train an embedded teacher, verifier or judge; a teacher's training goes on from what is in --out."""
    set_threads(threads)
    from ..teachers.builtin.emoji.make import make_judge
    from ..teachers.builtin.emoji.make import make_teacher as make_emoji
    from ..teachers.builtin.shapes.make import make_teacher as make_drawn
    from ..teachers.builtin.shapes.make import make_verifier
    from ..teachers.builtin.shapes.worlds import WORLDS

    found = pictures or _pictures_folder(64)
    makers: dict[str, Any] = {"emoji": partial(make_emoji, found), "emoji-judge": partial(make_judge, found)}
    for world in WORLDS:
        makers |= {world: partial(make_drawn, world), f"{world}-verifier": partial(make_verifier, world)}
    if name not in makers:
        raise InputError("builtin train", repr(name), f"use one of {', '.join(makers)}")
    if lr is not None and not 0 < lr <= 1:
        raise InputError("--lr", str(lr), "give a number above 0, at most 1")
    folder = out or Path("runs") / f"builtin-{name}"
    given = {"steps": steps, "batch": batch, "lr": lr}
    changes = {"seed": seed} | {key: value for key, value in given.items() if value is not None}
    with Screen() as screen:
        made = makers[name](folder, changes, start, lambda done, total, loss: screen.count(f"{name}, loss {loss:.4f}", done, total))
    print(made)


@builtin.command("pack")
def builtin_pack(pipeline: Annotated[Path, typer.Argument(help="A trained emoji pipeline, or a student of one.")], out: Out = None) -> None:
    """Write the parts of an emoji pipeline that ship with ddmd: half precision, without the text encoder."""
    from ..teachers.builtin.emoji.make import pack

    print(pack(pipeline, out or Path("packed")))
