"""The demo page: rows as the models sample, and the page itself over HTTP."""

import json
import shutil

import pytest
import torch

from ddmd.errors import InputError
from ddmd.measure.demo import Pair, draw_way, page, shown, ways
from ddmd.measure.sample import draw
from ddmd.teachers.builtin import model_folder

PROMPT = "a large striped red circle"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The shapes teacher passed off as a student of two steps."""
    folder = tmp_path_factory.mktemp("student") / "student"
    shutil.copytree(model_folder("shapes"), folder)
    (folder / "ddmd.json").write_text(json.dumps({"grid": [1.0, 0.5], "sampler": "sde", "guidance": 1.0, "resolution": 32}))
    return str(folder)


def test_rows_are_what_the_models_draw(student):
    pair = Pair.open("shapes", student)
    assert [(name, s.steps, s.guidance) for name, _, s in pair.settings(3.0)] == [
        ("teacher", 50, 3.0), ("teacher", 4, 3.0), ("student", 1, 1.0), ("student", 2, 1.0),
    ]  # fmt: skip
    name, model, setting = pair.settings(3.0)[-1]
    row = draw_way(name, model, setting, PROMPT, seed=3)
    _, images, _ = draw(student, [PROMPT], None, None, 3, lambda done: None)
    torch.testing.assert_close(row.image.cpu(), images[0])
    assert len(row.way) == 2 and torch.equal(row.way[-1], row.image) and row.seconds > 0
    assert shown(row.image).size == (96, 96)
    long = draw_way("teacher", pair.teacher, pair.settings(2.0)[0][2], PROMPT, seed=3)
    assert 2 < len(long.way) <= 8 and torch.allclose(long.way[-1], long.image, atol=1e-5)
    assert ways([row, long]).width > ways([row]).width


def test_only_a_student_of_ddmd_is_one():
    with pytest.raises(InputError, match="without a student's settings"):
        Pair.open("shapes", "shapes")


@pytest.mark.slow
def test_the_page_answers_over_http(student, monkeypatch):
    gradio = pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    blocks = page(Pair.open("shapes", student), PROMPT)
    assert isinstance(blocks, gradio.Blocks)
    _, address, _ = blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False)
    try:
        caller = client.Client(address, verbose=False)
        gallery, strip, said = caller.predict(PROMPT, 1, 3, api_name="/draw")
        assert [entry["caption"].rpartition(",")[0] for entry in gallery] == [
            "teacher, 50 steps", "teacher, 4 steps", "student, 1 step", "student, 2 steps",
        ]  # fmt: skip
        assert strip and "times faster" in said
        with pytest.raises(Exception, match="unknown words zebra"):
            caller.predict("a zebra", 1, 3, api_name="/draw")
    finally:
        blocks.close()
