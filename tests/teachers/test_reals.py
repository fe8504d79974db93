"""Real images as cached latents: from folders, archives and the teacher; resumed, damaged, and made for another model."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ddmd.errors import InputError
from ddmd.teachers import reals
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.pictures import find_pictures, read_picture
from ddmd.teachers.prompts import EncodedPrompts
from ddmd.teachers.reals import LatentCache, cache_pictures, cache_samples
from ddmd.teachers.sampling import bare
from tiny import RESOLUTION, TWINS, save_twin

CAPTIONS = ["a red circle", "a blue star", "a green square"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_denoiser(save_twin("sdxl-kl", tmp_path_factory.mktemp("twin") / "sdxl-kl"))


@pytest.fixture
def folder(tmp_path):
    """Three pictures of unlike sizes, captioned in files beside them."""
    (tmp_path / "pictures").mkdir()
    for i, text in enumerate(CAPTIONS):
        Image.new("RGB", (20 + 8 * i, 24), (80 * i, 10, 200)).save(tmp_path / "pictures" / f"{i}.png")
        (tmp_path / "pictures" / f"{i}.txt").write_text(text + "\n")
    return tmp_path / "pictures"


def quiet(_):
    pass


def test_a_folder_and_its_archive_give_the_same_pictures(folder, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    one, two = find_pictures(folder), find_pictures(tmp_path / "set.tar")
    assert [p.caption for p in one] == [p.caption for p in two] == CAPTIONS
    for a, b in zip(one, two, strict=True):
        assert torch.equal(read_picture(a, 16), read_picture(b, 16))


def test_captions_from_metadata_and_from_json_members(folder, tmp_path):
    for path in folder.glob("*.txt"):
        path.unlink()
    rows = [json.dumps({"file_name": f"{i}.png", "text": text}) for i, text in enumerate(CAPTIONS)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    assert [p.caption for p in find_pictures(folder)] == CAPTIONS
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(folder / "0.png", "0.png")
        said = json.dumps({"caption": "a red circle"}).encode()
        member = tarfile.TarInfo("0.json")
        member.size = len(said)
        archive.addfile(member, io.BytesIO(said))
    assert [p.caption for p in find_pictures(tmp_path / "set.tar")] == CAPTIONS[:1]


def test_the_middle_square_is_kept_and_colours_are_in_range(tmp_path):
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("white")
    assert torch.equal(read_picture(find_pictures(tmp_path)[0], 8), torch.ones(3, 8, 8))


def test_latents_are_the_autoencoders(model, folder, tmp_path):
    pictures = find_pictures(folder)
    cache = LatentCache(cache_pictures(model, pictures, tmp_path / "out", quiet), model)
    assert cache.captions == CAPTIONS
    image = read_picture(pictures[2], model.resolution)[None]
    vae = model.pipeline.vae
    with torch.no_grad():
        expected = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
    got = cache.rows(torch.tensor([2, 0]))
    assert got.shape == (2, *model.shape)
    torch.testing.assert_close(got[:1], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", TWINS)
def test_encoding_undoes_decoding_in_every_family(name, tmp_path):
    """Where the twin's autoencoder is the identity the round trip is exact; elsewhere its shapes must fit."""
    model = load_denoiser(save_twin(name, tmp_path / name), RESOLUTION.get(name))
    latents = torch.rand(2, *model.shape) - 0.5
    back = model.encode_images(model.decode(latents))
    assert back.shape == latents.shape
    if type(model.pipeline.vae).__name__ == "AutoencoderTiny":
        torch.testing.assert_close(back, latents, atol=1e-3, rtol=0)


def test_a_killed_cache_goes_on_where_it_was(model, tmp_path, monkeypatch):
    monkeypatch.setattr(reals, "SHARD", 2)
    prompts = [f"a {size} {shape}" for size in ("small", "large") for shape in ("circle", "star", "cross")]

    def killed(done):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_samples(model, prompts, tmp_path / "out", 2, 3.0, 0, killed)
    with pytest.raises(InputError, match="not finished"):
        LatentCache(tmp_path / "out", model)
    (tmp_path / "out" / "latents-00000.safetensors").write_bytes(b"torn")
    drawn, encode = [], reals.encode_all
    monkeypatch.setattr(reals, "encode_all", lambda model, block: drawn.append(block) or encode(model, block))
    cache_samples(model, prompts, tmp_path / "out", 2, 3.0, 0, quiet)
    assert drawn == [prompts[:2], prompts[4:]]
    whole = cache_samples(model, prompts, tmp_path / "again", 2, 3.0, 0, quiet)
    rows = torch.arange(6)
    assert torch.equal(LatentCache(tmp_path / "out", model).rows(rows), LatentCache(whole, model).rows(rows))


def test_a_cache_that_goes_on_notices_changed_pictures(model, folder, tmp_path):
    before = LatentCache(cache_pictures(model, find_pictures(folder), tmp_path / "out", quiet), model).rows(torch.arange(3))
    Image.new("RGB", (28, 24), (0, 250, 0)).save(folder / "1.png")
    after = LatentCache(cache_pictures(model, find_pictures(folder), tmp_path / "out", quiet), model).rows(torch.arange(3))
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]
    encoded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode_images", encoded.append)
        cache_pictures(model, find_pictures(folder), tmp_path / "out", quiet)
    assert encoded == []


