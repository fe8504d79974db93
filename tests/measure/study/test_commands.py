"""The three commands, as written in docs/study.md."""

import socket

import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("starlette")
pytest.importorskip("choix")

from ddmd import cli
from ddmd.errors import InputError
from ddmd.measure.study.plan import Key, Plan
from ddmd.measure.study.votes import Vote, Votes


def run(*words):
    return CliRunner().invoke(cli.app, ["study", *map(str, words)])


def test_new_vote_report(tmp_path, sources):
    images, prompts = sources
    pairs = [f"{name}={folder}" for name, folder in images.items()]
    folder = tmp_path / "study"
    made = run("new", folder, "--images", *pairs, "--prompts", prompts, "--kind", "ranking", "--n", 3, "--annotators", 2, "--judges", 2)
    assert made.exit_code == 0, made.output
    assert "3 items, 2 annotators" in made.output
    plan, key = Plan.load(folder), Key.load(folder)
    assert isinstance(run("report", folder).exception, InputError)  # nobody has voted
    votes = Votes(folder)
    for token, hand in plan.annotators.items():
        for item in hand:
            votes.put(Vote(token, item, [key.items[item].index(name) for name in ("secret-beta", "secret-alpha", "secret-gamma")]))
    told = run("report", folder)
    assert told.exit_code == 0, told.output
    text = (folder / "report" / "report.md").read_text()
    assert "| secret-beta | 1.000 | - | 100.0 | 0.0 | 0.0 |" in text and "alpha 1.000" in text  # three items: no interval
    assert not any(token in path.read_text() for path in (folder / "report").iterdir() for token in plan.annotators)
    elsewhere = run("report", tmp_path, "--csv", folder / "report" / "votes.csv", "--out", tmp_path / "again")
    assert elsewhere.exit_code == 0, elsewhere.output
    assert (tmp_path / "again" / "ranks.csv").read_text() == (folder / "report" / "ranks.csv").read_text()
    onto_itself = run("report", tmp_path, "--csv", folder / "report" / "votes.csv", "--out", folder / "report")
    assert isinstance(onto_itself.exception, InputError) and "--csv lies" in str(onto_itself.exception)


def test_new_notes_what_it_cannot_hide(tmp_path, sources):
    images, prompts = sources
    first, second, _ = images.values()
    Image.new("RGB", (32, 16)).save(first / "2.png")
    Image.new("RGB", (65, 64)).save(second / "1.jpg")
    (second / "1.png").unlink()
    pairs = [f"{name}={folder}" for name, folder in images.items()]
    told = run("new", tmp_path / "s", "--images", *pairs, "--prompts", prompts, "--annotators", 6).output
    assert "pictures of 1 of 4 prompts differ in size (secret-alpha 32 x 16, secret-beta 66 x 64" in told
    assert "unlike formats (secret-alpha PNG, secret-beta JPEG and PNG, secret-gamma PNG)" in told
    assert "2 of 6 annotators have nothing to judge" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "no-folder"], "write NAME=DIR"),
        (["--images", "a=x", "a=y"], "a twice"),
        (["--images", "a=x"], "1 models"),
        (["--images", "a=x", "b=y", "--kind", "best"], "--kind"),
    ],
)
def test_bad_words_are_one_line(tmp_path, words, said):
    (tmp_path / "prompts.txt").write_text("a\n")
    failed = run("new", tmp_path / "s", *words, "--prompts", tmp_path / "prompts.txt")
    assert isinstance(failed.exception, InputError) and said in str(failed.exception)


def test_serve_prints_a_link_for_each_annotator(tmp_path, sources, monkeypatch):
    images, prompts = sources
    run("new", tmp_path / "s", "--images", *[f"{n}={f}" for n, f in images.items()], "--prompts", prompts, "--annotators", 3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failed = run("serve", tmp_path / "s", "--port", taken.getsockname()[1])
        assert isinstance(failed.exception, InputError) and "in use" in str(failed.exception)
    served = []
    monkeypatch.setattr("ddmd.measure.study.server.serve", lambda *given: served.append(given))
    told = run("serve", tmp_path / "s", "--port", 8765)
    tokens = list(Plan.load(tmp_path / "s").annotators)
    assert [f"http://127.0.0.1:8765/a/{token}/" in told.output for token in tokens] == [True] * 3
    assert served == [(tmp_path / "s", "127.0.0.1", 8765)]
