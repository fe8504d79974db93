import pytest
import yaml

from ddmd.run.plain_yaml import parse_yaml, write_yaml

ODD = [
    "1e5",
    "007",
    "010",
    "1:30",
    "2024-01-01",
    "yes",
    "null",
    "~",
    "",
    "true",
    ".inf",
    "5.",
    "# a",
    "a: b",
    "*a",
    "- b",
    "\u2028",
    "\u00e9",
    "\ufeff",
    "0x10",
    "1_000",
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1e5", 1e5),
        ("-0.02", -0.02),
        ("+5", 5),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01.txt", "2024-01-01.txt"),
        ("'2024-01-01'", "2024-01-01"),
        ("yes", "yes"),
        ("true", True),
        ("[1, 0.5]", [1, 0.5]),
        ("a: {b: null}", {"a": {"b": None}}),
        ("", None),
    ],
)
def test_values_are_what_they_look_like(text, value):
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x", "line 2: an alias"),
        ("a: &x [*x]", "an alias"),
        ("a: 2001-99-99", "line 1: a date .2001-99-99.; put it in quotes"),
        ("a: 2001-12-14 21:59:43", "a date"),
        ("a: !!python/name:os.system x", "a tag"),
        ("a: 1\nb: 2\na: 3", "line 3: the key a twice"),
        ("1: 2", "a key that is not text"),
        ("? [a]\n: b", "a key that is not text"),
        ("[" * 100_000, "levels of nesting"),
        ("{a: " * 100_000, "levels of nesting"),
        ("a: " + "9" * 5000, "out of range"),
        (r'a: "\UFFFFFFFF"', "out of range"),
        ("a: \x01", "character"),
        ("--- a\n--- b", "another document"),
        ("a: [", "line 1"),
    ],
)
def test_what_surprises_or_harms_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ODD)
def test_text_comes_back_as_text_in_either_version(text):
    written = write_yaml({"key": text, "list": [text]})
    assert parse_yaml(written) == yaml.safe_load(written) == {"key": text, "list": [text]}
