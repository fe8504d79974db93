"""Prompts of benchmarks from their files."""

import json

import pytest

from ddmd.errors import InputError
from ddmd.measure.evaluate.items import Item, categorised_items, plain_items


def test_a_folder_of_lists_is_a_list_of_categories(tmp_path):
    (tmp_path / "photo.json").write_text(json.dumps(["a cat", {"prompt": "a dog"}]))
    (tmp_path / "anime.json").write_text(json.dumps([{"caption": "a girl"}]))
    assert categorised_items(tmp_path) == [
        Item("000000", "a girl", "anime"), Item("000001", "a cat", "photo"), Item("000002", "a dog", "photo"),
    ]  # fmt: skip


def test_a_table_with_categories(tmp_path):
    rows = [{"prompt": "p", "category": "science"}, {"prompt": "q", "category": "arts"}, {"prompt": "r", "category": "science"}]
    path = tmp_path / "benchmark.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(item.prompt, item.category) for item in categorised_items(path)] == [("q", "arts"), ("p", "science"), ("r", "science")]
    path.write_text(json.dumps({"prompt": "p"}) + "\n")
    with pytest.raises(InputError, match="a row without category"):
        categorised_items(path)


def test_any_prompt_file(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert plain_items(tmp_path / "p.txt") == [Item("000000", "one"), Item("000001", "two")]


@pytest.mark.parametrize("content", ["{", '{"a": 1}', '[{"x": 1}]', "[]", '[""]'])
def test_bad_files_are_named(tmp_path, content):
    (tmp_path / "photo.json").write_text(content)
    with pytest.raises(InputError, match="photo.json|no prompts"):
        categorised_items(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no CATEGORY.json"):
        categorised_items(tmp_path)
