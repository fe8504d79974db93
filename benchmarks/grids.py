"""Which grid suits a teacher: its own walk in a student's few steps, on candidate grids, before any student is trained.

    python benchmarks/grids.py [--model shapes] [--grids 1,0.75,0.5,0.25 1,0.85,0.6,0.3] [--prompts 500] [--guidance 3]

The stochastic walk of the students, the teacher answering every step: guided, and not (which is where a student begins). Scored on
validation prompts, seed 0.
"""

from __future__ import annotations

import argparse

from ddmd.method.student import check_grid
from ddmd.teachers.builtin import load_suite, model_folder
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.prompts import encode_all
from ddmd.teachers.sampling import bare, sample_images

GRIDS = ("1,0.75,0.5,0.25", "1,0.85,0.55,0.25", "1,0.85,0.6,0.3", "1,0.9,0.7,0.35")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--grids", nargs="+", default=GRIDS, metavar="U,U,...")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=3.0)
    args = parser.parse_args()
    suite, teacher = load_suite(args.model), load_denoiser(model_folder(args.model))
    prompts = suite.prompts("validation", args.prompts)
    cond = encode_all(teacher, prompts)
    shown = (suite.main, suite.distance, "std", "saturation")
    for text in args.grids:
        grid = check_grid([float(u) for u in text.split(",")])
        for guidance in (args.guidance, 1.0):
            scores = suite.score(sample_images(teacher, bare(teacher), cond, grid, "sde", guidance, seed=0), prompts)
            print(text, f"guidance {guidance}", {name: round(scores[name], 3) for name in shown}, flush=True)


if __name__ == "__main__":
    main()
