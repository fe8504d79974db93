"""Drawing: resumable after a kill, shared between processes, the same for the same prompt and seed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ddmd import cli
from ddmd.errors import InputError
from ddmd.measure.evaluate import resolve, student_setting
from ddmd.measure.evaluate.artists import DenoiserArtist
from ddmd.measure.evaluate.generate import generate, seed_of, speed
from ddmd.measure.evaluate.items import Item
from ddmd.method.student import uniform_grid
from ddmd.run.results import Setting
from ddmd.teachers.builtin import model_folder
from ddmd.teachers.denoisers import load_denoiser


class Painter:
    """Draws its seed."""

    label, evaluations = "painter", 0

    def __init__(self, version=1):
        self.version, self.drawn = version, []

    def draw(self, prompts, seeds):
        self.evaluations += 4 * len(prompts)
        self.drawn += list(prompts)
        return [Image.new("RGB", (4, 4), (seed % 251, seed // 251 % 251, 0)) for seed in seeds]

    def identity(self):
        return {"model": self.label, "version": self.version}


ITEMS = [Item(f"{i:06d}", f"prompt {i}") for i in range(7)]


def quiet(done, total):
    pass


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_shards_and_batches_make_the_same_images(tmp_path):
    generate(Painter(), ITEMS, tmp_path / "whole", 2, 0, 32, quiet)
    for number in range(3):
        generate(Painter(), ITEMS, tmp_path / "parts", 2, 0, 2, quiet, (number, 3))
    assert len(pictures(tmp_path / "whole")) == 14 and pictures(tmp_path / "whole") == pictures(tmp_path / "parts")
    assert speed(tmp_path / "parts")["evaluations"] == 4
    seeds = {seed_of(s, item, copy) for s in range(3) for item in ITEMS for copy in range(4)}
    assert len(seeds) == 3 * 7 * 4


def test_what_is_there_is_not_drawn_again(tmp_path):
    generate(Painter(), ITEMS, tmp_path, 1, 0, 4, quiet)
    before = pictures(tmp_path)
    (tmp_path / "000003_0.png").unlink()
    again = Painter()
    generate(again, ITEMS, tmp_path, 1, 0, 4, quiet)
    assert again.drawn == ["prompt 3"] and pictures(tmp_path) == before


def test_other_images_are_refused(tmp_path):
    generate(Painter(), ITEMS, tmp_path / "a", 1, 0, 4, quiet)
    with pytest.raises(InputError, match="another version"):
        generate(Painter(2), ITEMS, tmp_path / "a", 1, 0, 4, quiet)
    with pytest.raises(InputError, match="another prompts, prompts_sha256"):
        generate(Painter(), ITEMS[:3], tmp_path / "a", 1, 0, 4, quiet)
    with pytest.raises(InputError, match="another seed"):
        generate(Painter(), ITEMS, tmp_path / "a", 1, 5, 4, quiet)
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(InputError, match="without a manifest"):
        generate(Painter(), ITEMS, tmp_path / "a", 1, 0, 4, quiet)


@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_noise_belongs_to_the_image_not_to_the_batch(sampler):
    folder = model_folder("shapes")
    denoiser = load_denoiser(folder)
    artist = DenoiserArtist("shapes", folder, denoiser, Setting(uniform_grid(2), sampler, 1.0))
    prompts, seeds = ["a red circle", "a blue star", "a green square"], [5, 6, 7]
    together = artist.draw(prompts, seeds)
    assert artist.evaluations == 2 * 3
    for prompt, seed, image in zip(prompts, seeds, together):
        (alone,) = artist.draw([prompt], [seed])
        assert np.abs(np.asarray(alone, int) - np.asarray(image, int)).max() <= 1
    other = artist.draw(["a red circle"], [8])[0]
    assert np.abs(np.asarray(other, int) - np.asarray(together[0], int)).max() > 10
    guided = DenoiserArtist("shapes", folder, denoiser, Setting(uniform_grid(2), sampler, 3.0))
    guided.draw(prompts, seeds)
    assert guided.evaluations == 2 * 2 * 3


@pytest.mark.slow
def test_a_killed_drawing_goes_on_without_losing_or_repeating(tmp_path):
    (tmp_path / "p.txt").write_text("".join(f"a red circle on a {c} background\n" for c in ("gray", "white", "black") for _ in range(8)))
    command = [
        sys.executable,
        "-m",
        "ddmd.cli",
        "generate",
        "shapes",
        "--data",
        str(tmp_path / "p.txt"),
        "--teacher-steps",
        "4",
        "--batch",
        "1",
    ]
    command += ["--out", str(tmp_path / "out")]
    place = tmp_path / "out" / "images" / "shapes" / "clip"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(place.glob("*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = {path.name: path.stat().st_mtime_ns for path in place.glob("*.png")}
    assert 3 <= len(first) < 24
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    images = {path.name: path.stat().st_mtime_ns for path in place.glob("*.png")}
    assert sorted(images) == [f"{i:06d}_0.png" for i in range(24)]
    assert {name: images[name] for name in first} == first
    drawn = sum(json.loads(line)["images"] for line in (place / "speed-0.jsonl").read_text().splitlines())
    assert 24 - 1 <= drawn <= 24  # a kill may fall between an image and its line


def test_shards_by_words_and_by_torchrun(tmp_path, monkeypatch):
    from ddmd.commands.measure import _shard

    assert _shard("2/4") == (2, 4) and _shard(None) == (0, 1)
    told = {"RANK": 1, "WORLD_SIZE": 3, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 3, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    assert _shard(None) == (1, 3)
    for wrong in ("4/4", "1", "a/b", "-1/2"):
        with pytest.raises(InputError, match="--shard"):
            _shard(wrong)


def test_a_shipped_student_is_drawn_by_its_own_settings():
    setting = student_setting(resolve("emoji-student"))
    assert setting is not None and setting.steps == 4 and setting.guidance == 1


def test_bad_words_are_one_line(tmp_path):
    runs = [
        (["generate", "shapes"], "--data"),
        (["generate", "shapes", "--data", str(tmp_path / "none.txt")], "none.txt"),
        (["generate", "shapes", "--suite", "table9"], "table9"),
        (["evaluate", "shapes", "--suite", "clip", "--scorer", "clip"], "NAME=PATH"),
        (["evaluate", "shapes", "--suite", "clip", "--scorer", "clap=/x"], "clap"),
        (["evaluate", "shapes", "--suite", "clip", "--scorer", "clip.x=/x"], "clip.x"),
        (["evaluate", "shapes", "--suite", "dpg", "--mode", "lax"], "--mode"),
        (["evaluate", "shapes", "--suite", "fid"], "--reference"),
        (["scorer", "setup", "clip"], "imagereward"),
    ]
    for words, said in runs:
        told = CliRunner().invoke(cli.app, words)
        assert isinstance(told.exception, InputError) and said in str(told.exception), (words, told.exception)
