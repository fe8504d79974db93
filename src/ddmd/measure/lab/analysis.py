"""From finished cases to tidy tables: scores, curves over training, and differences with paired bootstrap intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...run.logs import metric_rows
from ...teachers.builtin import load_suite
from .cases import Case
from .experiments import Experiment
from .probes import likeness_table

BOOTSTRAP = 2000
SHOWN_SCORES = (
    "overall", "entity", "attribute", "relation", "global", "frechet", "text_image", "recall", "style", "kid_lite0", "mean", "std",
    "saturation", "detail", "clipped",
)  # fmt: skip
COSTS = ("train_seconds", "cycle_gib")  # shown where memory was asked for
Rows = list[dict[str, Any]]


def score_rows(cases: Sequence[Case]) -> Rows:
    """One row a case, seed and score; scores after matching mean and variance are named `matched_...`."""
    rows = []
    for case in cases:
        found = case.result()
        scores = {**found["scores"], **{f"matched_{k}": v for k, v in (case.probed("matched") or {}).items()}}
        scores |= {"train_seconds": found["train_seconds"], "alarms": len(found["alarms"]), **(case.probed("memory") or {})}
        rows += [
            {"case": case.label, "seed": case.seed, "score": name, "value": value} for name, value in scores.items() if value is not None
        ]
    return rows


def curve_rows(cases: Sequence[Case]) -> Rows:
    """One row a case, seed, cycle and logged number."""
    rows = []
    for case in cases:
        for entry in metric_rows(case.folder / "metrics.jsonl"):
            rows += [
                {"case": case.label, "seed": case.seed, "cycle": entry["cycle"], "name": name, "value": value}
                for name, value in entry.items()
                if name not in ("cycle", "seconds") and value is not None  # a number that was not finite
            ]
    return rows


def probe_rows(cases: Sequence[Case], probe: str) -> Rows:
    """What a probe over training measured, with case and seed."""
    return [{"case": case.label, "seed": case.seed, **row} for case in cases for row in case.probed(probe) or []]


def summary(rows: Rows) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Case -> score -> mean and standard deviation over seeds, and their number."""
    grouped: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        grouped.setdefault(row["case"], {}).setdefault(row["score"], []).append(row["value"])
    return {
        case: {name: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0, len(v)) for name, v in scores.items()}
        for case, scores in grouped.items()
    }


def differences(cases: Sequence[Case], reference: str | None) -> Rows:
    """Each case's main score less the reference's, on the same seeds and prompts, with 95 % intervals by drawing both anew."""
    each = {(case.label, case.seed): case.samples().get("each") for case in cases}
    if reference is None or any(value is None for value in each.values()):
        return []
    rows = []
    for label in dict.fromkeys(case.label for case in cases):
        seeds = sorted(seed for name, seed in each if name == label and (reference, seed) in each)
        if label == reference or not seeds:
            continue
        paired = np.stack([(each[label, seed] - each[reference, seed]).numpy() for seed in seeds])  # type: ignore[operator]
        low, high = paired_interval(paired)
        rows.append(
            {"case": label, "reference": reference, "difference": float(paired.mean()), "low": low, "high": high, "seeds": len(seeds)}
        )
    return rows


def paired_interval(paired: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of paired differences (seeds, prompts): seeds and prompts are both drawn with replacement."""
    chance = np.random.default_rng(0)
    seeds, prompts = paired.shape
    means = []
    for _ in range(BOOTSTRAP):
        drawn = paired[chance.integers(seeds, size=seeds)].mean(0)
        means.append(drawn[chance.integers(prompts, size=prompts)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def effects(rows: Rows, reference: str | None) -> Rows:
    """Every score of every case less the reference's on the same seed: means with 95 % intervals of Student's t over seeds."""
    from scipy import stats

    values = {(row["case"], row["score"], row["seed"]): row["value"] for row in rows}
    found = []
    for case, score in dict.fromkeys((row["case"], row["score"]) for row in rows):
        pairs = [(values[case, score, seed], values[reference, score, seed]) for c, s, seed in values
                 if (c, s) == (case, score) and (reference, score, seed) in values]  # fmt: skip
        if case == reference or len(pairs) < 2:
            continue
        apart = np.array([a - b for a, b in pairs])
        mean, reach = apart.mean(), stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart))
        found.append({
            "case": case, "reference": reference, "score": score, "difference": float(mean), "low": float(mean - reach),
            "high": float(mean + reach), "seeds": len(apart),
        })  # fmt: skip
    return found


def effect_table(rows: Rows) -> list[list[str]]:
    """Header and rows of text: a case a row, differences with their intervals."""
    names = [name for name in SHOWN_SCORES if any(row["score"] == name for row in rows)]
    table = [["", *(name.replace("_", " ") for name in names)]]
    for case in dict.fromkeys(row["case"] for row in rows):
        own = {row["score"]: row for row in rows if row["case"] == case}
        cells = [f"{_signed(r['difference'])} ({_signed(r['low'])} to {_signed(r['high'])})" if (r := own.get(n)) else "" for n in names]
        table.append([case, *cells])
    return table


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) < 10 else f"{value:+.1f}"


def likeness_rows(cases: Sequence[Case], experiment: Experiment) -> Rows:
    """How alike the cases' pictures of the same prompts and seeds are, by number of steps apart; 0 is chance, 1 the same."""
    if not experiment.likeness:
        return []
    rows = []
    for seed in sorted({case.seed for case in cases}):
        features: dict[str, Tensor] = {}
        for case in cases:
            if case.seed == seed and case.recipe.suite:
                images = case.samples()["images"]
                features[case.label] = load_suite(case.recipe.suite).features(images)
        rows += [{"seed": seed, "case": a, "other": b, "likeness": value} for a, b, value in likeness_table(features)]
    return rows


def as_csv(rows: Rows) -> str:
    """Rows as CSV, columns in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def score_table(rows: Rows, teacher: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Header and rows of text: mean over seeds, with the standard deviation where there are several; the teacher's rows first."""
    found = summary([row for row in rows if not row["score"].startswith("matched_")])
    names = [name for name in SHOWN_SCORES if any(name in scores for scores in found.values())]
    names += COSTS if any("cycle_gib" in scores for scores in found.values()) else ()
    table = [["", *(name.replace("_", " ") for name in names)]]
    for name, row in teacher.items():
        table.append([name, *("" if row.get(n) is None else _number(row[n]) for n in names)])
    for case, scores in found.items():
        table.append([case, *(_cell(scores[name]) if name in scores else "" for name in names)])
    return table


def _cell(found: tuple[float, float, int]) -> str:
    mean, spread, n = found
    return f"{_number(mean)} ± {_number(spread)}" if n > 1 else _number(mean)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def pictures_of(cases: Sequence[Case], n: int) -> dict[str, Tensor]:
    """The first seed's pictures of the first prompts, by case."""
    first = min(case.seed for case in cases)
    return {case.label: case.samples()["images"][:n] for case in cases if case.seed == first}
