"""metrics.jsonl: valid JSON always, and no damage to it stands in the way."""

import json
from types import SimpleNamespace

import pytest

from ddmd.measure.lab.analysis import curve_rows
from ddmd.run.logs import Logs, metric_rows


def rows(folder):
    return [json.loads(line, parse_constant=pytest.fail) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    log = Logs(tmp_path, 0, pytest.fail)
    log.write({"cycle": 1, "fake_loss": float("nan"), "dm": float("inf"), "ca": 1.0})
    log.close()
    assert rows(tmp_path) == [{"cycle": 1, "fake_loss": None, "dm": None, "ca": 1.0}]


def test_damaged_lines_and_those_past_the_cycle_are_dropped(tmp_path):
    lines = [b'{"cycle": 1}', b"\xff\xfe", b'{"cycle": "x"}', b"[1]", b'{"no": 1}', b'{"cycle": 2}', b'{"cycle": 3}', b'{"cycle": 2, "to']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    said = []
    log = Logs(tmp_path, 2, said.append)
    log.write({"cycle": 3})
    log.close()
    assert [row["cycle"] for row in rows(tmp_path)] == [1, 2, 3]
    assert len(said) == 1 and "line 2" in said[0] and "3 more" in said[0]
    assert metric_rows(tmp_path / "none") == []


def test_the_laboratory_leaves_out_what_was_not_finite(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"cycle": 1, "dm": null, "ca": 2.0}\nrubbish\n')
    rows = curve_rows([SimpleNamespace(folder=tmp_path, label="a", seed=0)])
    assert [(row["name"], row["value"]) for row in rows] == [("ca", 2.0)]
