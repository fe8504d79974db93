import copy
import functools
import math

import pytest
import yaml
from pydantic import ValidationError

from ddmd.errors import InputError
from ddmd.run.overrides import section_of
from ddmd.run.plain_yaml import parse_yaml
from ddmd.run.recipe import Recipe, load_recipe, preset_names


def test_every_preset_loads_and_survives_a_round_trip(tmp_path):
    assert "shapes" in preset_names()
    for name in preset_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.about
        path = tmp_path / f"{name}.yaml"
        path.write_text(recipe.to_yaml())
        assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("shapes", {"renoise.schedule": "hybrid", "student.steps": 4}),
        ("shapes_coupled", {"renoise.schedule": "coupled"}),
        ("shapes_full", {"renoise.schedule": "full"}),
        ("shapes_constrained", {"renoise.schedule": "constrained"}),
        ("shapes_ca_only", {"objective.dm_weight": 0.0, "objective.mean_variance": None}),
        ("shapes_dm_only", {"objective.ca_weight": 0.0}),
        ("shapes_diff_instruct", {"objective.alpha": 1.0, "student.steps": 1, "renoise.schedule": "full"}),
        ("shapes_ca_gan", {"objective.dm_weight": 0.0, "objective.gan.where": "teacher_init"}),
        ("shapes_dmd2", {"renoise.schedule": "coupled", "objective.normalizer": "dmd2", "objective.gan.where": "fake", "fake.updates": 5}),
        ("shapes_dmd2_hybrid", {"renoise.schedule": "hybrid", "objective.normalizer": "dmd2", "objective.gan.where": "fake"}),
        ("shapes_ca_mean_variance", {"objective.dm_weight": 0.0, "objective.mean_variance.targets": "data"}),
    ],
)
def test_presets_are_the_papers_rows(name, facts):
    dumped = load_recipe(name).model_dump()
    for key, wanted in facts.items():
        value = dumped
        for part in key.split("."):
            value = value[part]
        assert value == wanted


def test_numbers_may_be_written_as_physicists_do():
    assert load_recipe("shapes", ["optim.student_lr=5e-5"]).optim.student_lr == 5e-5


def test_overrides_are_read_as_yaml_and_nested():
    recipe = load_recipe("shapes", ["objective.alpha=3.5", "renoise.ca_window=[0.1, 0.5]", "adapters.rank=8", "student.grid=[1, 0.5]"])
    assert recipe.objective.alpha == 3.5
    assert recipe.schedule.ca_window == (0.1, 0.5)
    assert recipe.adapters.rank == 8
    assert recipe.grid == (1.0, 0.5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.alfa=3", ["objective.alfa", "unknown", "alpha"]),
        ("objective.alpha=0.5", ["objective.alpha", "0.5", "greater"]),
        ("objective.alpha=high", ["objective.alpha", "high", "number"]),
        ("objective.alpha_spread=[0.5, 2]", ["alpha", "0.5"]),
        ("student.steps=0", ["student.steps", "0"]),
        ("student.steps=2.5", ["student.steps", "2.5", "integer"]),
        ("student.grid=[0.9, 0.5]", ["grid", "start at 1"]),
        ("renoise.ca_window=[0.2, 1.5]", ["ca_window", "1.5"]),
        ("renoise.clamp=[0.9, 0.1]", ["clamp"]),
        ("renoise.schedule=both", ["renoise.schedule", "both", "hybrid"]),
        ("adapters.rank=0", ["adapters.rank", "0"]),
        ("fake.range=[0.5, 0.2]", ["fake.range"]),
        ("objective.gan.levels=[0.5, 2]", ["objective.gan.levels"]),
        ("objective.normalizer=l2", ["objective.normalizer", "per_branch"]),
        ("train=5", ["train", "5"]),
        ("objective.alpha", ["key=value"]),
        ("objective.alpha=[", ["objective.alpha", "YAML"]),
        ("name.of=3", ["name"]),
        ("renoise.ca_window=[0.99, 1.0]", ["ca_window", "outside clamp"]),
        ("optim.student_lr=-1", ["optim.student_lr", "-1"]),
        ("suite=null", ["train.prompts"]),
        ("optim.betas=[0.0, 1.0]", ["optim.betas", "less than 1"]),
        ("student.steps=100000", ["student.steps", "1000"]),
        ("report.student_steps=[4, 100000]", ["report.student_steps", "1000"]),
        ("resolution=7", ["resolution", "8"]),
        ("resolution=1000000000", ["resolution", "16384"]),
        ("train.batch=1000000000", ["train.batch", "65536"]),
        ("train.cycles=99999999999999999999", ["train.cycles"]),
        ("optim.decay=-1", ["optim.decay", "-1"]),
        ("renoise.clamp=[-0.1, 0.9]", ["clamp", "-0.1"]),
        ("objective.mean_variance.targets=[0.1, 0.0]", ["targets", "variance"]),
        ("optim.sharded=yes", ["optim.sharded", "true or false"]),
        ("train.cycles=010", ["train.cycles", "010"]),
        ("model=", ["model", "at least 1"]),
        ("name=../elsewhere", ["name", "letters"]),
        ("a.b.c.d.e.f.g.h.i=1", ["unknown key"]),
        ("about=a\0b", ["about", "NUL"]),
        ("train.prompts=caf\udce9.txt", ["train.prompts", "UTF-8"]),
        ("objective.alpha=" + "9" * 5000, ["objective.alpha"]),
    ],
)
def test_impossible_values_name_the_key_what_was_found_and_the_mend(override, words):
    with pytest.raises(InputError) as caught:
        load_recipe("shapes", [override])
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_a_fake_of_adapters_cannot_follow():
    with pytest.raises(InputError, match=r"^fake\.follow: found 0\.03 with adapters.*adapters=null"):
        load_recipe("shapes_lora", ["fake.follow=0.03"])
    assert load_recipe("shapes", ["fake.follow=0.03"]).fake.follow == 0.03


