"""Folders of images: what is wrong with them, and streamed distances against ones computed at once."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("torchmetrics")

from ddmd import cli
from ddmd.errors import InputError
from ddmd.measure.evaluate import folders
from ddmd.measure.evaluate.folders import Stream, match_images, read_batches, require_whole, stream_features
from ddmd.teachers.builtin.emoji.judge import picture_features


def paint(folder, n, seed=0, side=64, level=0):
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for i in range(n):
        small = chance.integers(level, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST).save(folder / f"image_{i:04d}.png")
    return folder


def test_every_problem_is_listed_with_its_file(tmp_path):
    folder = paint(tmp_path / "a", 6)
    (folder / "image_0001.png").write_bytes(b"\x89PNG torn")
    (folder / "image_0002.png").rename(folder / "copy_0003.png")
    Image.new("RGB", (32, 32)).save(folder / "image_0004.png")
    Image.new("RGB", (64, 64)).save(folder / "cover.png")
    found = match_images(folder, 8, 64)
    assert list(found.paths) == [0, 3, 5]
    assert found.problems == [
        "cover.png: no prompt of this number",
        "image_0001.png: a damaged picture",
        "image_0003.png: prompt 3 has copy_0003.png already",
        "image_0004.png: 32 x 32 pixels, not 64",
        *(f"prompt {n}: no usable image" for n in (1, 2, 4, 6, 7)),
    ]
    with pytest.raises(InputError, match="9 problems: cover.png.* and 4 more"):
        require_whole(folder, found, skip=False)
    require_whole(folder, found, skip=True)


def test_a_table_gives_the_numbers(tmp_path):
    folder = paint(tmp_path / "a", 2)
    rows = [{"file_name": "image_0000.png", "row": 1}, {"file_name": "../image_0001.png", "row": 0}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {k: p.name for k, p in match_images(folder, 2).paths.items()} == {0: "image_0001.png", 1: "image_0000.png"}
    (folder / "metadata.jsonl").write_text('{"file_name": "image_0000.png"}\n')
    with pytest.raises(InputError, match="line 1"):
        match_images(folder, 2)


def test_empty_missing_and_too_few(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        match_images(tmp_path / "empty", 1)
    with pytest.raises(InputError, match="no such folder"):
        match_images(tmp_path / "nowhere", 1)
    one = match_images(paint(tmp_path / "one", 1), 1)
    with pytest.raises(InputError, match="1 usable images"):
        require_whole(tmp_path / "one", one, skip=True)


def test_streamed_moments_are_those_of_all_and_memory_is_bounded(tmp_path, monkeypatch):
    paths = sorted(paint(tmp_path / "a", 40).iterdir())
    images = torch.cat(list(read_batches(paths)))
    features = picture_features(images)
    monkeypatch.setattr(folders, "KEPT", 10)
    told = []
    stream = stream_features(paths, lambda *count: told.append(count))
    mean, cov = stream.moments()
    torch.testing.assert_close(mean, features.double().mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cov, features.double().T.cov(), rtol=1e-3, atol=1e-5)
    assert stream.count == 40 and stream.kept.shape == (10, 1280) and told[-1] == (40, 40)


def test_the_draw_is_even(monkeypatch):
    monkeypatch.setattr(folders, "KEPT", 50)
    seen = torch.zeros(500)
    for seed in range(40):
        stream = Stream(seed)
        stream.add(torch.arange(500.0)[:, None].expand(500, 1280))
        seen[stream.kept[:, 0].long()] += 1
    early, late = seen[:250].mean(), seen[250:].mean()
    assert early == pytest.approx(4, rel=0.15) and late == pytest.approx(4, rel=0.15)


def test_sizes_may_differ(tmp_path):
    paths = [*sorted(paint(tmp_path / "a", 3).iterdir()), *sorted(paint(tmp_path / "b", 2, side=32).iterdir())]
    assert [tuple(batch.shape) for batch in read_batches(paths)] == [(3, 3, 64, 64), (2, 3, 32, 32)]


@pytest.mark.slow
def test_the_command_orders_sets_and_says_what_was_skipped(tmp_path):
    real, same, other = paint(tmp_path / "real", 60, 1), paint(tmp_path / "same", 60, 2), paint(tmp_path / "bright", 60, 3, level=180)
    (other / "image_0007.png").write_bytes(b"")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(60)))
    words = ["evaluate", same, other, "--suite", "images", "--reference", real, "--prompts-file", tmp_path / "prompts.txt"]
    words = [*map(str, words), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(cli.app, words)
    assert isinstance(refused.exception, InputError) and "2 problems: image_0007.png" in str(refused.exception)
    told = CliRunner().invoke(cli.app, [*words, "--skip-bad"])
    assert told.exit_code == 0, told.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = results["scores"]
    assert (
        scores["same"]["kid_lite0"] < scores["bright"]["kid_lite0"] and scores["same"]["frechet_lite0"] < scores["bright"]["frechet_lite0"]
    )
    assert (scores["same"]["skipped"], scores["bright"]["skipped"]) == (0, 1) and scores["bright"]["images"] == 59
    assert len(results["scorer"]["weights_sha256"]) == 64 and "| bright |" in (tmp_path / "out" / "table.md").read_text()
