"""No command deletes or overwrites what it did not write, and each says so before its work."""

import shutil
import venv
from pathlib import Path

import pytest
import torch

from ddmd.errors import InputError
from ddmd.run.pictures import check_picture, picture_bytes, png_bytes, to_pil


def unused(*_):
    pytest.fail("the work began")


def evaluate(folder, denoiser):
    from ddmd.measure.evaluate import evaluate

    evaluate(["none"], "shapes", folder, 4, 2, 2, 3.0, 0, unused)


def benchmark(folder, denoiser):
    from ddmd.measure.evaluate.benchmark import run_benchmark
    from ddmd.measure.evaluate.wish import Wish

    run_benchmark("clip", Wish(("none",), None, folder), unused, unused)


def lab(folder, denoiser):
    from ddmd.cli import lab

    lab("fig2", None, 1, folder, folder / "runs", True, 1)


def study_report(folder, denoiser):
    from ddmd.measure.study.report import write_report

    write_report(folder, None, ())


def cache(folder, denoiser):
    from ddmd.teachers.reals import cache_samples

    cache_samples(denoiser, ["a red circle"], folder, 2, 3.0, 0, unused)


def verifier(folder, denoiser):
    from ddmd.teachers.builtin.shapes.make import make_verifier

    make_verifier("shapes", folder, {}, None, unused)


def judge(folder, denoiser):
    from ddmd.teachers.builtin.emoji.make import make_judge

    make_judge(Path("none"), folder, {}, None, unused)


def pack(folder, denoiser):
    from ddmd.teachers.builtin.emoji.make import pack

    pack(denoiser.folder, folder)


def fetch(folder, denoiser):
    from ddmd.teachers.builtin.emoji.pictures import fetch

    fetch(folder, 64, None, unused, unused)


COMMANDS = [
    (evaluate, "results.json"), (benchmark, "index.html"), (lab, "mine.csv"), (study_report, "report.md"), (cache, "about.json"),
    (cache, "latents-00000.safetensors"), (verifier, "thesis.txt"), (judge, "thesis.txt"), (pack, "thesis.txt"), (fetch, "thesis.txt"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name"), COMMANDS)
def test_a_users_file_survives(command, name, denoiser, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(InputError):
        command(tmp_path / "out", denoiser)
    assert (tmp_path / "out" / name).read_text() == "{}"
    assert not (set(tmp_path.rglob("*")) - {tmp_path / "out", tmp_path / "out" / name})


@pytest.mark.parametrize("command", list(dict.fromkeys(command for command, _ in COMMANDS)))
def test_a_users_file_in_the_folders_place_survives(command, denoiser, tmp_path):
    from ddmd.errors import as_input_error

    (tmp_path / "out").write_text("mine")
    with pytest.raises((InputError, OSError)) as error:
        command(tmp_path / "out", denoiser)
    assert isinstance(error.value, InputError) or as_input_error(error.value)  # the command line says it in one line
    assert (tmp_path / "out").read_text() == "mine"


def test_a_training_begins_in_no_folder_of_others(tmp_path):
    from ddmd.teachers.builtin.training import run_training

    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="pipeline"):
        run_training(None, tmp_path, unused, 1)
    assert (tmp_path / "pipeline" / "thesis.txt").read_text() == "mine"


def test_an_environment_filled_by_hand_is_not_emptied(tmp_path, monkeypatch):
    from ddmd.measure.evaluate.scorers import remote

    def create(folder, with_pip=False, clear=False):
        if clear:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(remote, "environment", lambda name: tmp_path / name)
    (tmp_path / "hps3").mkdir()
    (tmp_path / "hps3" / "mine").write_text("mine")
    remote.setup("hps3", lambda text: None, [])
    assert remote.is_ready("hps3")
    monkeypatch.setattr(remote.subprocess, "run", lambda *_, **__: remote.subprocess.CompletedProcess([], 1))
    with pytest.raises(InputError, match="pip"):
        remote.setup("hps3", lambda text: None, ["another"])
    assert not remote.is_ready("hps3")
    assert (tmp_path / "hps3" / "mine").read_text() == "mine"


def test_a_picture_replaces_only_ours(tmp_path):
    path = tmp_path / "sample.png"
    image = to_pil(torch.zeros(3, 4, 4))
    check_picture(path)
    path.write_bytes(png_bytes(image))
    check_picture(path)
    image.save(path)
    with pytest.raises(InputError, match="did not write"):
        check_picture(path)
    path.write_text("thesis")
    with pytest.raises(InputError, match="did not write"):
        check_picture(path)
    for suffix in (".jpg", ".webp"):
        other = tmp_path / f"sample{suffix}"
        other.write_bytes(picture_bytes(image, suffix))
        check_picture(other)
        image.save(other)
        with pytest.raises(InputError, match="did not write"):
            check_picture(other)
    with pytest.raises(InputError, match="file"):
        check_picture(path / "below.png")


def test_the_teachers_samples_are_not_drawn_for_a_cache_that_cannot_be_written(denoiser, tmp_path, monkeypatch):
    from ddmd.teachers import reals

    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("DDMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reals, "teacher_latents", unused)
    with pytest.raises(InputError, match="cache"):
        reals.kept_teacher_latents(denoiser, None, ["a red circle"], None, 2, 3.0, unused)
