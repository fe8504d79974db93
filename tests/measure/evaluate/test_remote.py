"""Scorers in environments of their own: the protocol with stub adapters, and a real environment made for one."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from ddmd.errors import InputError
from ddmd.measure.evaluate.scorers import MissingScorer, open_scorer, remote
from ddmd.measure.evaluate.scorers.remote import ADAPTERS, RemoteScorer, setup, statuses

STUB = f"""
import sys
sys.path.insert(0, {str(ADAPTERS)!r})
from protocol import serve

def load(paths):
    print("packages chatter on standard output")
    if "bad" in paths:
        raise FileNotFoundError(paths["bad"])
    def work(request):
        print("so do scorers")
        if "questions" in request:
            return ["yes" if "cat" in question else "no" for question in request["questions"]]
        if request["prompts"][0] == "fail":
            raise ValueError("a picture of nothing")
        if request["prompts"][0] == "die":
            import os
            os._exit(9)
        if request["prompts"][0] == "short":
            return []
        return [len(prompt) + 0.5 for prompt in request["prompts"]]
    return {{"package": "stub 1"}}, work

serve(load)
"""


@pytest.fixture
def stub(tmp_path):
    script = tmp_path / "stub.py"
    script.write_text(STUB)
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"w")
    started = []

    def start(**paths):
        started.append(RemoteScorer("stub", {"": weights, **paths}, [sys.executable, str(script)]))
        return started[-1]

    yield start
    for scorer in started:
        scorer.close()


def test_values_come_back_in_order_and_chatter_does_not(stub):
    scorer = stub()
    images = [Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4))]
    assert scorer.rate(images, ["abc", "de"]) == [3.5, 2.5]
    assert scorer.answer(images[0], ["a cat?", "a dog?"]) == ["yes", "no"]
    assert scorer.identity()["package"] == "stub 1" and len(scorer.identity()["weights_sha256"]) == 64


@pytest.mark.parametrize(
    ("prompt", "said"), [("fail", "ValueError: a picture of nothing"), ("die", "ended with code 9"), ("short", "one value each")]
)
def test_what_goes_wrong_there_is_told_here(stub, prompt, said):
    with pytest.raises(InputError, match=said):
        stub().rate([Image.new("RGB", (4, 4))], [prompt])


def test_a_scorer_that_cannot_open_says_why(stub):
    with pytest.raises(InputError, match="FileNotFoundError: .*nowhere"):
        stub(bad=Path("nowhere"))


def test_without_an_environment_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DDMD_CACHE", str(tmp_path))
    (tmp_path / "w").write_bytes(b"w")
    with pytest.raises(MissingScorer, match="ddmd scorer setup imagereward"):
        open_scorer("imagereward", dict.fromkeys(("", "config", "tokenizer"), tmp_path / "w"))
    rows = {row[0]: row for row in statuses()}
    assert rows["imagereward"][2] == "ddmd scorer setup imagereward" and "ImageReward.pt" in rows["imagereward"][3]


def test_adapters_are_python_that_stands_alone():
    for name in remote.REQUIREMENTS:
        source = (ADAPTERS / f"{name}.py").read_text()
        compile(source, name, "exec")
        assert "ddmd" not in source.replace("docs", "") and "from protocol import serve" in source


@pytest.mark.slow
def test_an_environment_is_made_once_and_runs_an_adapter(tmp_path, monkeypatch):
    monkeypatch.setenv("DDMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "ADAPTERS", tmp_path)
    (tmp_path / "mplug.py").write_text(STUB + "\nassert 'ddmd' not in sys.modules\n")
    said = []
    folder = setup("mplug", said.append, requirements=[])
    assert setup("mplug", said.append, requirements=[]) == folder and said[-1].startswith("mplug: ready")
    scorer = RemoteScorer("mplug", {})
    try:
        assert scorer.answer(Image.new("RGB", (4, 4)), ["a cat?"]) == ["yes"]
    finally:
        scorer.close()
    with pytest.raises(InputError, match="scorer mplug"):
        setup("mplug", said.append, requirements=["no-such-package-of-ddmd==0"])
    assert not remote.is_ready("mplug")
