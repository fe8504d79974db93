"""Folders of images: what is wrong with them, and streamed distances against ones computed at once."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ddmd import cli
from ddmd.errors import InputError
from ddmd.measure.evaluate.gallery import find_images, require_whole
from ddmd.measure.evaluate.items import Item
from ddmd.measure.evaluate.scorers import features
from ddmd.measure.evaluate.scorers.features import Lite0, Stream, inception_input, patch

from .small import paint


def items(n):
    return [Item(f"{i:06d}", f"prompt {i}") for i in range(n)]


def names(gallery):
    return {item: [path.name for path in paths] for item, paths in gallery.images.items()}


def test_every_problem_is_listed_with_its_file(tmp_path):
    folder = paint(tmp_path / "a", 6)
    (folder / "image_0001.png").write_bytes(b"\x89PNG torn")
    (folder / "image_0002.png").rename(folder / "copy_0003.png")
    Image.new("RGB", (32, 32)).save(folder / "image_0004.png")
    Image.new("RGB", (64, 64)).save(folder / "cover.png")
    found = find_images("a", folder, items(8), resolution=64)
    assert list(found.images) == ["000000", "000003", "000005"] and found.missing == 5
    assert found.problems == [
        "cover.png: no prompt of this name",
        "image_0001.png: not a picture that can be read (of no known format)",
        "image_0003.png: copy_0003.png is there already",
        "image_0004.png: 32 x 32 pixels, not 64",
        *(f"prompt {n:06d}: no usable image" for n in (1, 2, 4, 6, 7)),
    ]
    with pytest.raises(InputError, match="9 problems: cover.png.* and 4 more"):
        require_whole("a", found.problems, skip=False)
    require_whole("a", found.problems, skip=True)


def test_several_images_a_prompt_and_grids(tmp_path):
    asked = [Item("cat", "a cat"), Item("dog_2", "two dogs"), Item("fog", "fog")]
    folder = paint(tmp_path / "a", 2, name="cat_{}.png")
    paint(folder, 1, name="dog_2_0.png")
    paint(folder, 1, name="fog.png")  # a grid: it counts for all copies
    found = find_images("a", folder, asked, copies=2)
    assert names(found) == {"cat": ["cat_0.png", "cat_1.png"], "dog_2": ["dog_2_0.png"], "fog": ["fog.png"]}
    assert found.problems == ["prompt dog_2: 1 images of 2"]
    assert [item.id for item, _ in found.pairs(asked)] == ["cat", "cat", "dog_2", "fog"]


def test_a_table_gives_the_numbers(tmp_path):
    folder = paint(tmp_path / "a", 2)
    rows = [{"file_name": "image_0000.png", "row": 1}, {"file_name": "../image_0001.png", "row": 0}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert names(find_images("a", folder, items(2))) == {"000000": ["image_0001.png"], "000001": ["image_0000.png"]}
    (folder / "metadata.jsonl").write_text('{"file_name": "image_0000.png"}\n')
    with pytest.raises(InputError, match="line 1"):
        find_images("a", folder, items(2))


def test_empty_and_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        find_images("a", tmp_path / "empty", items(1))
    with pytest.raises(InputError, match="no such folder"):
        find_images("a", tmp_path / "nowhere", items(1))


def test_streamed_moments_are_those_of_all_and_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(features, "KEPT", 10)
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) + 3
    stream = Stream(16)
    for part in rows.split(7):
        stream.add(part)
    mean, cov = stream.moments()
    torch.testing.assert_close(mean, rows.double().mean(0))
    torch.testing.assert_close(cov, rows.double().T.cov())
    assert stream.count == 40 and stream.kept.shape == (10, 16)


def test_the_draw_is_even(monkeypatch):
    monkeypatch.setattr(features, "KEPT", 50)
    seen = torch.zeros(500)
    for seed in range(40):
        stream = Stream(4, seed)
        stream.add(torch.arange(500.0)[:, None].expand(500, 4))
        seen[stream.kept[:, 0].long()] += 1
    early, late = seen[:250].mean(), seen[250:].mean()
    assert early == pytest.approx(4, rel=0.15) and late == pytest.approx(4, rel=0.15)


def test_what_fid_looks_at():
    left, right = Image.new("RGB", (512, 1024), "red"), Image.new("RGB", (512, 1024), "blue")
    wide = Image.new("RGB", (1024, 1024))
    wide.paste(left, (0, 0)), wide.paste(right, (512, 0))
    seen = inception_input(wide, 512)
    assert seen.size == (299, 299) and seen.getpixel((5, 150)) == (255, 0, 0) and seen.getpixel((293, 150)) == (0, 0, 255)
    centre = patch(wide)
    assert centre.size == (299, 299) and centre.getpixel((148, 0)) == (255, 0, 0) and centre.getpixel((150, 0)) == (0, 0, 255)
    assert patch(Image.new("RGB", (100, 200))).size == (299, 299)


@pytest.mark.slow
def test_sizes_may_differ():
    pytest.importorskip("efficientnet_lite_pytorch")
    small, large = Image.effect_noise((32, 32), 90).convert("RGB"), Image.effect_noise((64, 64), 90).convert("RGB")
    together = Lite0().features([small, large, small])
    assert together.shape == (3, 1280) and torch.equal(together[0], together[2])
    torch.testing.assert_close(together[1], Lite0().features([large])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_command_orders_sets_and_says_what_was_skipped(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    real, same, other = paint(tmp_path / "real", 60, 1), paint(tmp_path / "same", 60, 2), paint(tmp_path / "bright", 60, 3, level=180)
    (other / "image_0007.png").write_bytes(b"")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(60)))
    words = ["evaluate", same, other, "--suite", "images", "--reference", real, "--data", tmp_path / "prompts.txt"]
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
    assert len(results["scorers"]["lite0"]["weights_sha256"]) == 64
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| bright |" in table and "bright/images: 2 problems, left out" in table
    no_prompts = CliRunner().invoke(
        cli.app, ["evaluate", str(same), "--suite", "images", "--reference", str(real), "--out", str(tmp_path / "o2")]
    )
    assert no_prompts.exit_code == 0 and "same" in no_prompts.output
