import math

import pytest
import torch

from ddmd.errors import InputError
from ddmd.method.noise import DiffusionPath
from ddmd.teachers.builtin import WEIGHTS, load_suite
from ddmd.teachers.builtin.shapes import retime as retiming
from ddmd.teachers.builtin.shapes.build import build_pipeline, build_tokenizer, identity_autoencoder
from ddmd.teachers.builtin.shapes.render import RANGE, render
from ddmd.teachers.builtin.shapes.scenes import ATTRIBUTES, NAMES, caption, parse
from ddmd.teachers.builtin.shapes.train import ShapesRecipe, ShapesTraining, train_teacher
from ddmd.teachers.builtin.shapes.verifier import load_verifier, verifier_accuracy
from ddmd.teachers.builtin.shapes.world import SPLITS, UNSTATED, split_of
from ddmd.teachers.builtin.shapes.worlds import SHAPES
from ddmd.teachers.builtin.statistics import frechet_distance, pixel_statistics
from ddmd.teachers.builtin.training import learning_rate, run_training, steps_and_seed, training_levels


def test_captions_say_what_is_stated_and_parse_back():
    assert caption([1, 1, 0, 0, 1, 0]) == "a large striped red circle at the left on a gray background"
    assert caption([UNSTATED, UNSTATED, 5, 3, UNSTATED, UNSTATED]) == "a blue star"
    g = torch.Generator().manual_seed(0)
    for row in SHAPES.statements(SHAPES.scenes(200, g), 0.3, 0.0, g).tolist():
        assert parse(caption(row)) == row
        assert len(build_tokenizer()(caption(row)).input_ids) <= SHAPES.tokens


def test_statements_omit_and_lie_at_the_given_rates():
    g = torch.Generator().manual_seed(0)
    scenes = SHAPES.scenes(20_000, g)
    said = SHAPES.statements(scenes, 0.15, 0.08, g)
    stated = said != UNSTATED
    assert stated[:, NAMES.index("shape")].all()
    assert (~stated[:, 0]).float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (said != scenes)[stated].float().mean().item() == pytest.approx(0.08, abs=0.01)


def test_unknown_and_contradicting_words_are_refused():
    with pytest.raises(InputError, match="'elephant'.*circle"):
        parse("a red elephant")
    with pytest.raises(InputError, match="colour"):
        parse("a red blue circle")
    assert parse("") == [UNSTATED] * 6


def test_splits_share_no_caption_and_are_stable():
    sets = {split: SHAPES.take(split, 1000) for split in ("validation", "report", "train")}
    assert all(len(set(prompts)) == 1000 for prompts in sets.values())
    assert not (set(sets["validation"]) & set(sets["report"]) or set(sets["report"]) & set(sets["train"]))
    assert not set(sets["validation"]) & set(sets["train"])
    assert split_of("a red circle") == "train"  # the hash is part of the published protocol


def test_a_split_that_has_fewer_captions_than_asked_for_gives_them_all():
    everything = [prompt for split in SPLITS for prompt in SHAPES.take(split, 10**6)]
    words = [len(values) + (column not in SHAPES.always) for column, values in SHAPES.attributes.items()]
    assert len(set(everything)) == len(everything) <= math.prod(words)
    assert len(everything) > 0.99 * math.prod(words)


def test_renders_stay_in_range_and_show_their_attributes():
    g = torch.Generator().manual_seed(0)
    scenes = SHAPES.scenes(2000, g)
    images = render(scenes, g)
    assert images.shape == (2000, 3, 32, 32)
    assert images.abs().max() <= RANGE + 1e-6
    gray = scenes[:, NAMES.index("background")] == 0
    assert images[gray][:, :, 0, 0].abs().mean() < 0.2
    red = (scenes[:, NAMES.index("colour")] == 0) & (scenes[:, NAMES.index("texture")] == 0) & (scenes[:, NAMES.index("position")] == 0)
    middle = images[red & (scenes[:, NAMES.index("shape")] < 2)][:, :, 16, 16].mean(0)
    assert middle[0] > 0.5 > 0 > middle[1]
    assert torch.equal(render(scenes, torch.Generator().manual_seed(1)), render(scenes, torch.Generator().manual_seed(1)))


def test_the_autoencoder_changes_nothing():
    vae, x = identity_autoencoder(), torch.rand(2, 3, 32, 32) * 2.4 - 1.2
    latents = vae.encode(x).latents * vae.config.scaling_factor
    torch.testing.assert_close(latents, x, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(latents / vae.config.scaling_factor).sample, x, atol=1e-3, rtol=0)


