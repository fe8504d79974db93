"""Nothing is deleted that ddmd did not write; damage is found; a folder has one process; what cannot be written is named."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from ddmd.errors import InputError, as_input_error
from ddmd.files import claim, folder_atomic, json_text, write_atomic, write_json
from ddmd.folders import (
    LOCK,
    MANIFEST,
    changed,
    check_replaceable,
    check_writable,
    lock_folder,
    remove_leftovers,
)


def put(folder, **files):
    with folder_atomic(folder) as temporary:
        for name, text in files.items():
            (temporary / name).write_text(text)


def old(path):
    """As if made a minute ago."""
    os.utime(path, (time.time() - 60,) * 2)
    return path


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_ours_is_replaced_whole(tmp_path):
    put(tmp_path / "out", a="1", b="2")
    put(tmp_path / "out", a="3")
    assert everything(tmp_path / "out").keys() == {"a", MANIFEST}
    assert (tmp_path / "out" / "a").read_text() == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("case", ["foreign", "added", "added below", "edited", "manifest", "a file"])
def test_what_others_wrote_is_never_replaced(tmp_path, case):
    out = tmp_path / "out"
    if case == "a file":
        out.write_text("mine")
    elif case == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        put(out, a="1")
        (out / "below").mkdir()
        name = {"added": "mine", "added below": "below/mine", "edited": "a", "manifest": MANIFEST}
        (out / name[case]).write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(InputError), folder_atomic(out) as temporary:
        (temporary / "a").write_text("new")
    assert everything(tmp_path) == before


def test_an_empty_folder_and_the_place_where_one_stands_are_filled(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    number = out.stat().st_ino
    monkeypatch.chdir(out)
    put(".", a="1", b="1")
    put(".", a="2")
    assert out.stat().st_ino == number
    assert everything(out).keys() == {"a", MANIFEST}
    assert changed(out) is None


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    put(tmp_path / "out", a="1")
    put(tmp_path / "out", a="2")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "a").read_text() == "2"


def test_a_failure_leaves_the_folder_as_it_was(tmp_path):
    put(tmp_path / "out", a="1")
    before = everything(tmp_path)
    with pytest.raises(OverflowError), folder_atomic(tmp_path / "out") as temporary:
        (temporary / "a").write_bytes((256).to_bytes(1))
    assert everything(tmp_path) == before


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_modes_follow_the_umask(tmp_path, mask, file, folder):
    kept = os.umask(mask)
    try:
        with folder_atomic(tmp_path / "out") as temporary:
            (temporary / "unet").mkdir(mode=0o700)
            save_file({"x": torch.zeros(2)}, temporary / "unet" / "x.safetensors")
            save_file({"x": torch.zeros(2)}, temporary / "x.safetensors")
            write_json(temporary / "a.json", {})
            (temporary / "key.json").touch(mode=0o600)
        write_atomic(tmp_path / "alone", b"")
    finally:
        os.umask(kept)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes.pop("key.json") == 0o600
    for name in ("out", "unet"):
        assert modes.pop(name) == folder
    assert set(modes.values()) == {file}, modes


def test_what_a_killed_process_left_is_removed(tmp_path):
    put(tmp_path / "out", a="1")
    dead = tmp_path / ".out.0123abcd.tmp"
    dead.mkdir()
    (dead / "half").write_text("")
    old(dead)
    others = [tmp_path / name for name in (".student.tmp", ".a.tmp", ".out.0123abcd.tmp.txt", "out.0123abcd.tmp")]
    living = old_file(tmp_path / ".recipe.yaml.89abcdef.tmp")
    for path in others:
        old_file(path)
    with open(living) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        remove_leftovers(tmp_path)
        assert living.exists()
    assert not dead.exists()
    assert all(path.exists() for path in others)
    remove_leftovers(tmp_path, "other")
    assert living.exists()
    remove_leftovers(tmp_path)
    assert not living.exists()


def old_file(path):
    path.write_text("")
    return old(path)


def test_a_kill_between_the_two_renames_is_mended(tmp_path):
    put(tmp_path / "out", a="1")
    os.replace(tmp_path / "out", old(tmp_path / "out").with_name(".out.0123abcd.old"))
    remove_leftovers(tmp_path)
    assert everything(tmp_path / "out").keys() == {"a", MANIFEST}


def test_a_claimed_folder_takes_new_files_beside_those_of_others(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    claim(tmp_path, ["results.json", "*.csv"])
    write_json(tmp_path / "results.json", {})
    claim(tmp_path, ["results.json", "*.csv"])  # again
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"index\.html.*did not write"):
        claim(tmp_path, ["index.html"])
    with pytest.raises(InputError, match="file"):
        claim(tmp_path / "thesis.txt", ["results.json"])


HOLD = """
import sys
from pathlib import Path
from ddmd.folders import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_process_and_a_dead_one_keeps_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"another process.*{other.pid}"):
            lock_folder(tmp_path / "run")
        other.kill()
    lock = lock_folder(tmp_path / "run")
    assert lock_folder(tmp_path / "run") is lock
    assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"results\.json: found no space left on device; free some space"):
        write_json(tmp_path / "results.json", {})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="no space"):  # those who can do without the file go on
        write_json(tmp_path / "results.json", {})


def test_errors_of_other_languages_are_read_too(tmp_path):
    from safetensors import SafetensorError

    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "no space left" in str(as_input_error(error, tmp_path))
    with pytest.raises(InputError, match="out: found no space left"), folder_atomic(tmp_path / "out"):
        raise error
    assert as_input_error(ValueError("else")) is None
    assert as_input_error(FileNotFoundError(2, "gone", "x")) is None


@pytest.mark.parametrize("target", ["a folder", "below a file"])
def test_what_cannot_be_written_is_named(tmp_path, target):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    path = tmp_path / ("folder" if target == "a folder" else "file/x.json")
    with pytest.raises(InputError, match="folder"):
        write_json(path, {})
    with pytest.raises(InputError, match="file"):
        check_writable(tmp_path / "file")
    with pytest.raises(InputError, match="a file"):
        check_replaceable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_json_has_no_words_for_what_is_not_finite(tmp_path):
    value = {"a": [1.0, float("nan")], "b": (float("inf"), {"c": -float("inf")}), "d": 2}
    assert json.loads(json_text(value), parse_constant=pytest.fail) == {"a": [1.0, None], "b": [None, {"c": None}], "d": 2}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)["a"] == [1.0, None]
