"""Rows of a table are timed together; what must be said of them is said."""

from types import SimpleNamespace

import pytest
import torch

from ddmd.run import results
from ddmd.run.results import Setting, Timed, add_seconds, remarks, table


def test_rows_are_timed_in_turn_on_the_same_prompts_after_a_step_of_each(monkeypatch):
    """The machine's clock runs twice as fast in the second round: the median of the rounds ignores it."""
    asked, clock = [], [0.0]

    def sample(denoiser, network, cond, grid, sampler, guidance, seed):
        asked.append((network, len(grid), len(cond["text"])))
        clock[0] += len(grid) * guidance * (2 if 6 <= len(asked) <= 7 else 1)

    monkeypatch.setattr(results, "sample_images", sample)
    monkeypatch.setattr(results, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    cond = {"text": torch.zeros(40, 2)}
    timed = {
        name: Timed(None, name, Setting(tuple(range(steps)), "ode", guidance), cond)
        for name, steps, guidance in (("teacher", 50, 2.0), ("no-cfg", 50, 1.0), ("student", 4, 1.0))
    }
    scores = {name: {} for name in timed}
    add_seconds(scores, timed)
    assert [entry[:2] for entry in asked] == [("teacher", 1), ("no-cfg", 1), ("student", 1)] + 3 * [
        ("teacher", 50), ("no-cfg", 50), ("student", 4),
    ]  # fmt: skip
    assert {n for _, _, n in asked} == {16}
    assert scores == {
        "teacher": {"seconds_per_image": 100 / 16}, "no-cfg": {"seconds_per_image": 50 / 16}, "student": {"seconds_per_image": 4 / 16},
    }  # fmt: skip


def test_remarks_and_quiet_columns():
    scores = {"a": {"overall": 0.5, "nonfinite": 0, "remarks": {"frechet": "of 3 images"}}, "b": {"overall": 0.25}}
    assert remarks(scores) == ["a, frechet: of 3 images."]
    assert table(scores) == [["", "overall"], ["a", "0.500"], ["b", "0.250"]]
    scores["a"]["nonfinite"] = 2
    assert table(scores)[0] == ["", "overall", "nonfinite"] and table(scores)[1][-1] == "2"


@pytest.mark.parametrize("missing", [None])
def test_a_number_that_is_left_out_is_an_empty_cell(missing):
    assert table({"a": {"overall": 0.5, "frechet": missing}, "b": {"overall": 0.5, "frechet": 3.0}})[1] == ["a", "0.500", ""]
