"""Making a study: pairing, blinding, dealing, and what does not fit together."""

import json
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
    assert (tmp_path / "study" / "key.json").stat().st_mode & 0o077 == 0


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
