"""Damaged and hostile inputs: each must be read, or refused by InputError in one line, within seconds.

    python benchmarks/fuzz.py PIPELINE [--cases 5000] [--seed 0] [--kind recipes ...]

PIPELINE is the folder of a small diffusers pipeline, whose copies are damaged. Each case is made from the seed and its own number
alone (`--only KIND:NUMBER` repeats one). Tables and datasets of Arrow are read in child processes, which a crash would end. Prints
one JSON object: cases, accepted, refused and faults by kind; a fault is any other exception, a message of several lines, more
than five seconds (of the processor's; a hundred of any), or a crash. The exit code is 1 where there are faults.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ddmd.errors import InputError

SECONDS = 5
IN_A_CHILD = 500  # Arrow cases a process
NUMBERS = ["0", "-1", "1", "1e9", "1e308", "-1e308", "1e999", ".inf", "-.inf", ".nan", "9" * 30, "9" * 5000, "010", "1:30", "0x10", "1_000"]
WORDS = [
    "",
    "null",
    "~",
    "true",
    "yes",
    "2024-01-01",
    "a",
    "\u2028",
    "\ud800",
    "\udce9",
    "\0",
    "\x1b[31m",
    "a\nb",
    "x" * 3000,
    "../x",
    "#",
    "'",
]
SHAPES = [
    "[]",
    "{}",
    "[1]",
    "[0.5, 0.2]",
    "[1, 0.5, 0]",
    "[.nan, 1]",
    "[[1]]",
    "{a: 1}",
    "[" * 2000,
    "&a [1]",
    "*a",
    "!!float 3",
    "{",
    "- 1",
    "? [a]",
]
BYTES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\r",
    b"\n",
    b'"',
    b",",
    b"\t",
    b"{",
    b"[",
    b"9" * 400,
    b"\\ud800",
    b"\\u0000",
]


def keys_of(model: Any, prefix: str = "") -> list[str]:
    """Every key of a recipe."""
    from ddmd.run.overrides import section_of

    found = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        found += [prefix + name] + (keys_of(section, f"{prefix}{name}.") if section else [])
    return found


def value_of(draw: random.Random) -> str:
    """One value that is often none."""
    return draw.choice(draw.choice([NUMBERS, WORDS, SHAPES, [str(draw.uniform(-2, 2)), str(draw.randint(-3, 2000))]]))


def damage(content: bytes, draw: random.Random) -> bytes:
    """A content cut, overwritten, or with pieces put in, taken out or repeated."""
    out = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        start = draw.randrange(len(out) + 1)
        how = draw.randrange(6)
        if how == 0:
            del out[start:]
        elif how == 1:
            del out[start : start + draw.randrange(1, 40)]
        elif how == 2:
            out[start:start] = draw.choice(BYTES)
        elif how == 3:
            out[start:start] = out[max(0, start - draw.randrange(1, 60)) : start]
        elif how == 4:
            out[start : start + 1] = bytes([draw.randrange(256)])
        else:
            out[start : start + 8] = draw.choice([b"\xff", b"\0", b"\x7f"]) * draw.randrange(1, 9)
    return bytes(out)


def spoil(value: Any, draw: random.Random) -> Any:
    """A JSON value of which one place holds something else, or nothing."""
    odd = [None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 500, [], {}, [None, None], {"a": []}, "../..", "\0"]
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: spoil(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.5:
        place = draw.randrange(len(value))
        return [*value[:place], spoil(value[place], draw), *value[place + 1 :]]
    return draw.choice(odd)


class Cases:
    """What is fuzzed: each method makes a case in `folder` and reads it."""

    def __init__(self, folder: Path, pipeline: Path) -> None:
        self.folder, self.pipeline = folder, pipeline

    @cached_property
    def keys(self) -> list[str]:
        from ddmd.run.recipe import Recipe

        return keys_of(Recipe)

    @cached_property
    def whole(self) -> bytes:
        from ddmd.run.recipe import load_recipe

        return load_recipe("shapes_ca_gan").to_yaml().encode()

    @cached_property
    def copy(self) -> Path:
        copy = self.folder / "pipeline"
        if not copy.exists():
            shutil.copytree(self.pipeline, copy)
        return copy

    def overrides(self, draw: random.Random) -> None:
        from ddmd.run.recipe import load_recipe

        found = [f"{draw.choice(self.keys)}={value_of(draw)}" for _ in range(draw.choice([1, 1, 1, 3]))]
        if draw.random() < 0.1:
            found.append(draw.choice(["", "=", "a", "a.b=1", ".=1", "seed", "train.cycles.x=1", "." * 5000 + "=1", "train=5"]))
        load_recipe("shapes", found).to_yaml()

    def recipes(self, draw: random.Random) -> None:
        from ddmd.run.recipe import load_recipe

        if draw.random() < 0.5:
            content = damage(self.whole, draw)
        else:
            lines = [f"{key}: {value_of(draw)}" for key in draw.sample([*self.keys, "base", "1", "<<", "? [a]"], 4)]
            content = "\n".join(["base: shapes", *lines]).encode("utf-8", "surrogatepass")
        path = self.folder / draw.choice(["a.yaml", "a.yml", "a.YAML"])
        path.write_bytes(content)
        load_recipe(str(path)).to_yaml()

    def prompts(self, draw: random.Random) -> None:
        from ddmd.teachers.prompt_files import read_prompts

        whole = {
            ".txt": b"a red circle\na blue star\n\nline\xe2\x80\xa8end\n",
            "": b"a red circle\r\na blue star",
            ".jsonl": b'{"prompt": "a red circle", "id": 1}\n"a star"\n{"prompt": null}\n',
            ".json": b'{"about": "x", "rows": ["a", {"caption": "b"}, null]}',
            ".csv": b'id,prompt\n1,"a red circle, at the top"\n2,a star\n',
            ".tsv": b'Prompt\tNote\n"a" b\t\nc\t"d\te"\n',
            ".md": b"# a",
            ".txt.gz": b"\x1f\x8b",
        }
        suffix = draw.choice(list(whole))
        path = self.folder / f"p{suffix}"
        path.write_bytes(damage(whole[suffix], draw))
        for prompt in read_prompts(path):
            prompt.encode()

    def headers(self, draw: random.Random) -> None:
        from ddmd.measure.memory import tensor_shapes

        weights = next(self.pipeline.glob("unet/*.safetensors")).read_bytes()
        place = self.folder / "headers"
        place.mkdir(exist_ok=True)
        (place / "a.safetensors").write_bytes(damage(weights[: draw.choice([600, 3000, len(weights)])], draw))
        tensor_shapes(place)

    def _config(self, name: str, draw: random.Random) -> None:
        """Damage one file of the copy, open it, and mend the copy."""
        from ddmd.teachers.denoisers import load_denoiser

        whole = (self.pipeline / name).read_bytes()
        content = damage(whole, draw) if draw.random() < 0.4 else json.dumps(spoil(json.loads(whole), draw)).encode()
        (self.copy / name).write_bytes(content)
        try:
            load_denoiser(self.copy)
        finally:
            (self.copy / name).write_bytes(whole)

    def indexes(self, draw: random.Random) -> None:
        self._config("model_index.json", draw)

    def schedulers(self, draw: random.Random) -> None:
        self._config("scheduler/scheduler_config.json", draw)

    def configs(self, draw: random.Random) -> None:
        self._config(draw.choice(["unet/config.json", "vae/config.json"]), draw)

    def arrow(self, draw: random.Random) -> None:
        import pyarrow
        from pyarrow import parquet

        from ddmd.teachers.prompt_files import read_prompts

        place = self.folder / "dataset"
        if not place.exists():
            texts = [f"a red circle {i}" for i in range(200)]
            table = pyarrow.table({"id": list(range(200)), "prompt": texts})
            coded = pyarrow.table({"prompt": pyarrow.array(["a", "b"] * 100).dictionary_encode()})
            place.mkdir()
            for name, one in (("plain", table), ("coded", coded)):
                with pyarrow.OSFile(str(self.folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, one.schema) as stream:
                    stream.write_table(one)
            parquet.write_table(table, self.folder / "snappy")
            parquet.write_table(coded, self.folder / "zstd", compression="zstd")
        name = draw.choice(["plain", "coded", "snappy", "zstd"])
        content = damage((self.folder / name).read_bytes(), draw)
        stream = name in ("plain", "coded")
        path = place / "data.arrow" if stream else self.folder / "a.parquet"
        path.write_bytes(content)
        (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}), encoding="utf-8")
        for prompt in read_prompts(place if stream else path):
            prompt.encode()


SHARES = {  # of the cases
    "overrides": 0.24, "recipes": 0.2, "prompts": 0.2, "headers": 0.1, "indexes": 0.06, "schedulers": 0.05, "configs": 0.05, "arrow": 0.1,
}  # fmt: skip


class TooLong(BaseException):
    """A case took more than SECONDS."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TooLong after so many seconds of the processor's, which others' load does not lengthen, or 20 times that of any."""

    def ring(*_: object) -> None:
        raise TooLong

    clocks = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 20 * seconds))
    before = [(number, signal.signal(number, ring)) for number, _, _ in clocks]
    for _, clock, after in clocks:
        signal.setitimer(clock, after)
    try:
        yield
    finally:
        for _, clock, _ in clocks:
            signal.setitimer(clock, 0)
        for number, handler in before:
            signal.signal(number, handler)


