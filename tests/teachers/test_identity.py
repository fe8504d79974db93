import os
import shutil

import pytest

from ddmd.errors import InputError
from ddmd.measure.evaluate.weights import sha256_of
from ddmd.run.results import weights_hash
from ddmd.teachers import identity
from ddmd.teachers.identity import contents_hash, files_under, model_identity


@pytest.fixture
def model(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "model")
    return tmp_path / "model"


def as_in_the_hub(model, cache):
    """The hub's layout: a snapshot of links into blobs."""
    snapshot = cache / "models--someone--model" / "snapshots" / "0123abc"
    blobs = cache / "models--someone--model" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in model.rglob("*") if path.is_file())):
        shutil.copy(file, blobs / str(number))
        place = snapshot / file.relative_to(model)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    return snapshot


def with_linked_parts(model, folder):
    """A pipeline put together of links to the folders of others."""
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("linked", [as_in_the_hub, with_linked_parts])
def test_a_model_of_links_is_the_model_itself(model, tmp_path, linked):
    other = linked(model, tmp_path / "linked")
    assert model_identity(other) == model_identity(model)
    assert weights_hash(other) == weights_hash(model)
    assert sha256_of(other) == sha256_of(model)


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # clocks are coarse, tests are not


@pytest.mark.parametrize("remembered", [1, 1 << 40])
def test_every_byte_counts_also_where_digests_are_kept(model, monkeypatch, remembered):
    monkeypatch.setattr(identity, "REMEMBERED", remembered)
    monkeypatch.setattr(identity, "QUIET", 0)
    whole, text = model_identity(model), model_identity(model, ("text_encoder", "tokenizer"))
    assert model_identity(model) == whole
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    flip(weights, weights.stat().st_size // 2)
    changed = model_identity(model)
    assert changed != whole
    assert model_identity(model, ("text_encoder", "tokenizer")) == text
    flip(weights, weights.stat().st_size // 2)
    assert model_identity(model) == whole
    (model / "vae" / "config.json").write_text((model / "vae" / "config.json").read_text() + " ")
    assert model_identity(model) != whole


def test_what_the_pipeline_is_told_counts(model):
    before = model_identity(model, ("text_encoder",))
    index = model / "model_index.json"
    assert '"force_zeros_for_empty_prompt": true' in index.read_text()
    index.write_text(index.read_text().replace('"force_zeros_for_empty_prompt": true', '"force_zeros_for_empty_prompt": false'))
    assert model_identity(model, ("text_encoder",)) != before


def test_files_that_are_never_read_do_not_count(model):
    before = model_identity(model)
    for name in ("README.md", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/.hidden"):
        (model / name).write_bytes(b"more")
    assert model_identity(model) == before


def test_a_digest_is_kept_and_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "REMEMBERED", 1)
    monkeypatch.setattr(identity, "QUIET", 0)
    (tmp_path / "file").write_bytes(b"contents")
    found = contents_hash(tmp_path / "file")
    monkeypatch.setattr(identity, "_sha256", lambda path: "read again")
    assert contents_hash(tmp_path / "file") == found
    monkeypatch.setattr(identity, "QUIET", 1e18)
    (tmp_path / "file").write_bytes(b"CONTENTS, longer")
    assert contents_hash(tmp_path / "file") == "read again"


def test_a_cache_that_cannot_be_used_costs_time_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "REMEMBERED", 1)
    monkeypatch.setattr(identity, "QUIET", 0)
    (tmp_path / "file").write_bytes(b"contents")
    monkeypatch.setenv("DDMD_CACHE", str(tmp_path / "file" / "below"))
    assert contents_hash(tmp_path / "file") == contents_hash(tmp_path / "file")


def test_nothing_has_no_identity(model, tmp_path):
    for file in (model / "vae").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"vae: found no files"):
        model_identity(model)
    with pytest.raises(InputError, match="no files"):
        weights_hash(tmp_path / "nothing")
    with pytest.raises(InputError, match="no files"):
        sha256_of(model / "scheduler")
    (model / "vae" / "config.json").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="a link to nothing"):
        model_identity(model)


def test_links_in_a_ring_end(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "ring").symlink_to(tmp_path)
    assert files_under(tmp_path, lambda path: True) == [tmp_path / "a"]
