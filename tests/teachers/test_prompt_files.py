import json

import pytest

from ddmd.errors import InputError
from ddmd.teachers.prompt_files import read_prompts

WANTED = ["a red circle", "a star, at the top"]


def write_jsonl(folder):
    path = folder / "p.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "caption": text}) for i, text in enumerate(WANTED)) + "\n")
    return path


def write_strings(folder):
    path = folder / "s.jsonl"
    path.write_text("\n".join(map(json.dumps, WANTED)))
    return path


def write_csv(folder):
    path = folder / "p.csv"
    path.write_text('id,prompt\n1,a red circle\n2,"a star, at the top"\n')
    return path


def write_text(folder):
    path = folder / "p.txt"
    path.write_text("a red circle\n\n  a star, at the top \n")
    return path


def write_parquet(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": [*WANTED, None]}), folder / "p.parquet")
    return folder / "p.parquet"


def write_dataset(folder):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"prompt": WANTED})
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def write_json(folder):
    path = folder / "p.json"
    path.write_text(json.dumps({"about": "x", "rows": [None, *({"Text": text} for text in WANTED)]}))
    return path


def write_parti(folder):
    path = folder / "PartiPrompts.tsv"
    path.write_text("Prompt\tCategory\tNote\n" + "".join(f"{text}\tAbstract\t\n" for text in WANTED))
    return path


def write_marked(folder):
    """As Excel saves it: a byte order mark, capitals, carriage returns, an empty last row."""
    path = folder / "p.csv"
    path.write_bytes(b'\xef\xbb\xbfID,Prompt\r\n1,a red circle\r\n2,"a star, at the top"\r\n,\r\n')
    return path


def write_bare(folder):
    path = folder / "prompts"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(WANTED).encode())
    return path


WRITERS = [
    write_text, write_bare, write_jsonl, write_strings, write_json, write_csv, write_marked, write_parti, write_parquet, write_dataset,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_prompts(write, tmp_path):
    assert read_prompts(write(tmp_path)) == WANTED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "no prompts"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.jsonl", b'{"prompt": "x"}\n{', "a.jsonl:2.*not JSON"),
        ("a.jsonl", b'{"words": "x"}', "words.*prompt, caption, text"),
        ("a.csv", b"id,words\n1,x\n", "words.*prompt, caption, text"),
        ("a.csv", b"prompt\na red circle, at the top\n", "a.csv:2: found 2 fields under a header of 1; quote.*comma"),
        ("a.csv", b'id,prompt\n1,"a red circle\n2,a star\n', "a.csv:3: found a quote that does not close"),
        ("a.csv", b"prompt,id,prompt\na,1,b\n", "'prompt' twice"),
        ("a.csv", b"Prompt,prompt\na,b\n", "Prompt and prompt; leave"),
        ("a.csv", b"id,prompt\n1,a star\n2\n", "a.csv:3: found a row without prompt"),
        ("a.csv", b"prompt\ra star\r", "carriage return.*newline"),
        ("a.csv", b"prompt\na star\0\n", "NUL character in line 2"),
        ("a.csv", b"", "no header"),
        ("a.tsv", b"prompt\na\tb\n", "a.tsv:2: found 2 fields under a header of 1; quote.*tab"),
        ("a.json", b'{"a": ["x"], "b": ["y"]}', "2 lists"),
        ("a.json", b'"a star"', "a string, not a list"),
        ("a.json", b'["a star", 3]', "row 2: found a number"),
        ("a.json", b'["a \\u0000 star"]', "row 1: found a NUL"),
        ("a.json", b'["a \\ud800 star"]', "surrogate"),
        ("a.jsonl", b'{"prompt": "x"}\n{"text": "y"}\n', "a.jsonl:2: found a row without prompt"),
        ("a.jsonl", b'{"prompt": ["x"]}\n', "a.jsonl:1: found a list for a prompt"),
        ("a.jsonl", b'{"prompt": null}\n', "no prompts"),
        ("a.txt", "a star".encode("utf-16"), "UTF-16.*UTF-8"),
        ("a.txt", b"a\0star\n", "NUL"),
        ("a.txt", b"", "no prompts"),
        ("a.txt.gz", b"\x1f\x8b\x08", r"kind \.gz"),
        ("a.png", b"\x89PNG\r\n", r"kind \.png; give \.txt"),
        ("a.md", b"# prompts\n", r"kind \.md"),
        ("prompts", b"\x1f\x8b\x08", "gzip; unpack"),
        ("a.parquet", b"PAR?", "not a Parquet file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)


def test_missing_files_and_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="not a dataset"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_newline_alone_ends_a_prompt(tmp_path, end):
    wanted = [f"a red{end}circle", "a star"]
    (tmp_path / "a.txt").write_bytes("\n".join(wanted).encode())
    (tmp_path / "a.jsonl").write_bytes("\n".join(json.dumps(text, ensure_ascii=False) for text in wanted).encode())
    (tmp_path / "a.csv").write_bytes("\n".join(["prompt", *wanted]).encode())
    (tmp_path / "a.tsv").write_bytes("\n".join(["prompt", *wanted]).encode())
    for name in ("a.txt", "a.jsonl", "a.csv", "a.tsv"):
        assert read_prompts(tmp_path / name) == wanted


def test_quotes_in_tables(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,note\n"a ""stop"" sign\nat night",' + "x" * 140_000 + "\n")
    assert read_prompts(tmp_path / "a.csv") == ['a "stop" sign\nat night']
    (tmp_path / "bare.tsv").write_text('Prompt\tNote\n"Stop" on a sign\t\n"a star"\t\n5" nail\t\n')
    assert read_prompts(tmp_path / "bare.tsv") == ['"Stop" on a sign', "a star", '5" nail']
    (tmp_path / "quoted.tsv").write_text('Prompt\tNote\n"a\tstar"\tx\n"two\nlines"\ty\n')
    assert read_prompts(tmp_path / "quoted.tsv") == ["a\tstar", "two\nlines"]


def test_a_column_of_numbers_is_no_text(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"prompt": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column prompt of int64"):
        read_prompts(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"Prompt": pyarrow.array(["a star"] * 2).dictionary_encode()}), tmp_path / "b.parquet")
    assert read_prompts(tmp_path / "b.parquet") == ["a star"] * 2
