"""The laboratory's page: one self-contained HTML file with tables, curves, strips and what the alarms said."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_atomic, write_json
from ...pages import html_table, inline_image, linked_image, page
from ...run.finish import shipped_scores
from ...run.pictures import grid_bytes, strips
from ...run.results import machine
from ...teachers.builtin import load_suite
from .analysis import (
    Rows,
    as_csv,
    curve_rows,
    differences,
    effect_table,
    effects,
    likeness_rows,
    pictures_of,
    probe_rows,
    score_rows,
    score_table,
    summary,
)
from .cases import STRIP, Case
from .experiments import Experiment

COMPARED = {
    "overall": "overall", "text_image": "text-image", "frechet": "Frechet", "kid_lite0": "KID-lite0", "saturation": "saturation",
    "std": "standard deviation",
}  # fmt: skip
CURVES = {
    "validation_overall": "overall (validation)", "validation_text_image": "text-image (validation)", "validation_frechet": "Frechet (validation)",
    "validation_kid_lite0": "KID-lite0 (validation)", "validation_saturation": "saturation (validation)", "x_mean": "mean of outputs",
    "x_std": "standard deviation of outputs", "fake_loss": "fake loss", "cosine": "cosine of DM and CA",
}  # fmt: skip


def write_page(name: str, experiment: Experiment, cases: Sequence[Case], folder: Path, command: str) -> Path:
    """Write scores.csv, curves.csv, differences.csv, figures and index.html from finished cases; returns the page."""
    scores, curves = score_rows(cases), curve_rows(cases)
    apart = differences(cases, experiment.reference)
    over_seeds = effects(scores, experiment.reference)
    tables = {"scores": scores, "curves": curves, "differences": apart, "effects": over_seeds, "likeness": likeness_rows(cases, experiment)}
    tables |= {probe: probe_rows(cases, probe) for probe in ("baking", "observer") if probe in experiment.probes}
    for key, rows in tables.items():
        if rows:
            write_atomic(folder / f"{key}.csv", as_csv(rows))
    figures = draw_all(experiment, cases, tables)
    for key, content in figures.items():
        write_atomic(folder / _file(key, content), content)
    first = cases[0].recipe
    teacher = shipped_scores(first.model, first.report.prompts) or _teacher_at(first.model)
    about = load_suite(first.suite).about if first.suite else "This recipe has no suite: there are pictures and curves, no scores."
    facts = {
        "experiment": name, "command": command, "machine": machine(), "seeds": sorted({case.seed for case in cases}),
        "seconds": sum(case.result()["seconds"] for case in cases), "differences": apart,
        "summary": {
            case: {k: [mean, spread if n > 1 else None, n] for k, (mean, spread, n) in found.items()}
            for case, found in summary(scores).items()
        },
    }  # fmt: skip
    write_json(folder / "results.json", facts)
    body = [
        f"<h1>{html.escape(name)}</h1><p>{html.escape(experiment.about)}.</p>",
        f"<p><code>{html.escape(command)}</code><br>{html.escape(facts['machine'])}; {len(facts['seeds'])} seeds; "
        f"{facts['seconds'] / 60:.1f} minutes of runs.</p>",
        "<h2>Scores on report prompts</h2>", html_table(score_table(scores, teacher)), f"<p>{html.escape(about)}</p>",
        _differences(apart), _effects(over_seeds), _matched(scores), _likeness(tables["likeness"]), _alarms(cases),
        *(f"<h2>{html.escape(title)}</h2>{_shown(key, figures[key], title)}" for key, title in FIGURES.items() if key in figures),
    ]  # fmt: skip
    return write_atomic(folder / "index.html", page(name, body))


def _file(key: str, content: bytes) -> str:
    return f"{key}.png" if content.startswith(b"\x89PNG") else f"{key}.jpg"


def _shown(key: str, content: bytes, title: str) -> str:
    """A chart as it is; pictures by a preview, linked to their file."""
    return linked_image(content, _file(key, content), title) if key in PICTURES else inline_image(content, title)


def _teacher_at(model: str) -> dict[str, dict[str, Any]]:
    """The shipped teacher's rows on its own 1,000 prompts, named so."""
    return {f"{name} (1,000 prompts)": row for name, row in shipped_scores(model, 1000).items()}


