"""Scenes of two objects: words, pictures, and scores that do not care which object a reader names first."""

import pytest
import torch

from ddmd.errors import InputError
from ddmd.teachers.builtin.shapes.adopt import adopt_words
from ddmd.teachers.builtin.shapes.build import build_clip, build_pipeline, build_tokenizer
from ddmd.teachers.builtin.shapes.pairs import NAMES, caption, parse, retold, seen
from ddmd.teachers.builtin.shapes.render import RANGE, render_pairs
from ddmd.teachers.builtin.shapes.train import ShapesRecipe, ShapesTraining, train_teacher
from ddmd.teachers.builtin.shapes.world import UNSTATED, split_of
from ddmd.teachers.builtin.shapes.worlds import PAIRS, SHAPES

SENTENCE = "a large striped red circle left of a small dotted blue square on a gray background"


def statement(text):
    return torch.tensor([parse(text)])


def test_captions_parse_back_and_fit():
    assert caption([1, 1, 0, 0, 0, 2, 5, 1, 0, 0]) == SENTENCE
    assert caption([UNSTATED] * 3 + [3] + [UNSTATED] * 3 + [4] + [UNSTATED] * 2) == "a star and a cross"
    g = torch.Generator().manual_seed(0)
    longest = 0
    for row in PAIRS.statements(PAIRS.scenes(300, g), 0.3, 0.0, g).tolist():
        assert parse(caption(row)) == row
        longest = max(longest, len(build_tokenizer(PAIRS)(caption(row)).input_ids))
    assert longest <= PAIRS.tokens
    assert len(build_tokenizer(PAIRS)(SENTENCE).input_ids) <= PAIRS.tokens


def test_captions_always_say_both_shapes():
    g = torch.Generator().manual_seed(0)
    said = PAIRS.statements(PAIRS.scenes(5000, g), 0.5, 0.0, g)
    for i, name in enumerate(NAMES):
        assert (said[:, i] != UNSTATED).float().mean().item() == pytest.approx(1.0 if "shape" in name else 0.5, abs=0.03)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("an elephant left of a star", "'an'.*circle"),
        ("a red circle", "no relations.*left of"),
        ("a star left of a cross above a circle", "2 relations"),
        ("a red blue circle above a star", "colour"),
        ("a star on a pink background and a cross on a gray background", "background"),
        ("a star left a cross", "no relations"),
    ],
)
def test_bad_sentences_are_refused(text, named):
    with pytest.raises(InputError, match=named):
        parse(text)


def test_splits_share_no_caption():
    sets = {split: set(PAIRS.take(split, 500)) for split in ("validation", "report", "train")}
    assert all(len(prompts) == 500 and {split_of(text) for text in prompts} == {split} for split, prompts in sets.items())


def test_a_scene_retold_is_the_same_picture():
    g = torch.Generator().manual_seed(0)
    scenes = PAIRS.scenes(500, g)
    assert torch.equal(retold(retold(scenes)), scenes)
    assert torch.equal(seen(scenes), seen(retold(scenes)))
    assert set(seen(scenes)[:, NAMES.index("relation")].tolist()) == {0, 2}
    told = statement("a red circle right of a blue star")
    assert caption(retold(told)[0].tolist()) == caption(seen(told)[0].tolist()) == "a blue star left of a red circle"
    assert caption(seen(statement("a cross above a star"))[0].tolist()) == "a cross above a star"
    # The colours' noise is drawn object by object; apart from it and a pixel's jitter both draw the same.
    one, two = render_pairs(scenes, torch.Generator().manual_seed(1)), render_pairs(retold(scenes), torch.Generator().manual_seed(1))
    other = render_pairs(scenes.flip(0), torch.Generator().manual_seed(1))
    assert (one - two).abs().mean() < 0.3 * (one - other).abs().mean()


