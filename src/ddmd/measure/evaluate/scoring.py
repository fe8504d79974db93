"""Scorers over galleries: values are kept as they come, so that scoring resumes; pictures and features stream by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from ...files import write_atomic
from ...images import open_image, picture_files
from ...teachers.builtin.statistics import (
    FRECHET_LEAST,
    TooFewImages,
    bootstrap_interval,
    frechet_distance,
    frechet_remark,
    kernel_distance,
)
from ...teachers.pictures import PICTURES
from . import dpg
from .gallery import Gallery, batches, fault, read_ahead, require_whole
from .items import Item
from .scorers import SCORERS
from .scorers.features import Stream, patch
from .suites import Part, data_path, rated
from .wish import Progress, Wish

BATCH = 32  # images a scorer takes at once
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """Numbers, intervals of some of them, means by category, and what must be said of numbers, by their names."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, list[float]] = field(default_factory=dict)
    categories: Mapping[str, float] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Findings:
    """What was measured: numbers, intervals, remarks and category means by model; who measured; what could not be."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    remarks: dict[str, dict[str, str]] = field(default_factory=dict)
    categories: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    scorers: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def take(self, label: str, part: str, measured: Measured) -> None:
        """What was measured of one model."""
        self.scores.setdefault(label, {}).update(measured.numbers)
        self.intervals.setdefault(label, {}).update(measured.intervals)
        self.remarks.setdefault(label, {}).update(measured.remarks)
        if measured.categories:
            self.categories.setdefault(part, {})[label] = dict(measured.categories)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of results.json."""
        return {
            label: {**numbers, "intervals": self.intervals[label], "remarks": self.remarks[label]} for label, numbers in self.scores.items()
        }


