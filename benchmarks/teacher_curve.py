"""Draw a teacher's training curve: python benchmarks/teacher_curve.py PIPELINE OUT.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ddmd.run.report import curve_svg


def main() -> None:
    pipeline, out = map(Path, sys.argv[1:3])
    facts = json.loads((pipeline / "training.json").read_text())
    rows, seen = [], 0
    for stage in facts.get("stages", [facts]):
        batch = stage["recipe"]["batch"]
        rows += [{"cycle": seen + row["step"] * batch // 1000, "loss": row["loss"]} for row in stage["curve"]]
        seen = rows[-1]["cycle"]
    out.write_text(curve_svg("training loss (v-prediction) by thousands of images", ("loss",), rows) + "\n")


if __name__ == "__main__":
    main()
