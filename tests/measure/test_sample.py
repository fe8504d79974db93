"""Pictures of prompts: what --out may be, and that models of one call are timed alike."""

import os

import pytest
import torch

from ddmd.errors import InputError
from ddmd.measure import sample
from ddmd.measure.sample import check_picture_name, draw


def test_a_name_that_cannot_be_written_is_refused_before_drawing(tmp_path):
    for name in ("a.png", "a.JPG", "new/folder/a.webp", "a.jpeg"):
        check_picture_name(tmp_path / name)
    (tmp_path / "pics").mkdir()
    (tmp_path / "file").write_text("")
    for name, said in (
        ("pics", "a folder; name a picture"),
        ("a.gif", "'a.gif'; end the name with .png"),
        ("a", "end the name"),
        ("file/a.png", "no folder"),
    ):
        with pytest.raises(InputError, match=f"--out: found .*{said}"):
            check_picture_name(tmp_path / name)


def test_a_folder_without_the_right_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))  # root may write everywhere
    with pytest.raises(InputError, match="nothing can be written"):
        check_picture_name(tmp_path / "new" / "a.png")


def test_seeds_of_any_size(untrained):
    big, other = (draw(str(untrained), ["a red circle"], 1, 1.0, seed, lambda n: None)[1] for seed in (2**64, 2**64 + 1))
    assert big.isfinite().all() and not torch.equal(big, other)


def test_a_step_warms_up_and_the_text_is_not_timed(untrained, monkeypatch):
    seen, drawn = [], sample.sample_images

    def watched(denoiser, network, cond, grid, *more):
        seen.append(len(grid))
        return drawn(denoiser, network, cond, grid, *more)

    monkeypatch.setattr(sample, "sample_images", watched)
    draw(str(untrained), ["a red circle", "a blue star"], 3, 1.0, 0, lambda n: None)
    assert seen == [1, 3, 3]
