"""Tables 3 and 4 of the paper from the one set of counts that gives both, and the statistics around them."""

import csv

import pytest

pytest.importorskip("choix")

from ddmd.errors import InputError
from ddmd.measure.study.report import Ranking, agreement, find, load_findings, read_csv, tables_of, write_report

COUNTS = {"234": 28, "243": 4, "324": 51, "342": 118, "423": 11, "432": 288}


@pytest.fixture(scope="module")
def rankings():
    orders = [tuple(order) for order, count in COUNTS.items() for _ in range(count)]
    return [Ranking(f"prompt {i}", f"annotator {i % 10}", models) for i, models in enumerate(orders)]


def test_tables_3_and_4_to_the_last_digit(rankings):
    tables = tables_of(find("ranking", rankings))
    ranks = [[row[0], row[1], *row[3:]] for row in tables["ranks"][1:]]
    assert ranks == [
        ["2", "2.748", "6.4", "12.4", "81.2"],
        ["3", "1.692", "33.8", "63.2", "3.0"],
        ["4", "1.560", "59.8", "24.4", "15.8"],
    ]
    assert tables["wins"][1:] == [["2", "-", "8.6", "16.6"], ["3", "91.4", "-", "39.4"], ["4", "83.4", "60.6", "-"]]


def test_exact_tests_holm_and_intervals(rankings):
    found = find("ranking", rankings)
    row = found.wins["3 over 4"]
    assert (row["wins"], row["n"]) == (197, 500)
    assert row["p"] == pytest.approx(2 * 1.2e-6, rel=0.05)  # twice the one-sided 1.2e-6 for 303 of 500
    assert row["p_holm"] == pytest.approx(row["p"])  # the largest of three is not enlarged
    smallest = min(found.wins.values(), key=lambda r: r["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 3 * smallest["p"]))
    low, high = row["interval"]
    assert low < row["share"] < high and high - low == pytest.approx(2 * 1.96 * (0.394 * 0.606 / 500) ** 0.5, rel=0.1)
    strengths = found.strengths
    assert sum(strengths.values()) == pytest.approx(1) and strengths["4"] > strengths["3"] > strengths["2"]
    assert found.agreement is None  # nobody judged what another judged


def test_agreement_is_one_when_all_agree_and_low_when_none_do():
    same = [Ranking(f"i{i}", f"a{j}", ("x", "y", "z") if i % 2 else ("z", "y", "x")) for i in range(6) for j in range(3)]
    assert agreement(same, ["x", "y", "z"]) == pytest.approx(1)
    turned = [Ranking(f"i{i}", f"a{j}", ("x", "y", "z") if (i + j) % 2 else ("z", "y", "x")) for i in range(6) for j in range(2)]
    assert agreement(turned, ["x", "y", "z"]) < 0
    assert agreement(same[:1], ["x", "y", "z"]) is None


@pytest.mark.parametrize(
    ("rankings", "comparisons", "enough"),
    [
        ([Ranking("i", "a", ("x", "y"))], 1, 6),
        ([Ranking("i", f"a{k}", ("x", "y") if k % 2 else ("y", "x")) for k in range(5)], 1, 6),
        ([Ranking(f"i{k}", "a", ("x", "y", "z")) for k in range(6)], 3, 7),
    ],
)
def test_too_few_answers_are_called_so(tmp_path, rankings, comparisons, enough):
    found = find("ranking", rankings)
    text = write_report(tmp_path, found, rankings).with_suffix(".md").read_text()
    assert f"fewer than {enough} (" in text and "Too few answers" in text
    assert comparisons * 2 * 0.5**enough <= 0.05 < comparisons * 2 * 0.5 ** (enough - 1)
    for row in found.wins.values():
        low, high = row["interval"]
        assert low <= row["share"] <= high and high - low > 0.4  # never "1.000 to 1.000" from a handful
    assert all(row["interval"] is None for row in found.ranks.values())


def test_an_interval_is_exact_where_drawing_items_says_nothing():
    unanimous = find("ranking", [Ranking(f"i{k}", "a", ("x", "y")) for k in range(40)])
    low, high = unanimous.wins["x over y"]["interval"]
    assert low == pytest.approx(0.025 ** (1 / 40)) and high == 1 and unanimous.ranks["x"]["interval"] is None
    assert unanimous.wins["x over y"]["p"] == pytest.approx(2 * 0.5**40)
    verdicts = [Ranking("x against y", f"a{k}", ("x", "y") if k < 9 else ("y", "x")) for k in range(15)]
    low, high = find("sidebyside", verdicts).wins["x over y"]["interval"]  # one item, fifteen judges
    assert (low, high) == (pytest.approx(0.3229, abs=1e-4), pytest.approx(0.8366, abs=1e-4))


def test_enough_answers_are_not_called_too_few(rankings, tmp_path):
    page = write_report(tmp_path, find("ranking", rankings), rankings).read_text()
    assert "Too few" not in page and "No interval" not in page


def test_a_report_replaces_nothing_but_a_report(rankings, tmp_path):
    found = find("ranking", rankings)
    (tmp_path / "votes.csv").write_text("mine")
    with pytest.raises(InputError, match=r"votes\.csv, which no report wrote"):
        write_report(tmp_path, found, rankings)
    with pytest.raises(InputError, match="a file"):
        write_report(tmp_path / "votes.csv", found, rankings)
    assert (tmp_path / "votes.csv").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    write_report(tmp_path / "new", found, rankings)
    write_report(tmp_path / "new", found, rankings)


def test_a_models_name_is_no_formula(tmp_path):
    odd = [Ranking("i", "a", ("$x_{", "y$"))]
    write_report(tmp_path, find("ranking", odd), odd)


def test_model_level_preference_of_table_5():
    votes = [Ranking(f"{other} against 4", f"a{j}", ("4", other), f"clearer {j}") for other in "123" for j in range(15)]
    found = find("sidebyside", votes, ["1", "2", "3", "4"])
    assert not found.ranks and found.agreement is None
    assert [(row["wins"], row["n"]) for row in found.wins.values()] == [(0, 15)] * 3
    assert found.wins["1 over 4"]["p"] == pytest.approx(2 * 0.5**15)
    assert len(found.reasons["4"]) == 45


def test_report_files_and_a_round_trip_through_csv(rankings, tmp_path):
    some = [*rankings[:5], Ranking("odd", "me", ("4", "3", "2"), "<script>alert(1)</script>, said | so")]
    found = find("ranking", some)
    page = write_report(tmp_path, found, some)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "findings.json",
        "votes.csv",
        "ranks.csv",
        "wins.csv",
        "tests.csv",
        "report.md",
        "report.html",
    }
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "<script" not in text and "&lt;script&gt;" in text
    assert page.read_text().count("data:image/svg+xml") == 2 and 'alt="Shares of ranks"' in page.read_text()
    kind, again = read_csv(tmp_path / "votes.csv")
    assert kind == "ranking" and sorted(again, key=str) == sorted(some, key=str)
    assert load_findings(tmp_path)["ranks"] == found.ranks


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([("i", "a", "x", "first")], "rank 'first' in line 2"),
        ([("i", "a", "x", "1"), ("i", "a", "y", "1")], "rank 1 twice"),
        ([("i", "a", "x", "1"), ("i", "a", "y", "3")], r"ranks \[1, 3\]"),
        ([("i", "a", "x", "1"), ("i", "a", "x", "2")], "rank each model once"),
    ],
)
def test_bad_csv_is_named(tmp_path, rows, said):
    path = tmp_path / "votes.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("item", "annotator", "model", "rank"), *rows])
    with pytest.raises(InputError, match=said):
        read_csv(path)


def test_a_csv_without_the_columns_and_a_study_without_votes(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("item,who\n1,2\n")
    with pytest.raises(InputError, match="no column annotator"):
        read_csv(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_csv(path)
    with pytest.raises(InputError, match="votes: found none"):
        find("ranking", [])
    with pytest.raises(InputError, match="compares two models"):
        find("ranking", [Ranking("i", "a", ("x",))])
