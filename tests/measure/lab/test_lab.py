"""The laboratory: plans, probes against cases known by hand, and whole experiments in miniature."""

import csv
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

pytest.importorskip("matplotlib")

from ddmd import cli
from ddmd.errors import InputError
from ddmd.measure.lab.analysis import differences, effect_table, effects, paired_interval, score_rows, score_table, summary
from ddmd.measure.lab.cases import Case, make_cases
from ddmd.measure.lab.experiments import EXPERIMENTS, experiment
from ddmd.measure.lab.probes import artefact_removed, guidance_taken, likeness_table, match_moments, radial_spectrum
from ddmd.measure.lab.runner import cycles_done, run_all
from ddmd.run.recipe import load_recipe
from ddmd.teachers.builtin import model_folder
from ddmd.teachers.denoisers import load_denoiser
from tiny import save_twin

TINY = (
    "train.cycles=1", "train.batch=4", "train.evaluate_prompts=4", "train.prompt_count=8", "train.reals_count=4", "report.prompts=6",
    "report.teacher_steps=2", "fake.updates=1",
)  # fmt: skip


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_case_of_every_experiment_is_a_recipe(name, tmp_path):
    cases = make_cases(experiment(name), (), 2, tmp_path, quick=False)
    assert len(cases) == 2 * len(EXPERIMENTS[name].cases)
    assert [case.seed for case in cases] == sorted(case.seed for case in cases)  # whole comparisons first
    assert len({case.folder for case in cases}) == len(cases)
    assert EXPERIMENTS[name].reference in (None, *EXPERIMENTS[name].cases)
    one = [case.recipe.model_dump() for case in cases if case.seed == 0]
    assert all(a != b for i, a in enumerate(one) for b in one[:i])


def test_a_run_is_that_of_its_teachers_contents_not_of_its_name(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    given = [f"model={tmp_path / 'model'}", f"train.prompts={tmp_path / 'prompts.txt'}"]

    def folder():
        return make_cases(experiment("fig2"), given, 1, tmp_path / "runs", True)[0].folder

    before = folder()
    assert folder() == before
    (tmp_path / "prompts.txt").write_text("a blue circle\n")
    others = folder()
    with open(tmp_path / "model" / "unet" / "config.json", "a") as file:
        file.write(" ")
    assert len({before, others, folder()}) == 3


def test_experiments_share_the_runs_that_they_have_in_common(tmp_path):
    def places(name, *keys):
        return {case.label: case.folder for case in make_cases(experiment(name), keys, 1, tmp_path, False)}

    assert places("table1")["4 hybrid"] == places("fig3")["CA + DM"] == places("fig2")["CA + DM, 4 steps"]
    assert places("fig3")["CA only"] == places("fig2")["CA only, 4 steps"]
    assert not set(places("table1").values()) & set(places("table1", "objective.alpha=7.5").values())


def test_a_real_model_without_a_suite_is_probed_on_its_own_prompts(tmp_path):
    """Its text encoders are gone by then."""
    model = save_twin("sdxl-eps", tmp_path / "twin")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star\n")
    keys = ("recipe=sdxl_ddmd_lora", f"model={model}", f"train.prompts={tmp_path / 'prompts.txt'}", "train.cache=null", "train.cycles=1",
            "train.batch=1", "report.teacher_steps=2", "fake.updates=1", "objective.alpha=3", "objective.gan=null")  # fmt: skip
    (case,) = make_cases(type(experiment("fig4a"))("one", {"all": ()}, probes=("spectrum", "baking")), keys, 1, tmp_path / "lab", False)
    run_all([case], 1, lambda *count: None)
    assert {"student", "teacher"} <= set(case.probed("spectrum")) and case.probed("baking")


@pytest.mark.slow
def test_a_probe_that_another_experiment_asks_for_is_measured_later(tmp_path):
    two = {"CA only": ("objective.dm_weight=0",)}
    (plain,) = make_cases(type(experiment("fig3"))("one case", two), TINY, 1, tmp_path, False)
    run_all([plain], 1, lambda *count: None)
    assert plain.finished and plain.probed("matched") is None
    (asked,) = make_cases(type(experiment("fig3"))("the same", two, probes=("matched", "memory")), TINY, 1, tmp_path, False)
    stamp = (asked.folder / "case.json").stat().st_mtime_ns
    assert not asked.finished and asked.unprobed == ["matched", "memory"]
    run_all([asked], 1, lambda *count: None)
    assert asked.finished and asked.probed("matched")["frechet"] > 0
    # Teacher, student, its gradients and moments and their average, all of the teacher's size; no fake model.
    weights = sum(p.numel() * 4 for p in load_denoiser(model_folder("shapes")).network.parameters()) / 2**30
    assert 6 * weights < asked.probed("memory")["cycle_gib"] < 12 * weights
    assert score_table(score_rows([asked]), {})[0][-2:] == ["train seconds", "cycle gib"]
    assert (asked.folder / "case.json").stat().st_mtime_ns == stamp


def test_windows_are_the_papers_time_turned_round(tmp_path):
    cases = {case.label: case.recipe for case in make_cases(experiment("fig4a"), (), 1, tmp_path, False)}
    assert cases["tau in [0, 0.05]"].renoise.ca_window == [0.95, 1.0]
    assert cases["tau in [0.7, 1]"].renoise.ca_window == [0.0, 0.3]
    assert all(recipe.student.steps == 1 and recipe.trained_roles == ("student",) for recipe in cases.values())


def test_factors_multiply_the_recipes_own_number(tmp_path):
    cases = {case.label: case.recipe for case in make_cases(experiment("sensitivity"), ("optim.fake_lr=0.001",), 1, tmp_path, True)}
    assert cases["recipe"].optim.fake_lr == 0.001
    assert cases["fake lr x 3"].optim.fake_lr == pytest.approx(0.003)
    assert cases["recipe"].train.cycles == round(0.3 * load_recipe("shapes").train.cycles) and cases["recipe"].report.prompts == 300


def test_another_recipe_is_varied_by_name(untrained, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle")
    keys = ("recipe=sd15_ddmd", f"model={untrained}", f"train.prompts={tmp_path / 'prompts.txt'}")
    cases = make_cases(experiment("table1"), keys, 1, tmp_path, False)
    assert {case.recipe.model for case in cases} == {str(untrained)} and cases[0].recipe.renoise.schedule == "coupled"


def test_an_observer_learns_although_nothing_uses_it(tmp_path):
    (case,) = make_cases(experiment("fig4b"), (), 1, tmp_path, False)
    assert case.recipe.objective.dm_weight == 0 and case.recipe.trained_roles == ("student", "fake")


def test_spectrum_of_noise_is_flat_and_of_a_wave_a_peak():
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2
    assert torch.allclose(radial_spectrum(noise)[1:], torch.tensor(4.0), rtol=0.15)
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32) / 32).expand(1, 3, 32, 32) + 7
    power = radial_spectrum(wave)
    assert power.argmax() == 5 and power[0] < 1e-6