def test_nothing_to_train_is_refused():
    with pytest.raises(InputError, match="nothing would train"):
        load_recipe("shapes", ["objective.dm_weight=0.0", "objective.ca_weight=0.0"])


def test_files_that_are_no_recipes(tmp_path):
    for content, words in (("a: [", "not YAML"), ("- 1", "no keys"), ("base: shapes\nname: 3", "name")):
        path = tmp_path / "r.yaml"
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            load_recipe(str(path))
    with pytest.raises(InputError, match="no such file"):
        load_recipe(str(tmp_path / "missing.yaml"))
    with pytest.raises(InputError, match="shapes_coupled"):
        load_recipe("shape")
    path.write_text(yaml.safe_dump({"base": str(path)}))
    with pytest.raises(InputError, match="itself"):
        load_recipe(str(path))


def test_recipes_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("shapes").seed = 3


def test_every_section_forbids_unknown_keys():
    assert Recipe.model_config["extra"] == "forbid"


def numeric_keys(model, path=()):
    """Keys of a recipe that hold a number, and whether they hold several."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        kind = str(field.annotation)
        if section:
            yield from numeric_keys(section, (*path, name))
        elif name != "seed" and ("int" in kind or "float" in kind):
            yield ".".join((*path, name)), "list" in kind


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 10**26, -(10**26), 1e300, -1e300])
def test_no_key_takes_an_impossible_number(number):
    whole = load_recipe("shapes_ca_gan", ["adapters.rank=2", "objective.mean_variance.weight=1"]).model_dump()
    keys = list(numeric_keys(Recipe))
    assert len(keys) > 40
    for key, pair in keys:
        values = copy.deepcopy(whole)
        *parents, last = key.split(".")
        functools.reduce(dict.__getitem__, parents, values)[last] = [number, number] if pair else number
        with pytest.raises(ValidationError) as caught:
            Recipe.model_validate(values)
        assert [str(part) for part in caught.value.errors()[0]["loc"]][: len(parents) + 1] == [*parents, last]


def test_the_text_of_a_text_key_is_taken_as_it_stands():
    for text in ("data #2/prompts.txt", "2024-01-01.txt", "null.txt", "007", "1e5", "yes", "[a", "*a", "'a'"):
        recipe = load_recipe("shapes", [f"train.prompts={text}", f"model={text}"])
        assert (recipe.train.prompts, recipe.model) == (text, text)
        assert Recipe.model_validate(parse_yaml(recipe.to_yaml())) == recipe
    for text in ("null", ""):
        assert load_recipe("shapes", [f"train.prompts={text}"]).train.prompts is None
    assert load_recipe("shapes", ["model=null"]).model == "null"


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63, 2**64, 10**30])
def test_seeds_of_any_size_load(seed, tmp_path):
    recipe = load_recipe("shapes", [f"seed={seed}"])
    assert recipe.seed == seed
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert load_recipe(str(tmp_path / "r.yaml")).seed == seed


def test_bases_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("base: ./b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(InputError, match="naming itself"):
        load_recipe("a.yaml")
    (tmp_path / "c.yaml").write_text("base: [shapes]")
    with pytest.raises(InputError, match="name a preset or a YAML file"):
        load_recipe("c.yaml")
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(InputError, match="a folder"):
        load_recipe("d.yaml")
    (tmp_path / "e.yaml").write_bytes("name: a".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"):
        load_recipe("e.yaml")
