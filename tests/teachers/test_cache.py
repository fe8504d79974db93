import pytest
import torch

from ddmd.teachers.cache import ENCODERS, SHARD, ConditionCache, fingerprint, is_whole
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.prompts import EncodedPrompts
from tiny import RESOLUTION, save_twin

WORDS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple")
PROMPTS = [
    f"a {size} {colour} {shape}"
    for size in ("small", "large")
    for colour in WORDS
    for shape in ("circle", "square", "star", "cross", "triangle")
]


@pytest.fixture(scope="module", params=["sdxl-eps", "z_image"])
def model(request, tmp_path_factory):
    return load_denoiser(save_twin(request.param, tmp_path_factory.mktemp("twin") / request.param), RESOLUTION.get(request.param))


def count_encoding(model, monkeypatch):
    calls, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda prompts: calls.append(len(prompts)) or encode(prompts))
    return calls


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            torch.testing.assert_close(x, y, atol=1e-6, rtol=0)


def test_rows_are_those_of_encoding_in_memory(model, tmp_path):
    assert len(PROMPTS) > SHARD
    rows = torch.tensor([0, 69, 3, 64, 3])
    same(ConditionCache(tmp_path, model, PROMPTS).rows(rows), EncodedPrompts(model, PROMPTS).rows(rows))


def test_a_second_run_encodes_nothing(model, tmp_path, monkeypatch):
    ConditionCache(tmp_path, model, PROMPTS)
    calls = count_encoding(model, monkeypatch)
    ConditionCache(tmp_path, model, PROMPTS)
    assert calls == []


def test_a_damaged_shard_is_found_and_encoded_again(model, tmp_path, monkeypatch):
    before = ConditionCache(tmp_path, model, PROMPTS).rows(torch.arange(70))
    first, second = sorted((tmp_path / fingerprint(model, ENCODERS)).glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-10])
    content = bytearray(second.read_bytes())
    content[-5] ^= 1
    second.write_bytes(content)
    assert not is_whole(first)
    assert not is_whole(second)
    calls = count_encoding(model, monkeypatch)
    same(ConditionCache(tmp_path, model, PROMPTS).rows(torch.arange(70)), before)
    assert sorted(calls) == [6, 64]


def test_another_models_cache_is_not_used(model, tmp_path, monkeypatch):
    ConditionCache(tmp_path, model, PROMPTS[:2])
    other = load_denoiser(save_twin("sd15", tmp_path / "other"))
    calls = count_encoding(other, monkeypatch)
    ConditionCache(tmp_path, other, PROMPTS[:2])
    assert calls == [2]