def _differences(rows: Rows) -> str:
    if not rows:
        return ""
    lines = [["", "difference of the main score", "95 %", "seeds"]]
    lines += [[r["case"], f"{r['difference']:+.3f}", f"{r['low']:+.3f} to {r['high']:+.3f}", str(r["seeds"])] for r in rows]
    note = "Paired over prompts and seeds; the interval draws both anew. With one seed it says nothing of the spread over seeds."
    return f"<h2>Against {html.escape(rows[0]['reference'])}</h2>{html_table(lines)}<p>{note}</p>"


def _effects(rows: Rows) -> str:
    if not rows:
        return ""
    note = f"Mean difference over {max(row['seeds'] for row in rows)} seeds, each case against the reference of its own seed, with 95 % intervals of Student's t."
    return f"<h2>All scores against {html.escape(rows[0]['reference'])}</h2>{html_table(effect_table(rows))}<p>{note}</p>"


def _matched(rows: Rows) -> str:
    found = [{**row, "score": row["score"].removeprefix("matched_")} for row in rows if row["score"].startswith("matched_")]
    if not found:
        return ""
    return (
        "<h2>Scores after every image took the mean and variance of the teacher's picture of the same prompt (100 prompts)</h2>"
        + html_table(score_table(found, {}))
    )


def _likeness(rows: Rows) -> str:
    if not rows:
        return ""
    pairs: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        pairs.setdefault((row["case"], row["other"]), []).append(row["likeness"])
    lines = [["pictures of", "and of", "likeness (0 chance, 1 the same)"]]
    lines += [[a, b, f"{np.mean(v):.3f}" + (f" ± {np.std(v, ddof=1):.3f}" if len(v) > 1 else "")] for (a, b), v in pairs.items()]
    return "<h2>How alike, for the same prompts and noise</h2>" + html_table(lines)


def _alarms(cases: Sequence[Case]) -> str:
    said = [(case, alarm) for case in cases for alarm in case.result()["alarms"]]
    lines = [f"<p class=alarm><b>{html.escape(c.label)}, seed {c.seed}</b>: {html.escape(alarm)}</p>" for c, alarm in said]
    return "<h2>What the alarms said</h2>" + ("".join(lines) or "<p>Nothing.</p>")


# ---- figures -----------------------------------------------------------------------------------------------------------

FIGURES = {
    "effects": "Against the reference: mean and range over seeds", "strips": "The same prompts and noise (first seed)",
    "over_training": "Over training: mean and range over seeds", "spectrum": "Power by frequency",
    "baking": "Guidance taken in", "observer": "What the observer sees", "observer_pictures": "Observer: sample, real x0, fake x0, their difference",
}  # fmt: skip


PICTURES = ("strips", "observer_pictures")


def draw_all(experiment: Experiment, cases: Sequence[Case], tables: dict[str, Rows]) -> dict[str, bytes]:
    """Every figure of an experiment as PNG; pictures of large images as JPEG."""
    pictures = pictures_of(cases, STRIP)
    _, grid = grid_bytes(strips(pictures), next(iter(pictures.values())).shape[-1])
    figures = {"strips": grid}
    if experiment.reference and any(row["score"] in COMPARED for row in tables["scores"]):
        figures["effects"] = _against(experiment.reference, tables["scores"])
    if tables["curves"]:
        figures["over_training"] = _over_training(tables["curves"])
    if "spectrum" in experiment.probes:
        figures["spectrum"] = _spectrum(cases)
    if "baking" in experiment.probes:
        figures["baking"] = _by_level(tables["baking"], ("cosine", "size"))
    if "observer" in experiment.probes:
        figures["observer"] = _by_level(tables["observer"], ("gap", "removed"))
        figures["observer_pictures"] = (cases[0].folder / "observer.png").read_bytes()
    return figures


