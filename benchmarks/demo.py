"""The main job, measured: `ddmd distill shapes` in a process of its own, over seeds.

    python benchmarks/demo.py [--seeds 0 1 2] [--recipe shapes] [--out runs/bench] [--set key=value ...]

Prints, per seed and as mean and range: minutes in all and distilling, peak memory of the process, and the student's scores
against the teacher's and the data's. Install time is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ddmd.run.results import machine
from ddmd.teachers.builtin import load_suite


def run(recipe: str, seed: int, out: Path, overrides: list[str]) -> dict:
    """One run; wait4 gives the peak memory of that process alone."""
    folder = out / f"{recipe}-seed{seed}"
    command = [sys.executable, "-m", "ddmd.cli", "distill", recipe, f"seed={seed}", *overrides, "--out", str(folder)]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"ddmd distill ended with status {status}")
    minutes = (time.perf_counter() - start) / 60
    results = json.loads((folder / "results.json").read_text())
    student, teacher, few = (results["scores"][name] for name in ("student", "teacher", "teacher-few-step"))
    data = load_suite("shapes").reference()
    validation = [
        row["validation_overall"]
        for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "validation_overall" in row
    ]
    return {
        "seed": seed,
        "minutes": round(minutes, 2),
        "minutes_distilling": round(results["train_seconds"] / 60, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "overall": student["overall"],
        "overall_over_teacher": student["overall"] / teacher["overall"],
        "overall_teacher_few_step": few["overall"],
        "frechet": student["frechet"],
        "frechet_over_teacher": student["frechet"] / teacher["frechet"],
        "std_over_data": student["std"] / data["std"],
        "saturation_over_data": student["saturation"] / data["saturation"],
        "last_over_best_validation": validation[-1] / max(validation),
        "speedup": teacher["seconds_per_image"] / student["seconds_per_image"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    rows = [run(arguments.recipe, seed, arguments.out, arguments.set) for seed in arguments.seeds]
    summary = {key: [statistics.mean(values), min(values), max(values)] for key in rows[0] if (values := [row[key] for row in rows])}
    print(json.dumps({"machine": machine(), "recipe": arguments.recipe, "runs": rows, "mean_min_max": summary}, indent=1))


if __name__ == "__main__":
    main()
