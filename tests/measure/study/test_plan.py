"""Making a study: pairing, blinding, dealing, and what does not fit together."""

import dataclasses
import json
import os
from collections import Counter

import pytest
from PIL import Image

from ddmd.errors import InputError
from ddmd.measure.study.plan import Key, Plan, Wish, new_study

from .conftest import COLOURS, PROMPTS


def quiet(done, total):
    return None


def make(tmp_path, sources, **wishes):
    images, prompts = sources
    new_study(tmp_path / "study", images, prompts, Wish(**{"kind": "ranking", "annotators": 3, **wishes}), quiet)
    return Plan.load(tmp_path / "study"), Key.load(tmp_path / "study")


def test_images_are_paired_by_prompt_and_the_key_is_kept_apart(tmp_path, sources):
    plan, key = make(tmp_path, sources)
    assert sorted(item.rows[0].prompt for item in plan.items) == sorted(PROMPTS)
    for item in plan.items:
        for name, model in zip(item.rows[0].images, key.items[item.id]):
            picture = Image.open(tmp_path / "study" / "images" / name)
            assert picture.getpixel((0, 0)) == Image.new("RGB", (1, 1), COLOURS[model]).getpixel((0, 0))
            assert picture.width == 64 + PROMPTS.index(item.rows[0].prompt)
            assert not picture.text
    shown = (tmp_path / "study" / "plan.json").read_text()
    assert not any(model in shown for model in COLOURS)
    assert not any(model.encode() in p.read_bytes() for p in (tmp_path / "study" / "images").iterdir() for model in COLOURS)
    assert {p.stat().st_mtime for p in (tmp_path / "study" / "images").iterdir()} == {0}


def test_links_salt_and_key_are_their_owners_alone(tmp_path, sources):
    before = os.umask(0)
    try:
        make(tmp_path, sources)
    finally:
        os.umask(before)
    assert [(tmp_path / "study" / name).stat().st_mode & 0o777 for name in ("plan.json", "key.json")] == [0o600, 0o600]


def many(tmp_path, models, prompts):
    """Small pictures of many prompts."""
    (tmp_path / "many.txt").write_text("".join(f"prompt {i}\n" for i in range(prompts)))
    for model in models:
        (tmp_path / model).mkdir()
        for i in range(prompts):
            Image.new("RGB", (1, 1)).save(tmp_path / model / f"{i}.png")
    return {model: tmp_path / model for model in models}, tmp_path / "many.txt"


def test_the_seed_says_which_prompts_and_nothing_else(tmp_path):
    """Whoever knows the seed, the prompts and one link cannot tell what stands where."""
    images, prompts = many(tmp_path, "ab", 20)
    plans = []
    for name in ("one", "two"):
        new_study(tmp_path / name, images, prompts, Wish("ranking", n=15, seed=7, annotators=1, checks=8, repeats=8), quiet)
        plans.append(Plan.load(tmp_path / name))
    shown = [[row.prompt for item in plan.items[:15] for row in item.rows] for plan in plans]
    assert sorted(shown[0]) == sorted(shown[1]) and shown[0] != shown[1]
    assert plans[0].salt != plans[1].salt and len(bytes.fromhex(plans[0].salt)) >= 32
    keys = [Key.load(tmp_path / name) for name in ("one", "two")]
    prompt_of = [{item.id: item.rows[0].prompt for item in plan.items} for plan in plans]
    for drawn in (lambda i: [prompt_of[i][x] for x in keys[i].spoiled], lambda i: [prompt_of[i][x] for x in keys[i].repeats.values()]):
        assert drawn(0) != drawn(1)


def test_an_order_follows_from_the_salt_and_from_nothing_that_is_shown(tmp_path):
    images, prompts = many(tmp_path, "abc", 20)
    new_study(tmp_path / "study", images, prompts, Wish("ranking", annotators=1), quiet)
    plan = Plan.load(tmp_path / "study")
    (token,) = plan.annotators
    orders = [plan.shuffled(token, item) for item in plan.items]
    resalted = dataclasses.replace(plan, salt="00" * 32)
    assert orders != [resalted.shuffled(token, item) for item in plan.items]
    reseeded = dataclasses.replace(plan, seed=1)
    assert orders == [reseeded.shuffled(token, item) for item in plan.items]


def test_comparisons_share_no_prompt_while_there_are_enough(tmp_path):
    """Else the picture that is seen twice is the last model's."""
    images, prompts = many(tmp_path, "abc", 8)
    new_study(tmp_path / "study", images, prompts, Wish("sidebyside", n=4, annotators=1), quiet)
    first, second = ({row.prompt for row in item.rows} for item in Plan.load(tmp_path / "study").items)
    assert len(first) == len(second) == 4 and not first & second


def test_every_item_goes_to_as_many_annotators_as_asked(tmp_path, sources):
    plan, _ = make(tmp_path, sources, judges=2)
    count = Counter(item for hand in plan.annotators.values() for item in hand)
    assert set(count.values()) == {2} and len(count) == len(PROMPTS)
    assert all(len(hand) == len(set(hand)) for hand in plan.annotators.values())
    assert all(len(token) >= 20 for token in plan.annotators)