@pytest.mark.parametrize(("relation", "place"), [("left of", (20, 10)), ("right of", (20, 30)), ("above", (10, 20)), ("below", (30, 20))])
def test_the_first_object_stands_where_the_relation_says(relation, place):
    row = statement(f"a large solid red circle {relation} a large solid blue circle on a gray background")
    picture = render_pairs(row.repeat(20, 1), torch.Generator().manual_seed(0))
    assert picture.shape == (20, 3, 40, 40) and picture.abs().max() <= RANGE + 1e-6
    red, _, blue = picture[:, :, place[0], place[1]].mean(0)
    assert red > 0.5 > 0 > blue
    red, _, blue = picture[:, :, 40 - place[0], 40 - place[1]].mean(0)
    assert blue > 0.5 > 0 > red


def test_objects_never_touch():
    """A line of pure background runs between the two, whatever they are."""
    g = torch.Generator().manual_seed(0)
    scenes = PAIRS.scenes(3000, g)
    pictures = render_pairs(scenes, g)
    beside = scenes[:, NAMES.index("relation")] < 2
    across = torch.where(beside[:, None, None, None], pictures, pictures.transpose(2, 3))  # objects beside each other
    spread = (across - across[:, :, :1, :1]).abs().amax(dim=(1, 2))  # largest departure from the background in a column
    assert (spread[:, 17:23].amin(dim=1) < 1e-5).float().mean() > 0.99


def test_scores_do_not_care_which_object_is_read_first():
    asked = statement("a large striped red circle right of a small dotted blue square on a gray background")
    same = statement("a small dotted blue square left of a large striped red circle on a gray background")
    assert PAIRS.right(same, asked).all() and PAIRS.right(asked, asked).all()


def test_a_wrong_order_is_a_wrong_relation_alone():
    asked = statement("a large striped red circle left of a small dotted blue square on a gray background")
    swapped = statement("a small dotted blue square left of a large striped red circle on a gray background")
    right = PAIRS.right(swapped, asked)[0]
    assert [name for name, good in zip(NAMES, right.tolist(), strict=True) if not good] == ["relation"]


def test_what_is_unstated_is_neither_right_nor_wrong():
    asked = statement("a circle and a red star")
    shown = statement("a small solid red star above a large striped cyan circle on a pink background")
    right = PAIRS.right(shown, asked)[0]
    assert {name for name, good in zip(NAMES, right.tolist(), strict=True) if good} == {"first shape", "second shape", "second colour"}


def test_an_encoder_of_another_world_gives_its_words():
    torch.manual_seed(0)
    old_words, new_words = build_tokenizer(SHAPES), build_tokenizer(PAIRS)
    old, new = build_clip(old_words, 2), build_clip(new_words, 3)
    for parameter in new.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        new.text_model.embeddings.position_embedding.weight[:] = 0.0
    adopt_words(new, new_words.get_vocab(), old.state_dict(), old_words.get_vocab())
    text = ["a large striped red circle on a gray background"]
    with torch.no_grad():
        before = old(old_words(text, return_tensors="pt").input_ids, output_hidden_states=True)
        after = new(new_words(text, return_tensors="pt").input_ids, output_hidden_states=True)
    torch.testing.assert_close(after.hidden_states[-2], before.hidden_states[-2])
    torch.testing.assert_close(after.text_embeds, before.text_embeds)
    with pytest.raises(RuntimeError, match="layers"):
        adopt_words(old, old_words.get_vocab(), new.state_dict(), new_words.get_vocab())
    with pytest.raises(RuntimeError, match="layers"):
        adopt_words(new, new_words.get_vocab(), {"shared.weight": torch.zeros(2)}, old_words.get_vocab())


def test_training_begins_from_the_other_world(tmp_path):
    build_pipeline(world=SHAPES).save_pretrained(tmp_path / "shapes")
    recipe = ShapesRecipe(steps=1, batch=2, world="pairs")
    losses = []
    folder = train_teacher(tmp_path / "a", recipe, torch.device("cpu"), lambda step, loss: losses.append(loss), start=tmp_path / "shapes")
    assert (folder / "model_index.json").is_file() and torch.tensor(losses).isfinite().all()
    with pytest.raises(InputError, match="world=pairs"):
        ShapesTraining(ShapesRecipe(steps=1, batch=2), torch.device("cpu")).load(tmp_path / "a" / "state.pt")


def test_every_column_has_one_category():
    assert sorted(name for names in PAIRS.categories.values() for name in names) == sorted(NAMES)