def test_a_cache_of_samples_goes_on_with_the_same_teacher_alone(tmp_path):
    folder = save_twin("sdxl-kl", tmp_path / "model")
    cache_samples(load_denoiser(folder), ["a red circle"], tmp_path / "out", 1, 3.0, 0, quiet)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    changed = load_denoiser(folder)
    with pytest.raises(InputError, match="another cache, of another source, settings or teacher"):
        cache_samples(changed, ["a red circle"], tmp_path / "out", 1, 3.0, 0, quiet)
    assert len(LatentCache(tmp_path / "out", changed)) == 1  # its autoencoder is the same


def test_teacher_samples_are_drawn_once(model, monkeypatch, tmp_path):
    monkeypatch.setenv("DDMD_CACHE", str(tmp_path))
    prompts, drawn, draw = ["a red circle", "a blue star"], [], reals.teacher_latents
    encoded = EncodedPrompts(model, [*prompts, "a green cross"])
    monkeypatch.setattr(reals, "teacher_latents", lambda *a: drawn.append(a[3]) or draw(*a))

    def kept(steps):
        return reals.kept_teacher_latents(model, bare(model), prompts, encoded, steps, 3.0, quiet)

    first = kept(2)
    assert torch.equal(first, draw(model, bare(model), encoded.rows(torch.arange(2)), 2, 3.0, 0)) and torch.equal(kept(2), first)
    assert drawn == [2]
    kept(3)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    for path in files:
        path.write_bytes(b"torn")
    assert torch.equal(kept(2), first)
    assert drawn == [2, 3, 2]


def test_another_models_or_a_damaged_cache_is_refused(model, folder, tmp_path):
    pictures = find_pictures(folder)
    out = cache_pictures(model, pictures, tmp_path / "out", quiet)
    other = load_denoiser(save_twin("sd15", tmp_path / "sd15"))
    with pytest.raises(InputError, match="made for sdxl"):
        LatentCache(out, other)
    with pytest.raises(InputError, match="another cache"):
        cache_pictures(model, pictures[:2], out, quiet)
    with pytest.raises(InputError, match="no cached latents"):
        LatentCache(tmp_path, model)
    (out / "latents-00000.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="damaged"):
        LatentCache(out, model)


def test_bad_pictures_are_named(folder, tmp_path):
    (folder / "1.txt").unlink()
    with pytest.raises(InputError, match=r"1 of 3 pictures without a caption, such as 1\.png"):
        find_pictures(folder)
    (folder / "2.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"2\.png.*not a picture"):
        read_picture(gone := next(p for p in [*_every(folder)] if p.name == "2.png"), 16)
    (folder / "2.png").unlink()
    with pytest.raises(InputError, match=r"2\.png.*no such file"):
        read_picture(gone, 16)
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match="tar"):
        find_pictures(tmp_path / "bad.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        find_pictures(tmp_path / "empty")


def test_odd_archives(folder, tmp_path):
    """Compressed ones under the name .tar (members are read by their place), folders named so, hidden members, loose pictures."""
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(folder / "0.png", "0.png")
    with pytest.raises(InputError, match=r"packed\.tar: found not a whole, uncompressed \.tar"):
        find_pictures(tmp_path / "packed.tar")
    (tmp_path / "packed.tar").unlink()
    named = folder.rename(tmp_path / "set.tar")
    assert [p.caption for p in find_pictures(named)] == CAPTIONS
    (named / "deeper.tar").mkdir()
    (named / "._0.png").write_bytes(b"\0\5\x16\7")
    (named / "folder.png").mkdir()
    with tarfile.open(named / "more.tar", "w") as archive:
        archive.add(named / "0.png", "a.png")
        archive.add(named / "0.txt", "a.txt")
        archive.add(named / "._0.png", "._a.png")
    assert [p.name for p in find_pictures(named)] == ["more.tar/a.png", "0.png", "1.png", "2.png"]
    whole = (named / "more.tar").read_bytes()
    (named / "more.tar").write_bytes(whole[:700])
    with pytest.raises(InputError, match=r"more\.tar"):
        find_pictures(named)


def test_a_turned_picture_in_an_archive_stands_upright(tmp_path):
    """The mechanism is test_images.py's; here, that members go through it."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    turned = Image.Exif()
    turned[0x0112] = 8
    Image.fromarray(pixels).rotate(-90).save(tmp_path / "a.png", exif=turned)
    (tmp_path / "a.txt").write_text("\ufeffa line", encoding="utf-8")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in ("a.png", "a.txt"):
            archive.add(tmp_path / name, name)
    (picture,) = find_pictures(tmp_path / "set.tar")
    assert picture.caption == "a line"
    assert read_picture(picture, 8)[:, 0, -1].tolist() == [1, 1, 1] and read_picture(picture, 8)[:, -1, 0].tolist() == [-1, -1, -1]


def _every(folder):
    (folder / "1.txt").write_text("again")
    return find_pictures(folder)
