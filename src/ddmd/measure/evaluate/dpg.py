"""DPG-Bench's graph scoring: yes/no questions about each image, a child counting only where its parents do.

Two modes. `strict` is the protocol as described: every question counts, zeroed where any ancestor is. `official` gives the numbers
of the published script bit for bit, quirks included: the table's first row is dropped, a prompt one of whose questions depends on
a dropped one is lost, category scores come from unpropagated answers of an image's last crop alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError
from ...tables import read_table

Mode = Literal["official", "strict"]
CATEGORIES = ("global", "entity", "attribute", "relation", "other")
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
Answer = Callable[[Any, str], str]
"""(image, question) -> text; exactly "yes" counts."""


@dataclass(frozen=True)
class Question:
    """One node of a prompt's graph; `parents` are numbers of other questions of the prompt, 0 is none."""

    number: int
    parents: tuple[int, ...]
    category: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """One prompt with its graph."""

    id: str
    text: str
    questions: tuple[Question, ...]


def read_graphs(path: Path, mode: Mode = "strict") -> list[Prompt]:
    """The prompts of a DPG-Bench table. Raises InputError naming the file, the line and what is wrong."""
    names, rows = read_table(path)
    missing = [name for name in COLUMNS if name not in names]
    if missing or not rows:
        raise InputError(str(path), f"no column {missing[0]}" if missing else "no rows", "give dpg_bench.csv as published")
    grouped: dict[str, list[Question]] = defaultdict(list)
    texts: dict[str, str] = {}
    for kept in rows[1:] if mode == "official" else rows:
        row, line = kept.fields, kept.line
        lacking = [name for name in COLUMNS if name not in row]
        if lacking:
            raise InputError(f"{path}, line {line}", f"no {lacking[0]}", "give dpg_bench.csv as published")
        try:
            parents = tuple(int(part) for part in row["dependency"].split(","))
            number = int(row["proposition_id"])
        except ValueError:
            raise InputError(f"{path}, line {line}", "a number that is none", "give dpg_bench.csv as published") from None
        category = row["tuple"].split("(")[0].split("-")[0].strip().lower()
        grouped[row["item_id"]].append(Question(number, parents, category, row["question_natural_language"]))
        texts.setdefault(row["item_id"], row["text"])
    prompts = [Prompt(item, texts[item], tuple(questions)) for item, questions in grouped.items()]
    return [prompt for prompt in prompts if mode == "strict" or _whole(prompt)]


def _whole(prompt: Prompt) -> bool:
    """Whether every parent is there; the published script raises on the others, and loses them."""
    known = {0, *(question.number for question in prompt.questions)}
    return all(parent in known for question in prompt.questions for parent in question.parents)


def propagate(questions: Sequence[Question], answers: Mapping[int, float]) -> dict[int, float]:
    """Answers with those zeroed that hang on a zero, in the table's order, on scores already propagated."""
    scores = dict(answers)
    for question in questions:
        if any(parent and scores.get(parent, 0.0) == 0 for parent in question.parents):
            scores[question.number] = 0.0
    return scores


def ask(prompt: Prompt, crops: Sequence[Any], answer: Answer) -> list[dict[int, float]]:
    """Every question of every crop: 1 for exactly "yes", else 0."""
    return [{q.number: float(answer(crop, q.text) == "yes") for q in prompt.questions} for crop in crops]


def score(prompts: Sequence[Prompt], answers: Mapping[str, Sequence[Mapping[int, float]]], mode: Mode = "strict") -> dict[str, float]:
    """Overall and category scores, x 100, from the answers of each prompt's crops.

    Overall is the mean over prompts of the mean over crops of the mean of propagated answers. Categories pool unpropagated
    answers over questions: of the last crop (`official`), or of all crops (`strict`). So categories can all exceed the overall.
    """
    per_prompt, pooled = [], defaultdict(list)
    for prompt in prompts:
        if prompt.id not in answers:
            continue
        crops = answers[prompt.id]
        means = []
        for crop in crops:
            scores = propagate(prompt.questions, crop)
            means.append(sum(scores[q.number] for q in prompt.questions) / len(prompt.questions))
        per_prompt.append(sum(means) / len(means))
        for crop in crops[-1:] if mode == "official" else crops:
            for question in prompt.questions:
                pooled[question.category].append(crop[question.number])
    if not per_prompt:
        raise InputError("dpg", "no answered prompt", "give images whose names are the table's item ids")
    found = {"overall": 100 * sum(per_prompt) / len(per_prompt), "prompts": float(len(per_prompt))}
    return found | {name: 100 * sum(values) / len(values) for name in CATEGORIES if (values := pooled.get(name))}


def crops_of(image: Any, side: int) -> list[Any]:
    """The pictures of a grid of squares, row by row; a picture of one square is itself. Raises InputError for another size."""
    width, height = image.size
    if width % side or height % side:
        raise InputError("resolution", f"a picture of {width} x {height}", f"give grids of squares of {side} pixels")
    return [image.crop((x, y, x + side, y + side)) for y in range(0, height, side) for x in range(0, width, side)]