def outcome(case: Callable[[random.Random], None], draw: random.Random) -> str:
    """accepted, refused, or what went wrong."""
    try:
        with within(SECONDS):
            case(draw)
    except InputError as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"several lines: {str(error)[:200]!r}"
    except TooLong:
        return f"more than {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "accepted"


def fuzz(kind: str, numbers: range, seed: int, folder: Path, pipeline: Path) -> tuple[Counter[str], dict[str, str]]:
    """Outcomes of a kind's cases, and the faults by KIND:NUMBER."""
    cases, counts, faults = Cases(folder, pipeline), Counter[str](), {}
    if kind in ("indexes", "schedulers", "configs"):
        from ddmd.teachers.denoisers import load_denoiser

        load_denoiser(pipeline)  # the libraries' own imports are no part of a case's time
    for number in numbers:
        print(number, flush=True, file=sys.stdout) if kind == "arrow" else None
        found = outcome(getattr(cases, kind), random.Random(f"{seed} {kind} {number}"))
        fault = found not in ("accepted", "refused")
        counts["faults" if fault else found] += 1
        if fault:
            faults[f"{kind}:{number}"] = found
    return counts, faults


def fuzz_in_children(numbers: range, seed: int, pipeline: Path) -> tuple[Counter[str], dict[str, str]]:
    """`fuzz` of Arrow files, where a crash ends a child alone."""
    counts, faults, start = Counter[str](), {}, numbers.start
    while start < numbers.stop:
        stop = min(start + IN_A_CHILD, numbers.stop)
        line = [sys.executable, __file__, str(pipeline), "--seed", str(seed), "--only", f"arrow:{start}-{stop}"]
        child = subprocess.run(line, capture_output=True, text=True)
        *told, last = child.stdout.splitlines()
        if child.returncode in (0, 1) and last.startswith("{"):
            found = json.loads(last)
            counts.update(found["counts"].get("arrow", {}))
            faults |= found["faults"]
            start = stop
        else:
            number = int([*told, last][-1])
            faults[f"arrow:{number}"] = f"a crash, code {child.returncode}"
            counts["faults"] += 1
            start = number + 1  # what came before it is not counted
    return counts, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="*", choices=SHARES)
    parser.add_argument("--only", help="KIND:NUMBER or KIND:FROM-TO")
    args = parser.parse_args()
    counts, faults = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        if args.only:
            kind, _, span = args.only.partition(":")
            first, _, end = span.partition("-")
            counts[kind], faults = fuzz(kind, range(int(first), int(end or int(first) + 1)), args.seed, Path(folder), args.pipeline)
        else:
            for kind in args.kind or SHARES:
                numbers = range(round(args.cases * SHARES[kind]))
                if kind == "arrow":
                    counts[kind], found = fuzz_in_children(numbers, args.seed, args.pipeline)
                else:
                    counts[kind], found = fuzz(kind, numbers, args.seed, Path(folder), args.pipeline)
                faults |= found
                print(kind, dict(counts[kind]), file=sys.stderr, flush=True)
    print(json.dumps({"counts": counts, "faults": faults}))
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