def _figure(panels: int, draw: Callable[[list[Any]], None]) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    wide = min(3, panels)
    tall = -(-panels // wide)
    figure, axes = plt.subplots(tall, wide, figsize=(4.6 * wide, 3.1 * tall), squeeze=False)
    flat = list(axes.flat)
    for axis in flat[panels:]:
        axis.axis("off")
    draw(flat[:panels])
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(4, max(1, len(labels))), frameon=False, bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return out.getvalue()


def _against(reference: str, rows: Rows) -> bytes:
    """Every case less the reference of its own seed: a dot for the mean, a bar for the range."""
    values = {(row["case"], row["seed"], row["score"]): row["value"] for row in rows}
    names = [name for name in COMPARED if any(score == name for _, _, score in values)]
    labels = [label for label in dict.fromkeys(row["case"] for row in rows) if label != reference]

    def draw(axes: list[Any]) -> None:
        for axis, name in zip(axes, names):
            for place, label in enumerate(labels):
                seeds = [seed for case, seed, score in values if case == label and score == name and (reference, seed, name) in values]
                apart = [values[label, seed, name] - values[reference, seed, name] for seed in seeds]
                axis.plot([min(apart), max(apart)], [place, place], color="C0", alpha=0.4, lw=4)
                axis.plot(np.mean(apart), place, "o", color="C0")
            axis.axvline(0, color="#999", lw=0.8)
            axis.set_yticks(range(len(labels)), labels, fontsize=8)
            axis.invert_yaxis()
            axis.set(title=f"{COMPARED[name]}, less that of {reference}")

    return _figure(len(names), draw)


def _over_training(rows: Rows) -> bytes:
    names = [name for name in CURVES if any(row["name"] == name for row in rows)]
    labels = list(dict.fromkeys(row["case"] for row in rows))

    def draw(axes: list[Any]) -> None:
        for axis, name in zip(axes, names):
            for colour, label in enumerate(labels):
                points: dict[int, list[float]] = {}
                for row in rows:
                    if row["case"] == label and row["name"] == name:
                        points.setdefault(row["cycle"], []).append(row["value"])
                x = sorted(points)
                axis.plot(x, [np.mean(points[c]) for c in x], color=f"C{colour}", label=label)
                axis.fill_between(x, [min(points[c]) for c in x], [max(points[c]) for c in x], color=f"C{colour}", alpha=0.15, lw=0)
            axis.set(title=CURVES[name], xlabel="cycle")

    return _figure(len(names), draw)


def _spectrum(cases: Sequence[Case]) -> bytes:
    def draw(axes: list[Any]) -> None:
        for colour, label in enumerate(dict.fromkeys(case.label for case in cases)):
            found = [case.probed("spectrum") for case in cases if case.label == label]
            student, teacher = (np.mean([f[who] for f in found], axis=0) for who in ("student", "teacher"))
            x = np.arange(1, len(student))
            axes[0].plot(x, student[1:], color=f"C{colour}", label=label)
            axes[1].plot(x, student[1:] / teacher[1:], color=f"C{colour}", label=label)
        axes[0].plot(x, teacher[1:], color="black", ls="--", label="teacher")
        axes[1].axhline(1, color="black", ls="--")
        axes[0].set(title="power", yscale="log", xlabel="cycles an image")
        axes[1].set(title="power over the teacher's", yscale="log", xlabel="cycles an image")

    return _figure(2, draw)


def _by_level(rows: Rows, names: Sequence[str]) -> bytes:
    def draw(axes: list[Any]) -> None:
        labels, cycles = list(dict.fromkeys(r["case"] for r in rows)), sorted({r["cycle"] for r in rows})
        for axis, name in zip(axes, names):
            for i, label in enumerate(labels):
                for j, cycle in enumerate(cycles):
                    points: dict[float, list[float]] = {}
                    for row in rows:
                        if row["case"] == label and row["cycle"] == cycle:
                            points.setdefault(row["level"], []).append(row[name])
                    x = sorted(points)
                    shade = 0.25 + 0.75 * (j + 1) / len(cycles)
                    axis.plot(x, [np.mean(points[u]) for u in x], color=f"C{i}", alpha=shade, label=f"{label}, cycle {cycle}")
            axis.axhline(0, color="#999", lw=0.8)
            axis.set(title=name, xlabel="level (1 noise, 0 clean)")

    return _figure(len(names), draw)