def test_training_levels_are_a_shifted_cosine():
    """Half of them lie above the level whose noise is `shift` times the signal."""
    abar = build_pipeline().scheduler.alphas_cumprod.double()
    index = training_levels(40_000, len(abar), 3.0, torch.Generator().manual_seed(0))
    ratio = ((1 - abar) / abar).sqrt()[index]
    assert (ratio > 3.0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (ratio > 3.0 * 2.41421).double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert abar[-1] < 1e-8


def test_a_retimed_network_says_the_same_at_the_same_noise(monkeypatch):
    monkeypatch.setattr(retiming, "ADAM_STEPS", 300)
    monkeypatch.setattr(retiming, "LBFGS_STEPS", 100)
    torch.manual_seed(0)
    pipeline = build_pipeline(widths=(8, 16, 16, 16))
    unet, new = pipeline.unet, pipeline.scheduler.alphas_cumprod
    with torch.no_grad():  # deaf to the fastest waves, as a trained network is: they cannot run three times as fast
        unet.time_embedding.linear_1.weight.view(-1, 2, 4)[:, :, :2] = 0
    old = 1 / (1 + (3 * ((1 - new.double()) / new.double()).sqrt()) ** 2)  # a table with three times the noise
    before = unet.time_embedding(unet.time_proj(torch.tensor([300.0])))
    here = int((new.double() - old[300]).abs().argmin())
    unmoved = unet.time_embedding(unet.time_proj(torch.tensor([here])))
    assert retiming.retime(unet, old, new) < 0.1
    after = unet.time_embedding(unet.time_proj(torch.tensor([here])))
    assert (after - before).abs().max() < 0.2 * (unmoved - before).abs().max()


def test_frechet_distance_is_the_closed_form():
    a, b = torch.tensor([4.0, 9.0]).double(), torch.tensor([1.0, 16.0]).double()
    zero = torch.zeros(2).double()
    assert frechet_distance(zero, a.diag(), zero + 1, b.diag()) == pytest.approx(2 + (2 - 1) ** 2 + (3 - 4) ** 2)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    assert frechet_distance(zero, turn @ a.diag() @ turn.T, zero, turn @ b.diag() @ turn.T) == pytest.approx(2.0)
    assert frechet_distance(zero, a.diag(), zero, a.diag()) == pytest.approx(0.0, abs=1e-9)


def test_pixel_statistics():
    flat = torch.full((1, 3, 8, 8), 0.5)
    stats = pixel_statistics(flat, RANGE)
    assert (stats["mean"], stats["saturation"], stats["detail"], stats["clipped"]) == (0.5, 0.0, 0.0, 0.0)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    stats = pixel_statistics(board.expand(1, 3, 8, 8), RANGE)
    assert stats["detail"] == pytest.approx(4.0)
    assert stats["clipped"] == 1.0


@pytest.fixture(scope="module")
def suite():
    return load_suite("shapes")


def test_the_shipped_verifier_reads_every_attribute():
    accuracy = verifier_accuracy(load_verifier(WEIGHTS / "shapes" / "verifier", SHAPES), 4000, seed=123)
    assert min(accuracy[name] for name in NAMES) >= 0.995


def test_scores_of_right_and_wrong_pictures(suite):
    g = torch.Generator().manual_seed(0)
    scenes = SHAPES.scenes(400, g)
    images, prompts = render(scenes, g), [caption(row) for row in scenes.tolist()]
    right = suite.score(images, prompts)
    assert right["overall"] > 0.99
    assert min(right[c] for c in ("entity", "attribute", "relation", "global")) > 0.99
    assert right["intervals"]["overall"][0] <= right["overall"] <= right["intervals"]["overall"][1]
    recoloured = scenes.clone()
    recoloured[:, NAMES.index("colour")] = (scenes[:, NAMES.index("colour")] + 1) % len(ATTRIBUTES["colour"])
    wrong = suite.score(images, [caption(row) for row in recoloured.tolist()])
    assert wrong["overall"] < 0.01
    assert wrong["attribute"] == pytest.approx(2 / 3, abs=0.02)
    assert wrong["entity"] > 0.99
    unsaid = suite.score(images, ["a " + ATTRIBUTES["shape"][row[3]] for row in scenes.tolist()])
    assert unsaid["overall"] > 0.99
    assert unsaid["relation"] is None
    noisy = suite.score(images + 0.3 * torch.randn(images.shape, generator=g), prompts)
    assert noisy["frechet"] > 2 * right["frechet"]


def test_training_resumes_exactly_and_learns(tmp_path, untrained):
    from dataclasses import replace

    recipe = ShapesRecipe(steps=4, batch=4, warmup=1)
    losses = []
    train_teacher(tmp_path / "a", recipe, torch.device("cpu"), lambda step, loss: losses.append(loss), save_every=2)
    train_teacher(tmp_path / "b", replace(recipe, steps=2, decay=0.7), torch.device("cpu"), lambda step, loss: None, save_every=2)
    a = ShapesTraining(recipe, torch.device("cpu"))
    a.load(tmp_path / "a" / "state.pt")
    assert a.position == 4
    with pytest.raises(InputError, match="batch"):
        ShapesTraining(replace(recipe, batch=8), torch.device("cpu")).load(tmp_path / "a" / "state.pt")
    one, two = (
        ShapesTraining(replace(recipe, steps=100), torch.device("cpu")),
        ShapesTraining(replace(recipe, steps=100), torch.device("cpu")),
    )
    for _ in range(2):
        one.step()
    one.save(tmp_path / "half.pt")
    two.load(tmp_path / "half.pt")
    assert one.step() == two.step()
    assert (tmp_path / "a" / "pipeline" / "model_index.json").is_file()


def test_the_teacher_learns_the_velocity_of_the_method():
    """The oracle is `DiffusionPath`, which reads the same table: index i is level (i + 1) / T."""
    training = ShapesTraining(ShapesRecipe(), torch.device("cpu"))
    path = DiffusionPath(training.abar, "v")
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def right(noisy, index):
        u = (index.double() + 1) / len(training.abar)
        return path.target(images, path.to_eps(images, noisy, u), u)

    def loss(predict):
        return training.velocity_loss(images, predict, torch.Generator().manual_seed(1)).item()

    size = loss(lambda noisy, index: torch.zeros_like(noisy))
    assert size > 0.1 and loss(right) < 1e-6
    assert loss(lambda noisy, index: -right(noisy, index)) == pytest.approx(4 * size, rel=1e-4)


def test_a_training_can_begin_from_trained_weights(tmp_path):
    recipe = ShapesRecipe(steps=1, batch=2)
    train_teacher(tmp_path / "a", recipe, torch.device("cpu"), lambda step, loss: None)
    again = ShapesTraining(ShapesRecipe(seed=5), torch.device("cpu"))
    again.warm_start(tmp_path / "a" / "pipeline")
    state = torch.load(tmp_path / "a" / "state.pt", weights_only=True)
    assert all(torch.equal(p, state["average"][name]) for name, p in again.networks.named_parameters())
    with pytest.raises(InputError, match="unet"):
        again.warm_start(tmp_path)


def test_the_learning_rate_rises_holds_and_falls():
    recipe = ShapesRecipe(steps=100, warmup=10, decay=0.5, lr=1.0)
    assert [learning_rate(recipe, s) for s in (0, 9, 40, 75, 99)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.02])


