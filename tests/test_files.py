import ast
import json
import os
from pathlib import Path

import pytest

import ddmd
from ddmd.errors import InputError
from ddmd.files import read_json, read_json_lines, read_lines, read_text

ODD_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def test_text_is_utf8_without_its_mark_whatever_the_locale(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\nb\n")
    assert read_text(tmp_path / "a.txt") == "café\r\nb\n"
    assert read_lines(tmp_path / "a.txt") == ["café", "b"]


@pytest.mark.parametrize("end", ODD_ENDS)
def test_a_newline_alone_ends_a_line(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(f"a{end}b\n\nc".encode())
    assert read_lines(tmp_path / "a.txt") == [f"a{end}b", "", "c"]
    (tmp_path / "a.jsonl").write_bytes(f'"a{end}b"\n'.encode() if end >= "\x80" else b'"a"\n')
    assert len(read_json_lines(tmp_path / "a.jsonl")) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a red circle".encode("utf-16"), "UTF-16.*UTF-8"),
        (b"\xfe\xff\0a", "UTF-16.*UTF-8"),
        (b"\x1f\x8b\x08\0", "gzip.*unpack"),
        (b"PK\x03\x04", "ZIP"),
        (b"a\nb\xe9", "not UTF-8 in line 2"),
        (b"a\n\xed\xa0\x80", "not UTF-8 in line 2"),
        (b"a\n\nb\0", "NUL character in line 3"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, words):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_text(tmp_path / "a")


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("none", "no such file"),
        ("", "a folder"),
        ("pipe", "a pipe"),
        ("a\0b", "no file can have"),
        ("x" * 300, "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            read_text(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON"),
        (b"{\n 1", "line 2"),
        (b"[" * 100_000, "deeply"),
        (b"1" * 5000, "digits"),
        (b'["\\ud800"]', "surrogate"),
    ],
)
def test_damaged_json_is_named(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_json(tmp_path / "a.json")


def test_pairs_of_surrogates_are_text(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["\U0001f600"]), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == ["\U0001f600"]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("1\n\n{\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a.jsonl:3: found what is not JSON"):
        read_json_lines(tmp_path / "a.jsonl")


def bare_reads(tree):
    """Lines that open text by the locale, or read or split it otherwise than by `ddmd.files`."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        of_files = isinstance(call.func, ast.Name) or name in ("read_text", "write_text", "splitlines", "fdopen")
        binary = any(isinstance(a, ast.Constant) and isinstance(a.value, str) and "b" in a.value for a in call.args[1:2])
        told = any(keyword.arg == "encoding" for keyword in call.keywords)
        own = name == "read_text" and isinstance(call.func, ast.Name)  # that of `ddmd.files`
        if name == "splitlines" or (name in ("open", "read_text", "write_text", "fdopen") and of_files and not (binary or told or own)):
            yield call.lineno


def test_the_check_sees_bare_reads():
    source = 'open("a")\nopen("a", "rb")\np.read_text()\np.write_text("b")\np.write_text("b", encoding="utf-8")\ns.splitlines()\n'
    assert list(bare_reads(ast.parse(source))) == [1, 3, 4, 6]


def test_no_file_is_read_or_written_by_the_locale():
    """Text is read by `ddmd.files`; what is written, or read from a package, states its encoding."""
    found = {}
    for path in Path(ddmd.__file__).parent.rglob("*.py"):
        lines = list(bare_reads(ast.parse(path.read_text(encoding="utf-8"))))
        if lines:
            found[path.name] = lines
    assert found == {}
