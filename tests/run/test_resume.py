"""What may change when a run goes on."""

import pytest

from ddmd.errors import InputError
from ddmd.run.recipe import Recipe, load_recipe
from ddmd.run.resume import FREE, PLACES, TEACHER, _flat, check_identities, check_same


@pytest.fixture
def saved(tmp_path):
    def save(*overrides, name="shapes"):
        path = tmp_path / "recipe.yaml"
        path.write_text(load_recipe(name, overrides).to_yaml())
        return path

    return save


def test_every_free_key_is_a_recipes():
    known = _flat(load_recipe("shapes").model_dump())
    assert known.keys() >= FREE | PLACES | TEACHER


def test_the_same_recipe_in_other_words_is_the_same(saved):
    path = saved("train.cycles=4")
    text = path.read_text()
    path.write_text("# mine\n" + text.replace("alpha: 4.0", "alpha: 4"))
    assert path.read_text() != text
    check_same(path, load_recipe("shapes", ["train.cycles=4"]), begun=True)
    path.write_text("\n".join(line for line in text.splitlines() if "cudnn_attention" not in line))  # an older version's
    check_same(path, load_recipe("shapes", ["train.cycles=4"]), begun=True)


def test_length_and_housekeeping_may_change(saved):
    more = ["train.cycles=400", "train.log_every=1", "train.evaluate_every=7", "train.checkpoint_every=9", "train.keep_checkpoints=4"]
    more += ["train.stop_on_alarm=true", "train.cache=x", "report.prompts=9", "report.teacher_steps=3", "about=else", "train.export=last"]
    check_same(saved(), load_recipe("shapes", more), begun=True)


def test_all_other_keys_are_named_with_both_values(saved):
    other = load_recipe("shapes", ["objective.alpha=5", "train.batch=7", "adapters.rank=2", "train.cycles=2"])
    with pytest.raises(InputError) as error:
        check_same(saved("train.batch=8"), other, begun=True)
    text = str(error.value)
    assert "objective.alpha=5.0 where the run has 4.0" in text
    assert "train.batch=7 where the run has 8" in text
    assert "adapters" in text
    assert "cycles" not in text


def test_the_reports_teacher_is_free_only_where_nothing_learns_from_it(saved):
    keys = ["objective.gan.reals=teacher"]
    with pytest.raises(InputError, match=r"report\.teacher_steps=3"):
        check_same(saved(*keys), load_recipe("shapes", [*keys, "report.teacher_steps=3"]), begun=True)


def test_places_may_change_where_their_contents_are_compared(saved):
    moved = load_recipe("shapes", ["model=elsewhere", "train.prompts=p.txt"])
    check_same(saved(), moved, begun=True)
    with pytest.raises(InputError, match="model"):
        check_same(saved(), moved, begun=False)
    assert isinstance(moved, Recipe)
    known = {"model": "1", "train.prompts": "2"}
    check_identities(known, dict(known))
    with pytest.raises(InputError, match=r"train\.prompts.*other prompts"):
        check_identities(known, known | {"train.prompts": "3"})
    with pytest.raises(InputError, match="other weights"):
        check_identities(known, known | {"model": "3"})
    with pytest.raises(InputError, match="real images"):
        check_identities(known | {"train.reals": "4"}, known)
