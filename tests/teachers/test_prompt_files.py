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


@pytest.mark.parametrize("write", [write_text, write_jsonl, write_strings, write_csv, write_parquet, write_dataset])
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
