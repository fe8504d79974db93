"""Sample grids and the report of runs of small and of large images."""

import json
import re

import pytest
import torch
from PIL import Image

from ddmd.run.pictures import cell_of, comparison, grid_bytes, picture_bytes, strips, to_pil, write_grid
from ddmd.run.report import write_report


def photographs(n, side):
    """Smooth pictures with some grain, as a VAE gives."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(n, 3, 16, 16), size=(side, side), mode="bicubic")
    return (0.6 * smooth + 0.03 * torch.randn(n, 3, side, side)).clamp(-1, 1)


@pytest.mark.parametrize(("side", "cell"), [(16, 96), (32, 96), (64, 96), (128, 128)])
def test_small_worlds_keep_their_pixels(side, cell, tmp_path):
    images = photographs(2, side)
    grid = comparison({"teacher": images, "student": images}, ["a", "b"])
    assert cell_of(side, 1000) == cell
    path = write_grid(tmp_path / "cycle-000000", grid, side)
    shown = Image.open(path).crop((6, 22, 6 + cell, 22 + cell))
    assert path.name == "cycle-000000.png"
    assert shown.tobytes() == to_pil(images[0]).resize((cell, cell), Image.Resampling.NEAREST).tobytes()


def test_grids_of_large_images_have_a_bound():
    assert [cell_of(1024, n) for n in (1, 15, 24, 32, 500, 100_000)] == [512, 512, 408, 353, 96, 96]
    assert cell_of(256, 1) == 256
    grid = comparison({"teacher": photographs(2, 256), "student": photographs(2, 256)}, ["a", "b"])
    suffix, content = grid_bytes(grid, 256)
    assert suffix == ".jpg" and content.startswith(b"\xff\xd8") and grid.width >= 2 * 256
    assert strips({"a": photographs(2, 256)}, whole=True).height >= 256


def test_pixels_that_are_no_numbers_are_black_and_infinite_ones_clipped():
    image = torch.tensor([float("nan"), float("inf"), float("-inf")]).view(3, 1, 1)
    assert to_pil(image).getpixel((0, 0)) == (0, 255, 0)


def test_the_suffix_is_the_format():
    image = Image.new("RGB", (8, 8), "red")
    for suffix, mark in ((".png", b"\x89PNG"), (".jpg", b"\xff\xd8"), (".jpeg", b"\xff\xd8"), (".webp", b"RIFF")):
        assert picture_bytes(image, suffix).startswith(mark)


def written(folder, side, grid):
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"cycle": c, "dm": 0.5 * c}) + "\n" for c in range(3)))
    for cycle in (0, 50, 100):
        write_grid(folder / "samples" / f"cycle-{cycle:06d}", grid, side)
    results = {"machine": "m", "seed": 0, "scores": {"student": {"steps": 4, "remarks": {"frechet": "of 4 images"}}}, "pixels": side}
    return write_report(folder, "run", "a: 1", results, [], 60.0)


def test_the_report_of_large_images_is_small_and_links_to_them(tmp_path):
    grid = Image.effect_noise((1300, 3500), 60).convert("RGB")  # worse than photographs
    page = written(tmp_path, 1024, grid)
    text = page.read_text()
    assert page.stat().st_size < 5_000_000 and text.count("data:image/jpeg;base64,") == 3
    linked = re.findall(r'<a href="([^"]+)">', text)
    assert linked == [f"samples/cycle-{c:06d}.jpg" for c in (0, 50, 100)] and all((tmp_path / name).is_file() for name in linked)
    assert "pixelated" not in text and "student, frechet: of 4 images." in text


def test_the_report_of_small_images_shows_their_pixels(tmp_path):
    grid = comparison({"student": photographs(4, 32)}, list("abcd"))
    page = written(tmp_path, 32, grid).read_text()
    assert "pixelated" in page and page.count("data:image/png;base64,") == 3
