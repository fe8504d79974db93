"""Checkpoints: every kind of damage is found, and the one before is used."""

import json

import pytest
import torch

from ddmd.errors import InputError
from ddmd.folders import MANIFEST
from ddmd.run import checkpoint as ckpt

FILES = ("average.safetensors", "student.safetensors", "student_optimizer.safetensors", "state.json", MANIFEST)


def save(checkpoints, cycle, **facts):
    generator = torch.Generator().manual_seed(cycle)
    names = [name.removesuffix(".safetensors") for name in FILES[:3]]
    tensors = {name: {"a": torch.randn(900, generator=generator), "b": torch.zeros(3)} for name in names}
    folder = ckpt.step_folder(checkpoints, cycle)
    ckpt.save_checkpoint(folder, tensors, {"cycle": cycle, **facts})
    return folder


def flip(place):
    def spoil(data):
        where = min(int(place * len(data)), len(data) - 1)
        data[where] ^= 1 << (where % 8)

    return spoil


def zero(place):
    def spoil(data):
        where = int(place * (len(data) - 64))
        data[where : where + 64] = bytes(64)

    return spoil


def cut(share):
    def spoil(data):
        del data[int(share * len(data)) :]

    return spoil


DAMAGE = {
    "a flipped bit at the start": flip(0), "in the header": flip(0.01), "early": flip(0.2), "in the middle": flip(0.5), "late": flip(0.8),
    "at the end": flip(1), "zeros early": zero(0.01), "in between": zero(0.5), "late zeros": zero(1), "cut": cut(0.5), "empty": cut(0),
    "gone": None,
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_of_every_file_is_found_and_the_checkpoint_before_is_used(tmp_path, how):
    """12 kinds in 5 files: 60 blocks."""
    before, folder = save(tmp_path, 2), save(tmp_path, 4)
    assert ckpt.damage(folder) is None
    for name in FILES:
        file = folder / name
        whole = file.read_bytes()
        data = bytearray(whole)
        if (spoil := DAMAGE[how]) is None:
            file.unlink()
        else:
            spoil(data)
            assert data != whole
            file.write_bytes(data)
        assert ckpt.damage(folder) == name
        said = []
        assert ckpt.newest_whole(ckpt.step_folders(tmp_path), said.append) == before
        assert len(said) == 1 and str(file) in said[0] and "step-000002" in said[0]
        _, cycle = ckpt.stored_weights(tmp_path, "last", said.append)
        assert cycle == 2 and len(said) == 2
        file.write_bytes(whole)
    assert ckpt.damage(folder) is None


def test_where_none_is_whole_the_file_is_named(tmp_path):
    for cycle in (2, 4):
        (save(tmp_path, cycle) / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"step-000002/state\.json.*damaged"):
        ckpt.newest_whole(ckpt.step_folders(tmp_path))


def test_a_damaged_best_gives_way_to_the_newest_step(tmp_path):
    save(tmp_path, 2)
    ckpt.save_best(tmp_path, 1, {"average": {"a": torch.ones(2)}}, {"cycle": 1})
    assert ckpt.stored_weights(tmp_path, "best")[1] == 1
    (tmp_path / "best-000001" / "average.safetensors").unlink()
    said = []
    assert ckpt.stored_weights(tmp_path, "best", said.append)[1] == 2
    assert "best-000001" in said[0]


def test_a_checkpoint_of_an_older_version_can_still_be_exported(tmp_path):
    folder = save(tmp_path, 2)
    facts = json.loads((folder / "state.json").read_text())
    (folder / MANIFEST).unlink()
    assert ckpt.damage(folder) == MANIFEST  # one of ours without its manifest is damaged
    del facts["checksums"]
    (folder / "state.json").write_text(json.dumps(facts))
    assert ckpt.stored_weights(tmp_path, "last")[1] == 2


def test_what_is_not_finite_is_found_and_never_handed_out(tmp_path):
    tensors = {"average": {"a": torch.ones(3), "n": torch.tensor(3)}, "student": {"b": torch.ones(2)}}
    assert ckpt.not_finite(tensors) is None
    tensors["student"]["b"][1] = float("inf")
    assert ckpt.not_finite(tensors) == "student: b"
    ckpt.save_checkpoint(ckpt.step_folder(tmp_path, 2), {"average": {"a": torch.tensor([float("nan")])}}, {"cycle": 2})
    with pytest.raises(InputError, match="not finite"):
        ckpt.stored_weights(tmp_path, "last")


def test_only_the_files_of_an_old_checkpoint_are_removed(tmp_path):
    folders = [save(tmp_path, cycle) for cycle in (2, 4, 6)]
    (folders[0] / "notes.txt").write_text("mine")
    ckpt.drop_old(tmp_path, 1)
    assert ckpt.step_folders(tmp_path) == [folders[2]]
    assert [path.read_text() for path in tmp_path.rglob("notes.txt")] == ["mine"]
    ckpt.put_aside(folders[2])
    assert ckpt.step_folders(tmp_path) == []


def test_a_disk_without_room_for_a_checkpoint_is_named_early(tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(10))
    optimizer = torch.optim.AdamW([parameter])
    needed = ckpt.expected_bytes([optimizer], {"a": torch.zeros(10)})
    assert needed == 4 * 10 * 4
    ckpt.check_room(tmp_path, needed)
    with pytest.raises(InputError, match="GiB free"):
        ckpt.check_room(tmp_path, 1 << 60)
