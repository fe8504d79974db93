"""Which step of a student's walk costs what: the same walk with the teacher taking some of its steps, on `shapes`.

    python benchmarks/rungs.py RUN [--walks ssss ssst sstt] [--prompts 500]

`s` is the student's step, `t` the teacher's (its conditional x0, no guidance), `g` the guided teacher's. Same prompts and noise for all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ddmd.measure.evaluate import student_setting
from ddmd.method.batch import batch_size, select
from ddmd.method.student import Predict, sample
from ddmd.teachers.builtin import load_suite, model_folder
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.sampling import at_once, bare, guided, initial_noise

SHOWN = ("overall", "frechet", "std", "saturation", "detail", "clipped")
GUIDANCE = 3.0


def taking_turns(walkers: list[Predict]) -> Predict:
    """A walk whose k-th step is the k-th walker's."""
    turn = iter(walkers)

    def predict(z: Tensor, u: Tensor) -> Tensor:
        return next(turn)(z, u)

    return predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--walks", nargs="+", default=["ssss", "ssst", "sstt", "sttt", "tttt"])
    parser.add_argument("--prompts", type=int, default=500)
    args = parser.parse_args()
    folder, suite = args.run / "student", load_suite("shapes")
    student, teacher, setting = load_denoiser(folder), load_denoiser(model_folder("shapes")), student_setting(folder)
    if setting is None or any(len(walk) != setting.steps or set(walk) - set("stg") for walk in args.walks):
        parser.error(f"--walks: found {' '.join(args.walks)}; a letter of s, t, g for every step of the student is needed")
    prompts = suite.prompts("report", args.prompts)
    cond, batch = teacher.encode(prompts), at_once(teacher)
    for walk in args.walks:
        images = []
        for number, start in enumerate(range(0, len(prompts), batch)):
            part = select(cond, slice(start, start + batch))
            who = {
                "s": guided(student, bare(student), part, 1.0),
                "t": guided(teacher, bare(teacher), part, 1.0),
                "g": guided(teacher, bare(teacher), part, GUIDANCE),
            }
            generator = torch.Generator().manual_seed(number)
            z = initial_noise(teacher, batch_size(part), generator)
            images.append(sample(taking_turns([who[letter] for letter in walk]), teacher.path, setting.grid, z, setting.sampler, generator))
        scores = suite.score(torch.cat(images), prompts)
        print(walk, {name: round(scores[name], 3) for name in SHOWN}, flush=True)


if __name__ == "__main__":
    main()
