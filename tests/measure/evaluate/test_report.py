"""Tables by hand: who is best, in Markdown, LaTeX and HTML; the paper's means."""

import pytest

from ddmd.measure.evaluate.items import Item
from ddmd.measure.evaluate.report import Column, category_table, ranks, score_table, to_html, to_latex, to_markdown
from ddmd.measure.evaluate.suites import rated

SCORES = {
    "a_1": {"fid": 20.0, "clip": 31.0, "intervals": {"clip": [30.0, 32.0]}},
    "b&": {"fid": 18.0, "clip": 33.0, "intervals": {}},
    "c": {"fid": 19.0, "clip": 33.001, "intervals": {}},
}


def test_best_and_second_by_direction():
    table = score_table(SCORES)
    assert [cell for cell, _ in table[0]] == ["", "CLIP score", "FID"]
    assert table[1] == [("a_1", ""), ("31.00 [30.00, 32.00]", "second"), ("20.00", "")]
    assert table[2] == [("b&", ""), ("33.00", "best"), ("18.00", "best")]
    assert table[3] == [("c", ""), ("33.00", "best"), ("19.00", "second")]  # equal as printed: both are best
    assert ranks({"a": 1.0, "b": 1.0}, Column("x")) == {} and ranks({"a": 1.0, "b": 2.0}, Column("x", 0)) == {}


def test_the_three_forms():
    table = score_table(SCORES)
    assert "| b& | **33.00** | **18.00** |".replace("&", "&amp;") in to_markdown(table)
    latex = to_latex(table)
    assert r"b\& & \textbf{33.00} & \textbf{18.00} \\" in latex and r"a\_1 & \underline{31.00 [30.00, 32.00]}" in latex
    assert r"\begin{tabular}{lrr}" in latex
    assert "<td>b&amp;</td><td><b>33.00</b></td>" in to_html(table) and "<u>19.00</u>" in to_html(table)


@pytest.mark.parametrize(
    ("styles", "overall"),
    [({"concept-art": 30.35, "photo": 28.24, "anime": 31.74, "paintings": 30.47}, 30.20),
     ({"concept-art": 32.37, "photo": 30.87, "anime": 33.61, "paintings": 32.31}, 32.29)],
)  # fmt: skip
def test_the_papers_overall_is_the_mean_of_its_styles(styles, overall):
    """Table 6 of the paper gives its Table 1, however many prompts a style has."""
    items, values = [], {}
    for n, (style, mean) in enumerate(styles.items(), 2):
        for i in range(2 * n):
            items.append(Item(f"{style}{i}", "p", style))
            values[items[-1].id] = [mean - 0.5, mean + 0.5] if i % 2 else [mean + 1, mean - 1]
    numbers, intervals, categories = rated(items, values, "hps21")
    assert round(numbers["hps21"], 2) == overall and categories == pytest.approx(styles)
    assert intervals["hps21"][0] <= numbers["hps21"] <= intervals["hps21"][1]
    assert to_markdown(category_table({"x": categories})).startswith("|  | concept art | photo | anime | paintings |")


def test_imagereward_is_told_a_hundred_times_and_missing_items_do_not_count():
    items = [Item("0", "p"), Item("1", "q"), Item("2", "r")]
    numbers, _, categories = rated(items, {"0": [0.5], "1": [0.25, 0.75]}, "imagereward")
    assert numbers == {"imagereward": 50.0} and categories == {}