def test_matching_gives_every_image_the_moments_of_its_counterpart():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(4, 3, 8, 8, generator=generator) * torch.tensor([0.1, 0.5, 1, 2]).view(4, 1, 1, 1) + 0.2
    images = match_moments(torch.randn(4, 3, 8, 8, generator=generator) * 3 - 1, reference)
    torch.testing.assert_close(images.mean(dim=(2, 3)), reference.mean(dim=(2, 3)))
    torch.testing.assert_close(images.std(dim=(2, 3)), reference.std(dim=(2, 3)))


def test_likeness_is_one_for_the_same_and_nothing_for_strangers():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 128, generator=generator), torch.randn(64, 128, generator=generator)
    rows = {(x, y): value for x, y, value in likeness_table({"a": a, "same": 3 * a + 1, "b": b})}
    assert rows["a", "same"] == pytest.approx(1, abs=0.05) and abs(rows["a", "b"]) < 0.05


def test_a_student_that_adds_guidance_has_taken_just_that_in():
    cond, uncond = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert guidance_taken(cond + 2 * (cond - uncond), cond, uncond) == pytest.approx((1, 2), abs=1e-5)
    assert guidance_taken(cond - 0.5 * (cond - uncond), cond, uncond) == pytest.approx((-1, -0.5), abs=1e-5)
    assert guidance_taken(cond, cond, uncond) == (0, 0)
    sideways = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    direction = (cond - uncond).flatten(1)
    sideways -= ((sideways.flatten(1) * direction).sum(1) / direction.square().sum(1)).view(-1, 1, 1, 1) * (cond - uncond)
    assert guidance_taken(cond + sideways, cond, uncond) == pytest.approx((0, 0), abs=1e-5)


def test_a_fake_that_knows_the_student_would_remove_its_artefact():
    sample, real = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gap = (sample - real).square().mean().sqrt().item()
    assert artefact_removed(sample, real, fake=sample) == pytest.approx((gap, 1), abs=1e-5)
    assert artefact_removed(sample, real, fake=real + 0.25 * (sample - real)) == pytest.approx((gap / 4, 0.25), abs=1e-5)
    assert artefact_removed(sample, real, fake=real) == (0, 0)
    assert artefact_removed(sample, real, fake=2 * real - sample)[1] == pytest.approx(-1, abs=1e-5)  # it would add to it


