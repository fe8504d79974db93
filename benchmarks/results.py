"""Run the laboratory's experiments at the settings of docs/results.md, and write docs/lab/EXPERIMENT.md with its figures from them.

    python benchmarks/results.py [EXPERIMENT[:KEY=VALUE,...] ...] [--seeds 5] [--runs runs/lab] [--out runs/results] [--jobs N]

`table1:objective.alpha=8` is table1 with that setting, on a page of its own (table1-objective-alpha-8.md); `fig3:recipe=emoji` is fig3 on the
other embedded teacher.
Finished runs are used again, so that with all of them done only the pages are written. All runs of all experiments share these
settings: no decay of the learning rate and a short average (nothing may hide a collapse), alpha 4, two fake updates a cycle, 60 cycles.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ddmd.files import write_atomic
from ddmd.measure.lab.analysis import effect_table, score_table
from ddmd.measure.lab.experiments import EXPERIMENTS
from ddmd.pages import markdown_table
from ddmd.run.finish import shipped_scores

SETTINGS = (
    "objective.alpha=4", "optim.student_lr=1e-4", "optim.decay=0", "optim.ema=0.95", "optim.ema_warmup=true", "fake.updates=2",
    "train.cycles=60", "train.evaluate_every=20", "train.evaluate_prompts=200", "train.checkpoint_every=20", "train.keep_checkpoints=1",
    "report.prompts=500",
)  # fmt: skip
# What the recipe had when the experiments were chosen; `emoji` has its own.
SHAPES = ("renoise.clamp=[0.1,0.98]", "fake.turn=joint", "fake.reuse_rollout=false", "train.prompt_count=4000", "train.export=best")
MORE = {"baking": ("train.keep_checkpoints=1000",)}
DOCS = Path(__file__).parent.parent / "docs" / "lab"
FIGURES = {
    "effects": "Against the reference: mean and range over seeds", "strips": "The same prompts and noise, seed 0",
    "over_training": "Over training: mean and range over seeds", "spectrum": "Power by frequency",
    "baking": "Guidance taken in, by level", "observer": "The observer, by level", "observer_pictures": "Sample, real x0, fake x0, real - fake",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS), metavar="EXPERIMENT")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/lab"))
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--jobs", type=int)
    args = parser.parse_args()
    for asked in args.experiments:
        experiment, _, keys = asked.partition(":")
        name = re.sub(r"[^a-z0-9]+", "-", asked)
        own = () if "recipe=" in keys else SHAPES
        words = ["lab", experiment, *SETTINGS, *own, *MORE.get(experiment, ()), *(keys.split(",") if keys else ())]
        words += ["--seeds", str(args.seeds), "--runs", str(args.runs), "--out", str(args.out / name)]
        words += ["--jobs", str(args.jobs)] if args.jobs else []
        subprocess.run([sys.executable, "-m", "ddmd.cli", *words], check=True)
        print(publish(asked, name, args.out / name, args.seeds))


def publish(asked: str, name: str, made: Path, seeds: int) -> Path:
    """One page of docs/lab, with the figures beside it."""
    facts = json.loads((made / "results.json").read_text())
    scores = rows_of(made / "scores.csv")
    for row in scores:
        row["value"] = float(row["value"])
    model, prompts = ("emoji", 600) if "recipe=emoji" in facts["command"] else ("shapes", 1000)
    teacher = {f"{label} ({prompts:,} prompts)": row for label, row in shipped_scores(model, prompts).items()}
    command = f"python benchmarks/results.py {asked} --seeds {seeds}"
    about = EXPERIMENTS[asked.partition(":")[0]].about
    body = [
        f"# {asked}: {about}",
        f"`{command}`, which runs\n\n    {shlex.join(facts['command'].split())}\n\n{facts['machine']}; {len(facts['seeds'])} "
        f"seed{'s' * (len(facts['seeds']) > 1)}; {facts['seconds'] / 60:.0f} minutes of runs, one thread each. Mean ± standard deviation over seeds; 500 report prompts.",
        markdown_table(score_table(scores, teacher)),
    ]
    matched = [{**row, "score": row["score"].removeprefix("matched_")} for row in scores if row["score"].startswith("matched_")]
    if matched:
        body += ["Every image given the mean and variance, by colour, of the teacher's picture of its prompt and noise (100 prompts):",
                 markdown_table(score_table(matched, {}))]  # fmt: skip
    if (made / "effects.csv").is_file() and len(facts["seeds"]) > 1:
        found = [{**row, **{key: float(row[key]) for key in ("difference", "low", "high")}} for row in rows_of(made / "effects.csv")]
        body += [
            f"Against {found[0]['reference']}, paired by seed, with 95 % intervals of Student's t:",
            markdown_table(effect_table(found)),
        ]
    if (made / "likeness.csv").is_file():
        body += ["How alike the pictures of the same prompts and noise are (0 chance, 1 the same):", markdown_table(likeness(made))]
    DOCS.mkdir(parents=True, exist_ok=True)
    for figure, title in FIGURES.items():
        if (made / f"{figure}.png").is_file():
            shutil.copy(made / f"{figure}.png", DOCS / f"{name}-{figure}.png")
            body.append(f"{title}:\n\n![{title}]({name}-{figure}.png)")
    return write_atomic(DOCS / f"{name}.md", "\n\n".join(body) + "\n")


def rows_of(path: Path) -> list[dict]:
    """A CSV file's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def likeness(made: Path) -> list[list[str]]:
    """Means over seeds, pair by pair."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for row in rows_of(made / "likeness.csv"):
        pairs.setdefault((row["case"], row["other"]), []).append(float(row["likeness"]))
    return [["pictures of", "and of", "likeness"], *([a, b, f"{sum(v) / len(v):.3f}"] for (a, b), v in pairs.items())]


if __name__ == "__main__":
    main()
