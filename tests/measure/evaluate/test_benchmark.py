"""Every suite from a model and from folders of images to its tables, with networks of the real architectures or stubs in their place."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ddmd import cli
from ddmd.errors import InputError
from ddmd.measure.evaluate import benchmark, scorers, scoring
from ddmd.measure.evaluate.benchmark import run_benchmark
from ddmd.measure.evaluate.dpg import COLUMNS
from ddmd.measure.evaluate.scorers import SCORERS, MissingScorer
from ddmd.measure.evaluate.suites import SUITES
from ddmd.measure.evaluate.wish import Wish
from ddmd.method.student import uniform_grid
from ddmd.run.results import Setting

from .small import paint

PROMPTS = ["a red circle", "a blue star", "a green square", "a large striped red circle"]
ROWS = [
    ("cat", "a red circle", "1", "0", "entity - whole (circle)", "Is there a circle?"),
    ("cat", "a red circle", "2", "1", "attribute - color (circle, red)", "Is the circle red?"),
    ("fog", "a blue star", "1", "0", "global - (x)", "Is this a photo?"),
]


class Brightness:
    """Rates a picture by its mean, or says that much of its features, or answers yes where it is bright."""

    width, rated, closed = 8, 0, 0

    def rate(self, images, prompts):
        Brightness.rated += len(images)
        return [sum(image.convert("L").resize((1, 1)).getdata()) / 10 + len(prompt) / 1000 for image, prompt in zip(images, prompts)]

    def features(self, images):
        return torch.tensor([[(i + 1) * value for i in range(8)] for value in self.rate(images, [""] * len(images))])

    def answer(self, image, questions):
        return ["yes" if self.rate([image], [""])[0] > 12 else "no" for _ in questions]

    def identity(self):
        return {"name": "brightness", "weights_sha256": "0" * 64}

    def close(self):
        Brightness.closed += 1


@pytest.fixture
def bright(monkeypatch):
    """All scorers but those whose files are given as missing."""
    Brightness.rated = Brightness.closed = 0

    def check(name, paths):
        if name in ("hps3", "imagereward") and not paths:
            raise MissingScorer(f"--scorer {name}", "no path", "get it")

    monkeypatch.setattr(benchmark, "check_files", check)
    monkeypatch.setattr(benchmark, "open_scorer", lambda name, paths: Brightness())


def quiet(what, done, total):
    pass


@pytest.fixture
def data(tmp_path):
    """A folder with the prompts of all suites."""
    root = tmp_path / "data"
    (root / "hps21").mkdir(parents=True)
    (root / "hps3").mkdir()
    (root / "hps21" / "photo.json").write_text(json.dumps(PROMPTS[:2]))
    (root / "hps21" / "anime.json").write_text(json.dumps(PROMPTS[2:]))
    (root / "hps3" / "science.json").write_text(json.dumps(PROMPTS[:2]))
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    with (root / "dpg_bench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *ROWS])
    return root


WHERE = {"dpg": "dpg_bench.csv", "hps21": "hps21", "hps3": "hps3", "table1": ""}
NUMBERS = {
    "dpg": "dpg",
    "hps21": "hps21",
    "hps3": "hps3",
    "imagereward": "imagereward",
    "clip": "clip",
    "fid": "fid",
    "images": "frechet_lite0",
    "offline": "judge",
}


@pytest.mark.parametrize("name", [name for name in SUITES if name not in ("table1", "coco10k")])
def test_every_suite_runs_from_a_model_to_its_tables(name, data, bright, tmp_path):
    paths = {scorer: dict.fromkeys(found.files, tmp_path) for scorer, found in SCORERS.items()}
    real = paint(tmp_path / "real", 8)
    source = data / WHERE.get(name, "prompts.txt")
    wish = Wish(("shapes",), source, tmp_path / "out", paths, reference=real, setting=Setting(uniform_grid(2), "sde", 1.0))
    results = run_benchmark(name, wish, quiet, print)
    (row,) = results["scores"].values()
    assert NUMBERS[name] in row and row["evaluations"] == 2 and row["skipped"] == 0
    copies = 4 if name == "dpg" else 1
    assert len(list((tmp_path / "out" / "images" / "shapes" / name).glob("*.png"))) == copies * (2 if name in ("dpg", "hps3") else 4)
    for file in ("table.md", "table.tex", "index.html"):
        assert "shapes" in (tmp_path / "out" / file).read_text()
    seen = Brightness.rated
    again = run_benchmark(name, wish, quiet, print)
    assert again["scores"] == results["scores"]
    if SCORERS[name if name in SCORERS else "lite0"].kind == "rating":
        assert Brightness.rated == seen  # what was rated is kept
    assert Brightness.closed == 2 * len(SUITES[name].parts[0].scorers)


def test_a_suite_of_several_goes_on_without_a_scorer_and_says_so(data, bright, tmp_path):
    said = []
    paths = {"clip": {"": tmp_path}, "hps21": {"": tmp_path}, "inception": {"": tmp_path}}
    real, mine = paint(tmp_path / "real", 8), paint(tmp_path / "mine", 4, 1)
    results = run_benchmark(
        "coco10k", Wish((str(mine),), data / "prompts.txt", tmp_path / "out", paths, reference=real), quiet, said.append
    )
    assert (
        set(results["not_scored"]) == {"imagereward", "hps3"} and len(said) == 2 and said[0].startswith("not scored: --scorer imagereward")
    )
    row = results["scores"]["mine"]
    assert {"fid", "patch_fid", "clip", "hps21"} <= set(row) and "kid" not in row
    assert row["remarks"]["kid"] == "left out: 4 images, 50 or more are needed" and "of 4 images" in row["remarks"]["fid"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "Not scored: --scorer hps3" in table and "mine, kid: left out" in table and "Frechet distances fall" in table


def test_nothing_is_drawn_where_no_scorer_could_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "draw", None)
    setting = Setting(uniform_grid(2), "sde", 1.0)
    with pytest.raises(MissingScorer, match="--scorer"):
        run_benchmark("table1", Wish(("shapes",), data, tmp_path / "out", setting=setting), quiet, print)
    monkeypatch.setattr(scorers, "missing", lambda modules: modules[0])
    real = paint(tmp_path / "real", 2)
    with pytest.raises(MissingScorer, match=r"no efficientnet-lite-pytorch; .*decoupled-dmd\[emoji\]"):
        run_benchmark("images", Wish(("shapes",), data / "prompts.txt", tmp_path / "out", reference=real, setting=setting), quiet, print)
    files = {"imagereward": dict.fromkeys(SCORERS["imagereward"].files, tmp_path)}
    with pytest.raises(MissingScorer, match="ddmd scorer setup imagereward"):
        run_benchmark("imagereward", Wish(("shapes",), data / "prompts.txt", tmp_path / "out", files, setting=setting), quiet, print)


def test_a_limit_asks_for_the_first_prompts_and_passes_over_other_images(data, bright, tmp_path):
    mine = paint(tmp_path / "mine", 4)
    paths = {"clip": {"": tmp_path}}
    results = run_benchmark("clip", Wish((str(mine),), data / "prompts.txt", tmp_path / "out", paths, limit=2), quiet, print)
    assert Brightness.rated == 2 and results["problems"] == {} and results["scores"]["mine"]["skipped"] == 0
    real = paint(tmp_path / "real", 3)
    results = run_benchmark("images", Wish((str(mine),), None, tmp_path / "o2", reference=real, limit=3), quiet, print)
    assert results["scores"]["mine"]["images"] == 3
    paint(mine, 1, name="image_0009.png")
    with pytest.raises(InputError, match=r"1 problems: image_0009\.png: no prompt"):
        run_benchmark("clip", Wish((str(mine),), data / "prompts.txt", tmp_path / "out", paths, limit=2), quiet, print)


def test_damaged_reference_pictures_are_told_before_any_drawing(data, bright, tmp_path, monkeypatch):
    real, mine = paint(tmp_path / "real", 5), paint(tmp_path / "mine", 4)
    (real / "image_0001.png").write_bytes(b"torn")
    (real / "._image_0002.png").write_bytes(b"\0\5\x16\7")  # macOS's
    (real / "folder.png").mkdir()
    wish = Wish((str(mine),), data / "prompts.txt", tmp_path / "out", reference=real)
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "draw", None)
        with pytest.raises(InputError, match=r"--reference .*1 problems: image_0001\.png: not a picture"):
            run_benchmark("images", wish, quiet, print)
    results = run_benchmark("images", replace(wish, skip_bad=True), quiet, print)
    assert results["scores"]["mine"]["reference_images"] == 4 and len(results["problems"]["--reference"]) == 1


def test_values_and_pictures_that_are_no_numbers_are_counted(data, bright, tmp_path, monkeypatch):
    """A scorer's NaN is left out with a remark; a model's NaN pixels are black, and told in the row."""
    real, mine = paint(tmp_path / "real", 4), paint(tmp_path / "mine", 4)
    rate = Brightness.rate
    monkeypatch.setattr(Brightness, "rate", lambda self, images, prompts: [float("nan"), *rate(self, images[1:], prompts[1:])])
    row = run_benchmark("clip", Wish((str(mine),), data / "prompts.txt", tmp_path / "out", {"clip": {"": tmp_path}}), quiet, print)
    row = row["scores"]["mine"]
    assert math.isfinite(row["clip"]) and row["remarks"]["clip"] == "1 of 4 values are no numbers and are left out"
    results = run_benchmark("images", Wish((str(mine),), None, tmp_path / "o2", reference=real), quiet, print)
    assert results["scores"]["mine"]["images"] == 3 and "no numbers" in results["scores"]["mine"]["remarks"]["images"]
    assert "NaN" not in (tmp_path / "o2" / "results.json").read_text()


def test_a_model_that_draws_nan_is_measured_to_the_end(data, bright, tmp_path, monkeypatch):
    real = paint(tmp_path / "real", 4)
    opened = benchmark.open_model

    def broken(folder):
        model = opened(folder)
        decode = model.decode
        model.decode = lambda latents: decode(latents) * float("nan")
        return model

    monkeypatch.setattr(benchmark, "open_model", broken)
    wish = Wish(("shapes",), data / "prompts.txt", tmp_path / "out", reference=real, setting=Setting(uniform_grid(1), "ode", 1.0))
    (row,) = run_benchmark("images", wish, quiet, print)["scores"].values()
    assert row["nonfinite"] == 4 and math.isfinite(row["frechet_lite0"])
    assert "not finite" in (tmp_path / "out" / "table.md").read_text()


def test_table1_of_folders_made_elsewhere(data, bright, tmp_path):
    paths = {"vqa": {"": tmp_path}, "hps21": {"": tmp_path}, "hps3": {"": tmp_path}}
    mine = tmp_path / "mine"
    paint(mine / "hps21", 4)
    paint(mine / "hps3", 2)
    (mine / "dpg").mkdir()
    for name, colours in {"cat": ("white", "white", "black", "white"), "fog": ("black",) * 4}.items():
        grid = Image.new("RGB", (32, 32))
        for i, colour in enumerate(colours):
            grid.paste(Image.new("RGB", (16, 16), colour), (16 * (i % 2), 16 * (i // 2)))
        grid.save(mine / "dpg" / f"{name}.png")
    results = run_benchmark("table1", Wish((str(mine),), data, tmp_path / "out", paths), quiet, print)
    row = results["scores"]["mine"]
    assert row["dpg"] == pytest.approx(100 * (3 / 4 + 0) / 2) and row["dpg_prompts"] == 2
    assert results["categories"]["dpg"]["mine"]["entity"] == 75 and set(results["categories"]["hps21"]["mine"]) == {"anime", "photo"}
    assert row["hps21"] == pytest.approx(sum(results["categories"]["hps21"]["mine"].values()) / 2)


def test_values_are_kept_for_the_same_scorer_and_picture_only(data, bright, tmp_path, monkeypatch):
    mine = paint(tmp_path / "mine", 4)
    wish = Wish((str(mine),), data / "prompts.txt", tmp_path / "out", {"clip": {"": tmp_path}})
    run_benchmark("clip", wish, quiet, print)
    assert Brightness.rated == 4
    kept = tmp_path / "out" / "scores" / "clip" / "mine-clip.jsonl"
    kept.write_text(kept.read_text()[:-8])  # a kill tore the last line
    run_benchmark("clip", wish, quiet, print)
    assert Brightness.rated == 5
    Image.new("RGB", (64, 64), "white").save(mine / "image_0002.png")
    run_benchmark("clip", wish, quiet, print)
    assert Brightness.rated == 6
    monkeypatch.setattr(Brightness, "identity", lambda self: {"name": "brightness", "weights_sha256": "1" * 64})
    run_benchmark("clip", wish, quiet, print)
    assert Brightness.rated == 10


def test_the_command_scores_two_folders_with_a_real_clip(data, clip_folder, tmp_path):
    a, b = paint(tmp_path / "a", 4, 1), paint(tmp_path / "b", 4, 2)
    words = ["evaluate", str(a), str(b), "--suite", "clip", "--data", str(data / "prompts.txt"), "--out", str(tmp_path / "out")]
    missing = CliRunner().invoke(cli.app, words)
    assert isinstance(missing.exception, InputError) and "--scorer clip" in str(missing.exception)
    told = CliRunner().invoke(cli.app, [*words, "--scorer", f"clip={clip_folder}"])
    assert told.exit_code == 0, told.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["scores"]) == {"a", "b"} and results["scorers"]["clip"]["prefix"] == "A photo depicts "
    low, high = results["scores"]["a"]["intervals"]["clip"]
    assert low <= results["scores"]["a"]["clip"] <= high
    assert "**" in (tmp_path / "out" / "table.md").read_text() and r"\textbf" in (tmp_path / "out" / "table.tex").read_text()


def test_memory_does_not_grow_with_the_number_of_images(bright, tmp_path, monkeypatch):
    """Pictures alive at once: the batch at hand, the next one, and one that is being made."""
    alive, most = set(), 0
    opened = scoring.open_image

    def watched(path):
        nonlocal most
        image = opened(path)
        import weakref

        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(scoring, "open_image", watched)
    monkeypatch.setattr(scoring, "BATCH", 5)
    mine, real = paint(tmp_path / "mine", 40, side=8), paint(tmp_path / "real", 40, 1, side=8)
    results = run_benchmark("images", Wish((str(mine),), None, tmp_path / "out", {}, reference=real), quiet, print)
    assert results["scores"]["mine"]["images"] == 40 and 5 < most <= 3 * 5
