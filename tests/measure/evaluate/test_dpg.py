"""DPG-Bench's graphs, by hand."""

import csv

import pytest
from PIL import Image

from ddmd.errors import InputError
from ddmd.measure.evaluate.dpg import COLUMNS, ask, crops_of, propagate, read_graphs, score

ROWS = [
    ("a", "a red cat on a mat", "1", "0", "entity - whole (cat)", "Is there a cat?"),
    ("a", "a red cat on a mat", "2", "0", "entity - whole (mat)", "Is there a mat?"),
    ("a", "a red cat on a mat", "3", "1", "attribute - color (cat, red)", "Is the cat red?"),
    ("a", "a red cat on a mat", "4", "1,2", "relation - spatial (cat, mat, on)", "Is the cat on the mat?"),
    ("b", "a photo of fog", "1", "0", "global - (photo)", "Is this a photo?"),
    ("b", "a photo of fog", "2", "0", "other - (fog)", "Is there fog?"),
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "dpg.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *ROWS])
    return path


def test_a_child_counts_only_with_its_parents_and_categories_do_not_care(table):
    cat, fog = read_graphs(table)
    no_cat = {1: 0.0, 2: 1.0, 3: 1.0, 4: 1.0}
    assert propagate(cat.questions, no_cat) == {1: 0, 2: 1, 3: 0, 4: 0}
    found = score([cat, fog], {"a": [no_cat], "b": [{1: 1.0, 2: 0.0}]})
    assert found["overall"] == pytest.approx(100 * (1 / 4 + 1 / 2) / 2)
    assert (found["entity"], found["attribute"], found["relation"]) == (50, 100, 100)  # all above what the overall makes of them
    assert (found["global"], found["other"], found["prompts"]) == (100, 0, 2)


def test_a_zeroed_parent_zeroes_its_grandchildren(table):
    (cat, _) = read_graphs(table)
    chain = [cat.questions[0], cat.questions[2], type(cat.questions[3])(4, (3,), "relation", "")]
    assert propagate(chain, {1: 0.0, 3: 1.0, 4: 1.0}) == {1: 0, 3: 0, 4: 0}


def test_crops_are_averaged_and_official_categories_read_the_last(table):
    cat, _ = read_graphs(table)
    yes, no = dict.fromkeys((1, 2, 3, 4), 1.0), dict.fromkeys((1, 2, 3, 4), 0.0)
    crops = {"a": [yes, yes, yes, no]}
    assert score([cat], crops)["overall"] == score([cat], crops, "official")["overall"] == 75
    assert score([cat], crops)["attribute"] == 75 and score([cat], crops, "official")["attribute"] == 0


def test_the_official_script_drops_a_row_and_the_prompts_that_hang_on_it(table):
    assert [prompt.id for prompt in read_graphs(table, "official")] == ["b"]
    assert [len(prompt.questions) for prompt in read_graphs(table, "strict")] == [4, 2]


def test_only_exactly_yes_counts(table):
    _, fog = read_graphs(table)
    said = iter(["yes", "Yes", "yes.", "yes"])
    assert ask(fog, ["first", "second"], lambda image, question: next(said)) == [{1: 1, 2: 0}, {1: 0, 2: 1}]


def test_grids_are_cut_row_by_row():
    grid = Image.new("L", (4, 4))
    for i, (x, y) in enumerate(((0, 0), (2, 0), (0, 2), (2, 2))):
        grid.paste(i + 1, (x, y, x + 2, y + 2))
    assert [crop.getpixel((0, 0)) for crop in crops_of(grid, 2)] == [1, 2, 3, 4]
    assert len(crops_of(grid, 4)) == 1
    with pytest.raises(InputError, match="4 x 4"):
        crops_of(grid, 3)


def test_bad_tables_are_named(tmp_path, table):
    with pytest.raises(InputError, match="no such file"):
        read_graphs(tmp_path / "missing.csv")
    (tmp_path / "short.csv").write_text("item_id,text\na,b\n")
    with pytest.raises(InputError, match="no column proposition_id"):
        read_graphs(tmp_path / "short.csv")
    table.write_text(table.read_text().replace(",3,1,", ",3,one,"))
    with pytest.raises(InputError, match="line 4"):
        read_graphs(table)
    with pytest.raises(InputError, match="no answered prompt"):
        score([], {})
