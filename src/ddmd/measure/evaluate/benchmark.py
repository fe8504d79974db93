"""A benchmark from models to tables, in steps apart: draw, score (one scorer in memory at a time), report. Each step resumes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import claim, write_json
from ...images import picture_files
from ...run.results import results_object, teacher_setting
from ...teachers.pictures import PICTURES
from . import open_model, resolve, student_setting
from .artists import DenoiserArtist
from .comparators import open_comparator, parse
from .gallery import Gallery, find_images, require_whole
from .generate import Artist, generate, speed
from .items import Item
from .report import write_tables
from .scorers import SCORERS, MissingScorer, check_files, open_scorer
from .scoring import Findings, Measured, Scoring, real_images, reference_files
from .suites import Part, Suite, data_path, suite
from .wish import Progress, Say, Wish


def run_benchmark(name: str, wish: Wish, progress: Progress, say: Say) -> dict[str, Any]:
    """Draw what is missing, score, and write results.json, table.md, table.tex and index.html into `wish.out`."""
    wanted = suite(name)
    claim(wish.out, ("results.json", "table.md", "table.tex", "index.html", "scores"))
    alone = sum(len(part.scorers) for part in wanted.parts) == 1
    if wanted.reference:
        reference_files(wish.reference)
    found = Findings()
    _check_scorers(wanted, wish, found, say)
    every = {part.name: _items(part, wish) for part in wanted.parts}
    items = {part: prompts[: wish.limit] for part, prompts in every.items()}
    distances = {_chosen(choice, wish) for part in wanted.parts for choice in part.scorers} - found.skipped.keys()
    distances = {scorer for scorer in distances if SCORERS[scorer].kind == "features"}
    real, unreal = real_images(wish, progress) if distances else ([], [])  # before hours of drawing
    galleries = draw(wanted, wish, every, progress)
    for part in wanted.parts:
        for choice in part.scorers:
            chosen = _chosen(choice, wish)
            if chosen in found.skipped:
                continue
            try:
                scorer = open_scorer(chosen, wish.paths.get(chosen, {}))
            except MissingScorer as error:
                if alone:
                    raise
                found.skipped[chosen] = str(error)
                say(f"not scored: {error}")
                continue
            try:
                scoring = Scoring(chosen, scorer, part, items[part.name], wish, progress, real=real)
                found.scorers[chosen] = scoring.identity
                for gallery in galleries[part.name]:
                    found.take(gallery.label, part.name, scoring.measure(gallery))
            finally:
                scorer.close()
    for part in wanted.parts:
        for gallery in galleries[part.name]:
            numbers = {**speed(_place(wish, gallery.label, part)), "skipped": gallery.missing}
            found.take(gallery.label, part.name, Measured(numbers))
    rows = found.rows()
    problems = {f"{g.label}/{p.name}": g.problems for p in wanted.parts for g in galleries[p.name] if g.problems}
    problems |= {"--reference": unreal} if unreal else {}
    results = results_object(
        name, wish.seed, rows, about=wanted.about, models=list(wish.models), categories=found.categories, scorers=found.scorers,
        not_scored=found.skipped, problems=problems,
    )  # fmt: skip
    write_json(wish.out / "results.json", results)
    write_tables(wish.out, name, results, {p.name: (items[p.name], galleries[p.name]) for p in wanted.parts})
    return results


def _check_scorers(wanted: Suite, wish: Wish, found: Findings, say: Say) -> None:
    """What lacks for scoring is said before any drawing. Raises MissingScorer where no scorer is left."""
    chosen = [_chosen(choice, wish) for part in wanted.parts for choice in part.scorers]
    for name in chosen:
        try:
            check_files(name, wish.paths.get(name, {}))
        except MissingScorer as error:
            found.skipped[name] = str(error)
            if len(found.skipped) == len(set(chosen)):
                raise
            say(f"not scored: {error}")


def _chosen(choice: Sequence[str], wish: Wish) -> str:
    """The first scorer of a choice that was given its files, else the last."""
    return next((name for name in choice if name in wish.paths), choice[-1])


def draw_only(name: str, wish: Wish, progress: Progress) -> None:
    """Draw this shard's images of a benchmark."""
    wanted = suite(name)
    for model, label in zip(wish.models, labels_of(wish.models)):
        if is_gallery(model):
            raise InputError(model, "a folder of images", "give models to draw with; `ddmd evaluate` scores images")
        artist = open_artist(model, label, wish)
        for part in wanted.parts:
            _draw(artist, part, wish, _items(part, wish)[: wish.limit], label, progress)