def test_differences_are_the_case_less_the_reference(tmp_path):
    table = type(experiment("table1"))("two", {"better": ("renoise.schedule=constrained",), "base": ()}, "base")
    cases = make_cases(table, TINY, 2, tmp_path, False)
    for case in cases:
        case.folder.mkdir(parents=True)
        right = torch.tensor([1.0, 1, 1, 0]) if case.label == "better" else torch.tensor([1.0, 0, case.seed, 0])
        save_file({"each": right}, case.folder / "samples.safetensors")
    (row,) = differences(cases, "base")
    assert row["case"] == "better" and row["seeds"] == 2 and row["difference"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert 0 <= row["low"] < row["difference"] < row["high"]


def test_effects_are_paired_by_seed_with_students_interval():
    values = {"a": (0.9, 0.8, 0.7), "base": (0.5, 0.5, 0.5), "once": (0.1,)}
    rows = [{"case": c, "seed": s, "score": "overall", "value": v} for c, vs in values.items() for s, v in enumerate(vs)]
    (row,) = effects(rows, "base")  # one seed has no spread
    assert row["case"] == "a" and row["seeds"] == 3 and row["difference"] == pytest.approx(0.3)
    assert row["high"] - row["difference"] == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert effect_table([row]) == [["", "overall"], ["a", "+0.300 (+0.052 to +0.548)"]]


def test_paired_intervals_hold_seeds_and_prompts():
    chance = np.random.default_rng(1)
    prompts = chance.normal(0.1, 1, 400)
    low, high = paired_interval(np.stack([prompts]))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15) and low < prompts.mean() < high
    spread = np.stack([prompts + shift for shift in (-1, -0.5, 0, 0.5, 1)])
    assert np.subtract(*paired_interval(spread)[::-1]) > 3 * (high - low)  # seeds that disagree widen it


def test_summary_and_table():
    rows = [{"case": "a", "seed": s, "score": "overall", "value": v} for s, v in enumerate((0.5, 0.7))]
    assert summary(rows)["a"]["overall"] == pytest.approx((0.6, math.sqrt(0.02), 2))
    assert score_table(rows, {"teacher": {"overall": 0.9}}) == [["", "overall"], ["teacher", "0.900"], ["a", "0.600 ± 0.141"]]


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    """`baking` with a student that hardly moves, and its folder."""
    folder = tmp_path_factory.mktemp("lab") / "baking"
    places = ["--out", str(folder), "--runs", str(folder / "runs")]
    words = ["lab", "baking", *TINY, "optim.student_lr=1e-12", "--seeds", "1", "--jobs", "1", *places]
    told = CliRunner().invoke(cli.app, words)
    assert told.exit_code == 0, told.output
    return folder, words


@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_baked_nothing_in(baked):
    folder, _ = baked
    rows = list(csv.DictReader((folder / "baking.csv").open()))
    assert {float(row["level"]) for row in rows} == {0.1, 0.3, 0.5, 0.7, 0.9}
    assert all(abs(float(row["size"])) < 1e-2 for row in rows)


@pytest.mark.slow
def test_the_page_stands_alone_and_finished_runs_are_used_again(baked):
    folder, words = baked
    page = (folder / "index.html").read_text()
    assert (folder / "effects.png").read_bytes()[:4] == b"\x89PNG"
    assert "data:image/png;base64," in page and "Guidance taken in" in page and "http:" not in page.partition("<body>")[2]
    scores = list(csv.DictReader((folder / "scores.csv").open()))
    assert {"overall", "frechet", "train_seconds"} <= {row["score"] for row in scores}
    assert json.loads((folder / "results.json").read_text())["command"].startswith("ddmd lab baking train.cycles=1")
    stamps = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/case.json")}
    assert len(stamps) == 2
    again = CliRunner().invoke(cli.app, words)
    assert again.exit_code == 0 and stamps == {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/case.json")}


@pytest.mark.slow
def test_two_at_once_resume_what_was_begun(tmp_path):
    small = {"3 constrained": ("renoise.schedule=constrained",), "4 hybrid": ()}
    table = type(experiment("table1"))("two schedules", small, "4 hybrid")
    cases = make_cases(table, TINY, 1, tmp_path, False)
    (cases[0].folder).mkdir(parents=True)
    (cases[0].folder / "recipe.yaml").write_text(cases[0].recipe.to_yaml())  # killed before its first checkpoint
    assert cycles_done(cases[0].folder) == 0
    said = []
    run_all(cases, 2, lambda *count: said.append(count))
    assert all(case.finished for case in cases) and said[-1][1:] == (2, 2)
    (row,) = differences(cases, "4 hybrid")
    both = [case.samples()["each"] for case in cases]
    assert row["case"] == "3 constrained" and row["difference"] == pytest.approx((both[0] - both[1]).mean().item())
    assert isinstance(cases[0], Case) and cases[0].samples()["images"].shape[1:] == (3, 32, 32)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_command(tmp_path):
    words = [sys.executable, "-m", "ddmd.cli", "lab", "table1", *TINY, "train.cycles=500", "--seeds", "1", "--jobs", "2"]
    command = subprocess.Popen([*words, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")], stderr=subprocess.DEVNULL)

    def workers():
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("runs/*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    mine = workers()
    assert len(mine) == 2
    command.kill()
    command.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in mine) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in mine)


def test_unknown_experiments_are_named():
    with pytest.raises(InputError, match="table1"):
        experiment("table9")
