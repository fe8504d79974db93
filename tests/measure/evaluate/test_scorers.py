"""Scorers of real architectures with random weights: against transformers' own calls, and against open_clip's layout written with torch alone."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ddmd.errors import InputError
from ddmd.measure.evaluate.scorers import SCORERS, MissingScorer, open_scorer, parse_paths
from ddmd.measure.evaluate.scorers.clip import ClipRater, from_open_clip, hps_rater, to_clip
from ddmd.measure.evaluate.scorers.features import Inception
from ddmd.measure.evaluate.scorers.vqa import VisualAnswerer, first_word

from .small import save_clip_tokenizer

WIDTH, HEADS, SIZE, PATCH, OUT = 32, 2, 28, 14, 16
SHAPE = {
    "text": {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS},
    "vision": {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "patch_size": PATCH,
               "image_size": SIZE},
    "projection_dim": OUT,
}  # fmt: skip


def picture(seed=0, size=(40, 24)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def test_clip_score_is_the_cosine_by_transformers_own_call(clip_folder):
    from transformers import CLIPModel, CLIPTokenizer

    rater = ClipRater(clip_folder, prefix="", side=None)
    images, prompts = [picture(0, (32, 32)), picture(1, (32, 32))], ["cat", "a longer dog"]
    model, words = CLIPModel.from_pretrained(clip_folder).eval(), CLIPTokenizer.from_pretrained(clip_folder)
    pixels = torch.stack([to_clip(image) for image in images])
    with torch.no_grad():
        out = model(**words(prompts, padding=True, return_tensors="pt"), pixel_values=pixels)
    expected = (100 * out.logits_per_image / model.logit_scale.exp()).diagonal()
    torch.testing.assert_close(torch.tensor(rater.rate(images, prompts)), expected.detach(), rtol=1e-4, atol=1e-3)
    both = rater.rate(images, prompts)
    assert rater.rate(images[1:], prompts[1:])[0] == pytest.approx(both[1], abs=1e-3)


def test_the_prefix_is_part_of_the_prompt(clip_folder):
    plain, prefixed = ClipRater(clip_folder, prefix=""), ClipRater(clip_folder)
    image = picture()
    assert prefixed.rate([image], ["cat"]) == pytest.approx(plain.rate([image], ["A photo depicts cat"]))
    assert prefixed.rate([image], ["cat"]) != pytest.approx(plain.rate([image], ["cat"]))
    assert prefixed.identity()["prefix"] == "A photo depicts " and len(prefixed.identity()["weights_sha256"]) == 64


class Block(nn.Module):
    """One block of open_clip's transformer, with its names."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, mask=None):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenClip(nn.Module):
    """open_clip's CLIP: names of its parameters, order of its layers."""

    def __init__(self, words):
        super().__init__()
        self.visual = nn.Module()
        self.visual.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.visual.positional_embedding = nn.Parameter(torch.randn((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.visual.proj = nn.Parameter(torch.randn(WIDTH, OUT))
        self.visual.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.visual.transformer = nn.Module()
        self.visual.transformer.resblocks = nn.ModuleList([Block(), Block()])
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([Block(), Block()])
        self.token_embedding, self.ln_final = nn.Embedding(words, WIDTH), nn.LayerNorm(WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(77, WIDTH))
        self.text_projection = nn.Parameter(torch.randn(WIDTH, OUT))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        for parameter in self.parameters():  # so that no layer norm or bias is left at its neutral value
            parameter.data += 0.1 * torch.randn_like(parameter)

    def see(self, pixels):
        x = self.visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.visual.class_embedding.expand(len(x), 1, -1), x], 1) + self.visual.positional_embedding
        x = self.visual.ln_pre(x)
        for block in self.visual.transformer.resblocks:
            x = block(x)
        return self.visual.ln_post(x[:, 0]) @ self.visual.proj

    def read(self, tokens, end):
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        mask = torch.full((tokens.shape[1],) * 2, float("-inf")).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        place = (tokens == end).int().argmax(1)
        return self.ln_final(x)[torch.arange(len(x)), place] @ self.text_projection


@pytest.fixture
def hps(tmp_path):
    torch.manual_seed(0)
    words = save_clip_tokenizer(tmp_path / "tokenizer")
    oracle = OpenClip(words).eval()
    torch.save({"state_dict": oracle.state_dict(), "epoch": 3}, tmp_path / "HPS_v2.1_compressed.pt")
    return tmp_path / "HPS_v2.1_compressed.pt", tmp_path / "tokenizer", oracle


def test_hps_is_open_clips_cosine(hps):
    weights, tokenizer, oracle = hps
    rater = hps_rater(weights, tokenizer, SHAPE)
    image = picture()
    (found,) = rater.rate([image], ["a cat"])
    tokens = rater.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        seen, said = oracle.see(rater.prepare(image)[None]), oracle.read(tokens, rater.tokenizer.eos_token_id)
    assert found == pytest.approx(100 * torch.cosine_similarity(seen, said).item(), abs=1e-2) and abs(found) > 1


def test_hps_sees_the_whole_picture(hps):
    weights, tokenizer, _ = hps
    wide = Image.new("RGB", (56, 28), "white")
    seen = hps_rater(weights, tokenizer, SHAPE).prepare(wide)
    black, white = to_clip(Image.new("RGB", (1, 1)))[:, 0, 0], to_clip(Image.new("RGB", (1, 1), "white"))[:, 0, 0]
    assert seen.shape == (3, SIZE, SIZE)
    assert torch.equal(seen[:, 0, 14], black) and torch.equal(seen[:, 14, 14], white) and torch.equal(seen[:, -1, 14], black)


def test_other_weights_are_named(hps, tmp_path):
    weights, tokenizer, oracle = hps
    states = oracle.state_dict()
    assert len(from_open_clip(states)) == 8 + 6 + 4 * 16
    states.pop("ln_final.bias")
    torch.save(states, weights)
    with pytest.raises(InputError, match="other weights"):
        hps_rater(weights, tokenizer, SHAPE)
    weights.write_bytes(b"torn")
    with pytest.raises(InputError, match="damaged"):
        hps_rater(weights, tokenizer, SHAPE)


def test_a_question_is_answered_by_the_model(tmp_path):
    from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "yes", "no", "is", "there", "a", "cat", "?"]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}, additional_special_tokens=["[DEC]", "[ENC]"])
    text = {"vocab_size": len(words), "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}  # fmt: skip
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    torch.manual_seed(0)
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    with torch.no_grad():  # a model that always says yes
        head = model.text_decoder.cls.predictions
        for bias in (head.bias, head.decoder.bias):
            bias.fill_(-100)
            bias[words.index("yes")] = 100
    model.save_pretrained(tmp_path / "blip")
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(tmp_path / "blip")
    judge = VisualAnswerer(tmp_path / "blip")
    assert judge.answer(picture(), ["is there a cat ?", "is there a cat"]) == ["yes", "yes"]
    assert judge.identity()["kind"] == "blip"


@pytest.mark.slow
def test_the_emoji_judge_rates_as_its_suite_does():
    pytest.importorskip("efficientnet_lite_pytorch")
    from ddmd.teachers.builtin import load_suite

    prompts = ["a noto emoji of a red apple", "a fluent emoji of a cat"]
    images = [picture(0, (64, 64)), picture(1, (64, 64))]
    pixels = torch.stack([torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1 for image in images])
    found = open_scorer("judge", {}).rate(images, prompts)
    assert found == pytest.approx(load_suite("emoji").each(pixels, prompts).tolist(), abs=1e-3)


def test_a_chat_model_is_asked_for_yes_or_no():
    """The call that chat models get: their template with picture and question, and the answer without the prompt's tokens."""
    seen = {}

    class Inputs(dict):
        def to(self, device):
            return self

    class Processor:
        def apply_chat_template(self, turns, **options):
            seen.update(turns=turns, options=options)
            return Inputs(input_ids=torch.tensor([[1, 2, 3]]))

        def decode(self, tokens, skip_special_tokens):
            return "Yes." if tokens.tolist() == [9] else "prompt"

    judge = object.__new__(VisualAnswerer)
    judge.kind, judge.processor, judge.device = "qwen2_vl", Processor(), torch.device("cpu")
    judge.model = type("Model", (), {"generate": lambda self, input_ids, **options: torch.tensor([[1, 2, 3, 9]])})()
    image = picture()
    assert judge.answer(image, ["Is there a cat?"]) == ["yes"]
    (turn,) = seen["turns"]
    assert turn["content"] == [{"type": "image", "image": image}, {"type": "text", "text": "Is there a cat? Answer with yes or no."}]
    assert seen["options"]["add_generation_prompt"] and seen["options"]["tokenize"]


def test_answers_are_read_by_their_first_word():
    assert [first_word(text) for text in ("Yes, there is.", " no", "yes!", "", "Maybe yes")] == ["yes", "no", "yes", "", "maybe"]


def test_a_missing_file_is_named_with_where_it_is_published(tmp_path):
    for name, found in SCORERS.items():
        if not found.files:
            continue
        with pytest.raises(MissingScorer, match=f"--scorer {name}: found no path; get "):
            open_scorer(name, {})
        with pytest.raises(MissingScorer, match="no .*nowhere"):
            open_scorer(name, dict.fromkeys(found.files, tmp_path / "nowhere"))
    assert {key: {f: str(p) for f, p in files.items()} for key, files in parse_paths(["hps21=/a", "hps21.tokenizer=/b"]).items()} == {
        "hps21": {"": "/a", "tokenizer": "/b"}
    }


def test_fid_without_its_package_or_weights_is_a_line(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"torn")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MissingScorer, match="torch-fidelity"):
        Inception(tmp_path / "weights.pth")


def test_a_folder_that_is_no_model_is_a_line(tmp_path):
    for load in (ClipRater, VisualAnswerer):
        with pytest.raises(InputError, match=r"no (config\.json|model that sees)"):
            load(tmp_path)


def test_a_processor_that_needs_another_package_is_a_line(tmp_path, monkeypatch):
    """Qwen2-VL's needs torchvision, for films."""
    import transformers

    def missing(*args, **kwargs):
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library")

    monkeypatch.setattr(transformers, "AutoConfig", SimpleNamespace(from_pretrained=missing))
    with pytest.raises(InputError, match="needs another package.*Torchvision"):
        VisualAnswerer(tmp_path)
