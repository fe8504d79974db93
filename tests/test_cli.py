import json
import os
import re
import subprocess
import sys
import time

import pytest

from ddmd.cli import main
from ddmd.run.recipe import preset_names

FAST = [
    "train.batch=2", "train.evaluate_prompts=4", "train.log_every=1", "train.evaluate_every=50", "train.checkpoint_every=50",
    "report.prompts=4", "report.teacher_steps=2", "train.prompt_count=20",
]  # fmt: skip


def ddmd(*arguments, cwd=None, **kwargs):
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-m", "ddmd.cli", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment, **kwargs
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process, as `ddmd` runs it in one of its own: the imports, which take seconds, are made once."""

    def run(*arguments, cwd=None):
        monkeypatch.setattr(sys, "argv", ["ddmd", *map(str, arguments)])
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code or 0, printed.out, printed.err)

    return run


def refused(result, *words):
    """Exit code 2 and one line that holds the words."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert all(str(word) in lines[0] for word in words), lines[0]


def test_help_imports_nothing_heavy():
    code = "import sys; import ddmd.cli; heavy = {'torch', 'diffusers', 'pydantic', 'rich.progress', 'yaml'} & sys.modules.keys(); assert not heavy, heavy"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    result = ddmd("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("distill", "sample", "evaluate", "recipes", "doctor", "builtin"))


def test_recipes_and_version():
    result = ddmd("recipes")
    assert [line.split()[0] for line in result.stdout.splitlines()] == preset_names()
    shown = ddmd("recipes", "shapes").stdout
    assert "schedule: hybrid" in shown
    assert ddmd("--version").stdout.startswith("ddmd ")


def test_bad_input_is_one_line_and_exit_code_2(untrained, tmp_path, here):
    refused(ddmd("distill", "shape"), "recipe", "shapes_coupled")
    refused(here("distill", "shapes", "objective.alfa=3"), "objective.alfa", "unknown")
    refused(here("distill", "shapes", "objective.alpha=0.5"), "objective.alpha", "0.5")
    refused(here("distill", "shapes", f"model={tmp_path}", "--out", tmp_path / "r"), "model_index.json")
    empty = tmp_path / "prompts.txt"
    empty.write_text("\n")
    refused(here("distill", "shapes", f"model={untrained}", f"train.prompts={empty}", "--out", tmp_path / "e"), "no prompts")
    refused(here("distill", "shapes", "--resume", "--out", tmp_path / "none"), "--resume", "no run")
    refused(here("distill", "shapes", "--resume", cwd=tmp_path), "--resume")
    refused(here("evaluate", tmp_path / "nothing"), "no such folder")
    refused(here("evaluate", "shapes", "--suite", "other"), "suite", "shapes")
    refused(ddmd("sample", untrained, "-p", "a red elephant"), "elephant", "circle")
    refused(here("builtin", "train", "emoji"), "emoji")
    refused(here("export", tmp_path), "no run")
    refused(here("cache", "latents", untrained, tmp_path / "pictures"), "no such folder")
    refused(here("cache", "samples", untrained, empty), "no prompts")
    refused(here("distill", "shapes", "train.batch=3", "optim.gradient_accumulation=2"), "optim.gradient_accumulation", "divide")


def test_a_run_from_start_to_picture(untrained, tmp_path, here):
    run = tmp_path / "run"
    result = ddmd("distill", "shapes", f"model={untrained}", "train.cycles=2", *FAST, "--out", run)
    assert result.returncode == 0, result.stderr
    assert "student" in result.stdout
    assert "report.html" in result.stderr
    refused(here("distill", "shapes", f"model={untrained}", "train.cycles=2", *FAST, "--out", run), "--out", "another run")

    picture = tmp_path / "one.jpg"
    result = ddmd("sample", run, "-p", "a red circle", "--seed", 3, "--out", picture)
    assert result.returncode == 0, result.stderr
    from PIL import Image

    assert Image.open(picture).size == (32, 32) and Image.open(picture).format == "JPEG"
    refused(here("sample", run, "-p", "a red circle", "--out", tmp_path), "--out", "a folder")
    wide = tmp_path / "two.png"
    assert (
        here("sample", run, "-p", "a red circle", "-p", "", "--out", wide, "--beside", untrained, "--beside", f"{untrained}:2").returncode
        == 0
    )
    assert Image.open(wide).size[1] > 3 * 96
    refused(here("sample", run, "-p", "a red circle", "--guidance", 3), "--guidance", "leave it at 1")

    result = here("evaluate", run, untrained, "--prompts", 6, "--teacher-steps", 2, "--out", tmp_path / "scores")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]
    assert set(scores) == {"student", "teacher", "teacher-no-cfg", "teacher-few-step"}
    assert scores["student"]["steps"] == 4
    table = (tmp_path / "scores" / "table.md").read_text()
    assert table.count("\n") == 6 + 2 * 4 and "student, frechet: of 6 images on 128 features" in table
    page = (tmp_path / "scores" / "index.html").read_text()
    assert "What the scores mean" in page and page.count("<img ") == 4 * 6 and "image-rendering: pixelated" in page
    assert "a verifier" not in page.split("<dl>")[1] and "recall" not in page.split("<dl>")[1]  # what this table has


def test_ctrl_c_saves_and_says_how_to_resume(untrained, tmp_path):
    run = tmp_path / "run"
    arguments = ["distill", "shapes", f"model={untrained}", "train.cycles=100000", *FAST, "--out", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    process = subprocess.Popen([sys.executable, "-m", "ddmd.cli", *arguments], stderr=subprocess.PIPE, text=True, env=environment)
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size > 1000):
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert len(list((run / "checkpoints").glob("step-*"))) == 1


def test_doctor_names_versions_and_memory():
    result = ddmd("doctor")
    assert all(word in result.stdout for word in ("torch", "diffusers", "memory", "cpu"))


@pytest.mark.parametrize("processes", [2])
def test_two_processes_train_one_student(untrained, tmp_path, processes):
    """Two processes on the CPU through torchrun: both ranks take part and the folder is written once."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m", "ddmd.cli"]
    arguments = ["distill", "shapes", f"model={untrained}", "train.cycles=3", *FAST, "--out", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command + arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (run / "student" / "model_index.json").is_file()
    state = json.loads((run / "checkpoints" / "step-000003" / "state.json").read_text())
    assert len(state["distillers"]) == processes
    assert state["distillers"][0]["generator"] != state["distillers"][1]["generator"]
    assert state["distillers"][0]["rungs"] == state["distillers"][1]["rungs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nosuch", "No such command 'nosuch'"),
        ("distill", "Missing argument.*see `ddmd distill --help`"),
        ("distill shapes --nope", "No such option: --nope"),
        ("sample shapes -p a --steps x", "--steps"),
        ("sample shapes -p a --steps 0", "--steps"),
        ("sample shapes -p a --steps 100000", "--steps"),
        ("sample shapes -p a --guidance inf", "--guidance"),
        ("sample shapes -p a --guidance nan", "--guidance"),
        ("sample shapes -p a --seed 1.5", "--seed"),
        ("recipes a b", "unexpected extra argument"),
        ("recipes a\u2028b", "a.u2028b"),
        ("lab fig2 --seeds 1000000000", "--seeds"),
        ("evaluate shapes --prompts 1", "--prompts"),
        ("builtin train shapes --lr inf", "--lr"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ddmd", *words.split(" ")])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert re.fullmatch(f"ddmd: .*{said}.*\n", printed.err), printed.err
    assert printed.out == ""


def test_help_is_whole(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ddmd", "sample", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "Usage: ddmd sample" in capsys.readouterr().out
