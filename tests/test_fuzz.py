"""A small slice of benchmarks/fuzz.py: what is read is accepted or refused, never a traceback."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "benchmarks" / "fuzz.py")
fuzzing = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzzing)


@pytest.mark.parametrize(
    ("kind", "cases"), [("overrides", 60), ("recipes", 60), ("prompts", 120), ("headers", 50), ("schedulers", 4), ("configs", 4)]
)
def test_damaged_inputs_are_read_or_refused(kind, cases, untrained, tmp_path):
    counts, faults = fuzzing.fuzz(kind, range(cases), 1, tmp_path, untrained)
    assert faults == {}
    assert counts["refused"] > 0
    assert counts.total() == cases


def test_damaged_arrow_files_end_no_process(untrained):
    pytest.importorskip("pyarrow")
    counts, faults = fuzzing.fuzz_in_children(range(40), 1, untrained)
    assert faults == {}
    assert counts["refused"] > 20


def test_faults_are_told():
    def fail(draw):
        raise KeyError("a")

    def hang(draw):
        while True:
            pass

    assert fuzzing.outcome(fail, None).startswith("KeyError")
    fuzzing.SECONDS, before = 1, fuzzing.SECONDS
    try:
        assert fuzzing.outcome(hang, None) == "more than 1 s"
    finally:
        fuzzing.SECONDS = before