def test_every_word_is_in_the_vocabulary():
    assert all(word in SHAPES.vocabulary for words in ATTRIBUTES.values() for word in words)


def test_a_loss_that_is_not_finite_leaves_what_was_saved(tmp_path):
    training = ShapesTraining(ShapesRecipe(steps=4, batch=2, warmup=1), torch.device("cpu"))
    true_step, told = training.step, []

    def step():
        loss = true_step()
        return loss if training.position < 3 else loss * float("nan")

    training.step = step
    with pytest.raises(FloatingPointError, match="step 3"):
        run_training(training, tmp_path, lambda position, loss: told.append(position), save_every=2)
    assert told == [1, 2] and torch.load(tmp_path / "state.pt", weights_only=True)["position"] == 2


def test_only_a_teacher_has_a_batch_and_a_rate():
    assert steps_and_seed({"seed": 3}, 7) == (7, 3) and steps_and_seed({"steps": 2}, 7) == (2, 0)
    with pytest.raises(InputError, match=r"--lr: found 0.1; only a teacher's"):
        steps_and_seed({"seed": 0, "lr": 0.1}, 7)


def test_the_average_moves_by_one_minus_its_decay():
    training = ShapesTraining(ShapesRecipe(steps=100, batch=2, warmup=1), torch.device("cpu"))
    training.position = 50
    before = {name: value.clone() for name, value in training.average.items()}
    training.step()
    for name, parameter in training.networks.named_parameters():
        torch.testing.assert_close(training.average[name], 51 / 60 * before[name] + 9 / 60 * parameter.detach())