class Scoring:
    """One open scorer at work on one part of a benchmark, for one gallery after another."""

    def __init__(
        self,
        name: str,
        scorer: Any,
        part: Part,
        items: Sequence[Item],
        wish: Wish,
        progress: Progress,
        *,
        real: Sequence[Path] = (),
    ) -> None:
        self.name, self.scorer, self.part, self.items, self.wish, self.progress = name, scorer, part, items, wish, progress
        self.real = real
        self.identity: dict[str, Any] = scorer.identity()
        self._against: dict[str, Stream] = {}

    def measure(self, gallery: Gallery) -> Measured:
        """The gallery's numbers; what it holds too few images for is left out, with a remark."""
        items = self.items or [Item(name, "") for name in gallery.images]
        pairs = gallery.pairs(items)
        if not pairs:
            return Measured(remarks={self.name: "left out: no usable image"})

        def told(done: int, total: int) -> None:
            self.progress(f"{self.name}, {gallery.label}", done, total)

        kind = SCORERS[self.name].kind
        if kind == "features":
            return self._distances([path for _, path in pairs], told)
        kept = Kept(self.wish.out / "scores" / self.name / f"{gallery.label}-{self.part.name}.jsonl", self.identity)
        if kind == "rating":
            return self._rated(items, self._rate(pairs, kept, told))
        return self._question(gallery, kept, told)

    def _rate(self, pairs: Sequence[tuple[Item, Path]], kept: Kept, told: Told) -> dict[str, list[float]]:
        """Item -> values of its images; what was rated before is not again."""
        keys = {path: kept.key(path, item.prompt) for item, path in pairs}
        todo = [(item, path) for item, path in pairs if keys[path] not in kept.values]
        done = len(pairs) - len(todo)
        for group, images in read_ahead(batches(todo, BATCH), lambda pair: open_image(pair[1])):
            values = self.scorer.rate(images, [item.prompt for item, _ in group])
            kept.add([(keys[path], value) for (_, path), value in zip(group, values, strict=True)])
            done += len(group)
            told(done, len(pairs))
        found: dict[str, list[float]] = {}
        for item, path in pairs:
            found.setdefault(item.id, []).append(kept.values[keys[path]])
        return found

    def _rated(self, items: Sequence[Item], values: Mapping[str, Sequence[float]]) -> Measured:
        """Means of the values that are numbers."""
        every = [value for found in values.values() for value in found]
        bad = sum(not math.isfinite(value) for value in every)
        remarks = {self.name: f"{bad} of {len(every)} values are no numbers and are left out"} if bad else {}
        return Measured(*rated(items, values, self.name), remarks=remarks)

    # ---- distances -----------------------------------------------------------------------------------------------------

    def _distances(self, paths: Sequence[Path], told: Told) -> Measured:
        """Frechet distance of whole pictures and, for FID, of centre patches; kernel distance."""
        self._against = self._against or self._reference()
        streams = self._streams(paths, told)
        frechet, kernel = ("fid", "kid") if self.name == "inception" else (f"frechet_{self.name}", f"kid_{self.name}")
        numbers: dict[str, float] = {}
        intervals, remarks = {}, {}
        for what, stream in streams.items():
            name, n = f"{what}{frechet}", min(stream.count, self._against[what].count)
            if n < FRECHET_LEAST:
                remarks[name] = f"left out: {n} images, {FRECHET_LEAST} or more are needed"
                continue
            numbers[name] = frechet_distance(*stream.moments(), *self._against[what].moments())
            if remark := frechet_remark(n, stream.width):
                remarks[name] = remark
        try:
            numbers[kernel], intervals[kernel] = kernel_distance(self._against[""].kept, streams[""].kept)
        except TooFewImages as error:
            remarks[kernel] = f"left out: {error.found}, {error.mend}"
        if lost := len(paths) - streams[""].count:
            remarks["images"] = f"the features of {lost} are no numbers: left out"
        counts = {"images": streams[""].count, "reference_images": self._against[""].count}
        return Measured({**numbers, **counts}, intervals, remarks=remarks)

    def _reference(self) -> dict[str, Stream]:
        return self._streams(self.real, lambda done, total: self.progress(f"{self.name}, reference", done, total))

    def _streams(self, paths: Sequence[Path], told: Told) -> dict[str, Stream]:
        """Statistics of features by what is looked at; two batches of pictures are in memory at a time."""
        streams = {"": Stream(self.scorer.width)} | ({"patch_": Stream(self.scorer.width)} if self.name == "inception" else {})
        done = 0
        for _, images in read_ahead(batches(paths, BATCH), lambda path: open_image(path)):
            streams[""].add(self.scorer.features(images))
            if "patch_" in streams:
                streams["patch_"].add(self.scorer.features([patch(image) for image in images]))
            done += len(images)
            told(done, len(paths))
        return streams

    # ---- questions -----------------------------------------------------------------------------------------------------

    def _question(self, gallery: Gallery, kept: Kept, told: Told) -> Measured:
        """DPG-Bench: every question of every image; a single image named by its prompt alone is a grid of squares."""
        assert self.wish.data is not None  # a gallery without prompts is never asked
        known = {item.id for item in self.items} & set(gallery.images)
        graphs = [graph for graph in dpg.read_graphs(data_path(self.wish.data, self.part), self.wish.mode) if graph.id in known]
        answers: dict[str, list[dict[int, float]]] = {}
        for done, graph in enumerate(graphs, 1):
            answers[graph.id] = [row for path in gallery.images[graph.id] for row in self._answers(graph, path, kept)]
            told(done, len(graphs))
        found = dpg.score(graphs, answers, self.wish.mode)
        each = torch.tensor([dpg.score([graph], answers, self.wish.mode)["overall"] for graph in graphs], dtype=torch.float64)
        numbers = {"dpg": found.pop("overall"), "dpg_prompts": found.pop("prompts")}
        interval = bootstrap_interval(each, reach=(0.0, 100.0))
        return Measured(numbers, {"dpg": interval} if interval else {}, found)

    def _answers(self, graph: dpg.Prompt, path: Path, kept: Kept) -> list[dict[int, float]]:
        """One row of answers for each square of a picture."""
        questions = [question.text for question in graph.questions]
        key = kept.key(path, json.dumps(questions))
        if key not in kept.values:
            image = open_image(path)
            grid = self.part.copies > 1 and path.stem == graph.id
            crops = dpg.crops_of(image, self.wish.resolution or image.width // 2) if grid else [image]
            kept.add([(key, [[float(said == "yes") for said in self.scorer.answer(crop, questions)] for crop in crops])])
        numbers = [question.number for question in graph.questions]
        return [dict(zip(numbers, row, strict=True)) for row in kept.values[key]]


class Kept:
    """Values that a scorer gave before, in a file of JSON lines whose first is the scorer's identity; another scorer's are dropped."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, header = path, json.dumps(identity, sort_keys=True)
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        whole = [line for line in lines[1:] if line.endswith("]")] if lines[:1] == [header] else []  # a kill may tear the last one
        self.values: dict[str, Any] = {}
        for line in whole:
            try:
                key, value = json.loads(line)
            except (ValueError, TypeError):
                continue  # damaged: it is asked for again
            self.values[key] = value
        write_atomic(path, "".join(f"{line}\n" for line in [header, *map(json.dumps, self.values.items())]))

    def key(self, path: Path, asked: str) -> str:
        """An image, which its size and time tell from an older one of its name, with what was asked of it."""
        facts = path.stat()
        return f"{path.name} {facts.st_size} {facts.st_mtime_ns} {asked}"

    def add(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """Keep values."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(pair) + "\n" for pair in pairs)
        self.values.update(pairs)


def reference_files(folder: Path | None) -> list[Path]:
    """The pictures of a folder that distances are to be taken to. Raises InputError for fewer than two."""
    if folder is None or not folder.is_dir():
        raise InputError("--reference", "nothing" if folder is None else f"no folder {folder}", "give a folder of real images")
    paths = picture_files(folder, PICTURES)
    if len(paths) < 2:
        raise InputError("--reference", f"{len(paths)} images in {folder}", "give a folder of real images, thousands if you can")
    return paths


def real_images(wish: Wish, progress: Progress) -> tuple[list[Path], list[str]]:
    """The images that distances are taken to, and what was wrong with others.

    Raises InputError for fewer than two, and for damaged ones unless told to skip them.
    """
    paths = reference_files(wish.reference)
    found, problems = [], []
    for group, reasons in read_ahead(batches(paths, BATCH), lambda path: fault(path, None)):
        for path, reason in zip(group, reasons, strict=True):
            if reason:
                problems.append(f"{path.name}: {reason}")
            else:
                found.append(path)
        progress("checking the reference", len(found) + len(problems), len(paths))
    require_whole(f"--reference {wish.reference}", problems, wish.skip_bad)
    if len(found) < 2:
        raise InputError("--reference", f"{len(found)} whole images in {wish.reference}", "give a folder of real images")
    return found, problems