def test_order_is_random_by_annotator_and_stable(tmp_path, sources):
    plan, _ = make(tmp_path, sources, annotators=60, judges=60)
    item = plan.items[0]
    orders = Counter(tuple(plan.shuffled(token, item)) for token in plan.annotators)
    assert len(orders) == 6
    assert orders == Counter(tuple(Plan.load(tmp_path / "study").shuffled(token, item)) for token in plan.annotators)


def test_checks_spoil_one_image_and_repeats_come_to_the_same_annotator(tmp_path, sources):
    images, _ = sources
    for folder in images.values():
        for path in folder.iterdir():
            Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    plan, key = make(tmp_path, sources, checks=1, repeats=2, judges=1)
    (check,) = key.spoiled
    assert all(check in hand for hand in plan.annotators.values())
    item = next(item for item in plan.items if item.id == check)
    detail = {}
    for name, model in zip(item.rows[0].images, key.items[check]):
        picture = Image.open(tmp_path / "study" / "images" / name).convert("L")
        detail[model] = sum(a != b for a, b in zip(picture.tobytes(), picture.tobytes()[1:]))
    assert min(detail, key=detail.__getitem__) == key.spoiled[check]
    for second, first in key.repeats.items():
        (owner,) = (hand for hand in plan.annotators.values() if first in hand)
        assert second in owner and owner.index(first) < owner.index(second)


def test_side_by_side_shows_the_last_model_against_each_other(tmp_path, sources):
    plan, key = make(tmp_path, sources, kind="sidebyside", n=3)
    assert list(key.items.values()) == [["secret-alpha", "secret-gamma"], ["secret-beta", "secret-gamma"]]
    assert [len(item.rows) for item in plan.items] == [3, 3] and plan.ask_reason
    assert all(sorted(hand) == sorted(item.id for item in plan.items) for hand in plan.annotators.values())


def test_a_table_beside_the_images_decides_their_prompts(tmp_path, sources):
    images, _ = sources
    for folder in images.values():
        rows = [{"file_name": f"{len(PROMPTS) - 1 - i}.png", "text": text} for i, text in enumerate(PROMPTS)]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan, _ = make(tmp_path, sources)
    item = next(item for item in plan.items if item.rows[0].prompt == PROMPTS[0])
    assert Image.open(tmp_path / "study" / "images" / item.rows[0].images[0]).width == 64 + len(PROMPTS) - 1


def test_bad_studies_are_refused(tmp_path, sources):
    images, prompts = sources
    folder = images["secret-alpha"]

    def refused(said, images=images, prompts=prompts, out="study", **wishes):
        with pytest.raises(InputError, match=said):
            new_study(tmp_path / out, images, prompts, Wish(**{"kind": "ranking", **wishes}), quiet)
        assert not (tmp_path / "study").exists()

    refused("--kind", kind="best")
    refused("1 models", images={"a": folder})
    refused("the name", images={"a/b": folder, "c": folder})
    refused("no such folder", images={**images, "d": tmp_path / "nowhere"})
    refused("--judges", judges=11)
    refused("there are only 4 items", checks=5)
    refused("side-by-side", kind="sidebyside", checks=1)
    refused("not empty", out="images of")
    refused("a file", out="prompts.txt")
    (folder / "0.png").rename(folder / "0.txt")
    refused("3 images for 4 prompts")
    (folder / "0.png").write_bytes(b"not a picture")
    refused("0.png: found not a picture")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "../../prompts.txt", "text": "two birds"}) + "\n")
    refused("not in the folder")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "text": "two birds"}) + "\n")
    refused("no image for 3 of 4 prompts")
    prompts.write_text("a\nb\na\nc\n")
    refused("1 prompts twice")


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(InputError, match="no study in it"):
        Plan.load(tmp_path)
    with pytest.raises(InputError, match="no key"):
        Key.load(tmp_path)


@pytest.mark.parametrize("change", [{"items": {}}, {"items": None}, {"spoiled": {"x": "a"}}, {"repeats": {"x": "y"}}])
def test_a_key_of_another_study_is_named(tmp_path, sources, change):
    plan, key = make(tmp_path, sources)
    key.check(plan, tmp_path)
    with pytest.raises(InputError, match=r"key\.json: found a key that is not"):
        dataclasses.replace(key, **change).check(plan, tmp_path)


@pytest.mark.parametrize("damage", ["{", "[]", '{"kind": "ranking"}', "items", "images", "salt", "annotators"])
def test_a_damaged_plan_is_named(tmp_path, sources, damage):
    make(tmp_path, sources)
    path = tmp_path / "study" / "plan.json"
    saved = json.loads(path.read_text())
    if damage == "items":
        del saved["items"][0]
    elif damage == "images":
        saved["items"][0]["rows"][0]["images"].pop()
        saved["items"][0]["rows"][0]["images"].pop()
    elif damage in saved:
        saved[damage] = "12"
    path.write_text(json.dumps(saved) if damage in ("items", "images", "salt", "annotators") else damage)
    with pytest.raises(InputError, match=r"plan\.json: found no plan"):
        Plan.load(tmp_path / "study")