def _items(part: Part, wish: Wish) -> list[Item]:
    if wish.data is None:
        if part.name != "images":
            raise InputError("--data", "nothing", "give the benchmark's prompts (docs/evaluation.md says where they are published)")
        return []
    return list(part.read(data_path(wish.data, part)))


def draw(wanted: Suite, wish: Wish, items: Mapping[str, list[Item]], progress: Progress) -> dict[str, list[Gallery]]:
    """Every model's images of every part: found where MODEL is a folder of them, drawn where it is a model.

    `items` are all that there are; only the first `wish.limit` are asked for.
    """
    galleries: dict[str, list[Gallery]] = {part.name: [] for part in wanted.parts}
    for model, label in zip(wish.models, labels_of(wish.models)):
        ready = is_gallery(model)
        artist = None if ready else open_artist(model, label, wish)
        for part in wanted.parts:
            folder = Path(model) if ready else _place(wish, label, part)
            own = Path(model) / part.name  # of several parts
            folder = own if ready and len(wanted.parts) > 1 and own.is_dir() else folder
            if artist is not None:
                _draw(artist, part, wish, items[part.name][: wish.limit], label, progress)
            known = items[part.name] or _numbered(folder)
            asked, rest = known[: wish.limit], known[len(known[: wish.limit]) :]
            passed = [item.id for item in rest]
            gallery = find_images(label, folder, asked, part.copies, wish.resolution, passed=passed)
            require_whole(str(folder), gallery.problems, wish.skip_bad)
            galleries[part.name].append(gallery)
    return galleries


def _draw(artist: Artist, part: Part, wish: Wish, items: Sequence[Item], label: str, progress: Progress) -> None:
    if not items:
        raise InputError("--data", "nothing", "a model needs prompts to draw; folders of images alone can do without")

    def told(done: int, total: int) -> None:
        progress(f"drawing {part.name}, {label}", done, total)

    generate(artist, items, _place(wish, label, part), part.copies, wish.seed, wish.batch, told, wish.shard)


def labels_of(models: Sequence[str]) -> list[str]:
    """A short name for each model. Raises InputError where two are alike."""
    labels = [kind[0] if (kind := parse(model)) else Path(model.rstrip("/")).name for model in models]
    if len(set(labels)) < len(labels):
        raise InputError("MODEL", f"models of one name, {', '.join(labels)}", "give folders of different names")
    return labels


def is_gallery(model: str) -> bool:
    """Whether a model is a folder of images made elsewhere."""
    folder = Path(model)
    if not folder.is_dir() or (folder / "model_index.json").is_file() or (folder / "recipe.yaml").is_file():
        return False
    return bool(picture_files(folder, PICTURES, deep=True))


def open_artist(model: str, label: str, wish: Wish) -> Artist:
    """A comparator (KIND:PATH), a student by its own settings, or a teacher by `wish.setting`."""
    if (kind := parse(model)) is not None:
        return open_comparator(*kind, wish.base)
    folder = resolve(model)
    denoiser, own, asked = open_model(folder), student_setting(folder), wish.setting
    assert asked is not None, "a wish has a teacher's setting"
    return DenoiserArtist(label, folder, denoiser, own or teacher_setting(denoiser, asked.steps, asked.guidance))


def _place(wish: Wish, label: str, part: Part) -> Path:
    return wish.out / "images" / label / part.name


def _numbered(folder: Path) -> list[Item]:
    """Without prompts: every numbered image is an item."""
    numbers = {int(found[-1]) for path in picture_files(folder, PICTURES) if (found := re.findall(r"\d+", path.stem))}
    return [Item(f"{number:06d}", "") for number in sorted(numbers)]
