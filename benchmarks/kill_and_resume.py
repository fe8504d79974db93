"""Kill a small run at random moments and go on with it: the student must be, bit for bit, that of a run left alone.

    python benchmarks/kill_and_resume.py --kills 10

Exit code 1 where the students differ or a start fails. Every start takes the seconds that importing torch takes.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = (
    "train.cycles=60",
    "train.batch=2",
    "train.log_every=1",
    "train.evaluate_every=5",
    "train.checkpoint_every=1",
    "train.evaluate_prompts=4",
    "train.prompt_count=20",
    "report.prompts=4",
    "report.teacher_steps=2",
)


def make_model(folder: Path) -> None:
    """A narrow twin of the shapes teacher with random weights."""
    import torch

    from ddmd.teachers.builtin.shapes.build import build_pipeline

    torch.manual_seed(0)
    build_pipeline(widths=(8, 16, 16, 16)).save_pretrained(folder)


def start(model: Path, run: Path, resume: bool) -> subprocess.Popen[bytes]:
    """`ddmd distill` in a process of its own, its words appended to log.txt."""
    line = [sys.executable, "-m", "ddmd.cli", "distill", "shapes", f"model={model}", *SETTINGS]
    line += ["--threads", "1", "--out", str(run), *(["--resume"] if resume else [])]
    with open(run.parent / "log.txt", "ab") as log:
        return subprocess.Popen(line, stdout=log, stderr=log)


def killed(process: subprocess.Popen[bytes], run: Path, wait: float) -> str | None:
    """Kill a run so many seconds after its log begins to grow; says where it was, or None where it had ended before."""
    log = run / "metrics.jsonl"
    before = log.stat().st_mtime_ns if log.is_file() else 0
    while process.poll() is None and (not log.is_file() or log.stat().st_mtime_ns == before):
        time.sleep(0.01)
    time.sleep(wait)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = log.read_text().count("\n")
    left = [path.name for path in run.rglob(".*.tmp")] + [path.name for path in run.rglob(".*.old")]
    return f"{rows} lines logged, half-written: {', '.join(left) or 'nothing'}"


def digest(run: Path) -> str:
    """Of the exported student's weights."""
    return hashlib.sha256((run / "student" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()


def main() -> int:
    """Run it; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--span", type=float, default=8.0, help="a kill comes within so many seconds of the first log line")
    asked = options.parse_args()
    place, draw = Path(tempfile.mkdtemp()), random.Random(asked.seed)
    make_model(place / "model")
    straight, torn = place / "straight", place / "torn"
    if start(place / "model", straight, resume=False).wait():
        print((place / "log.txt").read_text())
        return 1
    done = 0
    while done < asked.kills:
        found = killed(start(place / "model", torn, (torn / "recipe.yaml").is_file()), torn, draw.uniform(0, asked.span))
        if found is None:
            print("the run ended before the kill")
            break
        done += 1
        print(f"kill {done}: {found}", flush=True)
    code = start(place / "model", torn, resume=True).wait()
    same = code == 0 and digest(straight) == digest(torn)
    rubble = [path.name for path in torn.rglob(".*.tmp")]
    print(f"{done} kills: the students are {'equal, bit for bit' if same else 'NOT EQUAL'}; left over: {rubble or 'nothing'}")
    if same:
        shutil.rmtree(place)
    else:
        print(f"see {place}\n{(place / 'log.txt').read_text()[-3000:]}")
    return 0 if same and not rubble else 1


if __name__ == "__main__":
    sys.exit(main())
