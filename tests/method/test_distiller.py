from collections import Counter

import pytest
import torch
from torch import nn

from ddmd.method.batch import Batch, concatenate, select
from ddmd.method.distiller import Distiller, MeanVariance, Objective, Plan
from ddmd.method.guidance import GuidanceScale
from ddmd.method.noise import DiffusionPath, FlowPath
from ddmd.method.objective import classifier_free_guidance, mean_abs
from ddmd.method.renoise import RULES, RenoiseSchedule
from ddmd.method.student import uniform_grid

B, SHAPE = 4, (3, 4, 4)


class Net(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1))
        self.text = nn.Linear(5, 3)

    def forward(self, z, u, cond):
        z = z.to(self.text.weight.dtype)
        return self.body(z) + self.text(cond["embeds"])[:, :, None, None] + u.to(z.dtype).view(-1, 1, 1, 1)


class CountingRoles:
    """Three small networks that note every call: role, batch size, graph, conditions."""

    def __init__(self):
        self.nets = {"teacher": Net(0).requires_grad_(False), "student": Net(1), "fake": Net(2)}
        self.calls = []

    def _call(self, role, z, u, cond):
        self.calls.append((role, len(z), torch.is_grad_enabled(), z, u, cond))
        return self.nets[role](z, u, cond)

    def student(self, z, u, cond):
        return self._call("student", z, u, cond)

    def teacher(self, z, u, cond):
        return self._call("teacher", z, u, cond)

    def fake(self, z, u, cond):
        return self._call("fake", z, u, cond)

    def parameters(self, role):
        return list(self.nets[role].parameters())

    def backward(self, role, loss):
        loss.backward()

    def follow(self, rate):
        with torch.no_grad():
            for fake, student in zip(self.parameters("fake"), self.parameters("student"), strict=True):
                fake.lerp_(student, rate)


def build(alpha=4.0, grid=(1.0,), lr=1e-3, with_fake=True, plan=None, **objective):
    roles = CountingRoles()
    settings = Objective(alpha=GuidanceScale(alpha), **objective)
    distiller = Distiller(
        roles, FlowPath(), settings, Plan(grid=tuple(grid), **(plan or {})), SHAPE,
        torch.optim.SGD(roles.parameters("student"), lr=lr), torch.optim.SGD(roles.parameters("fake"), lr=lr) if with_fake else None,
        torch.Generator().manual_seed(0), torch.Generator().manual_seed(0),
    )  # fmt: skip
    return distiller, roles


def batch(uncond=True):
    g = torch.Generator().manual_seed(5)
    return Batch({"embeds": torch.randn(B, 5, generator=g)}, {"embeds": torch.zeros(B, 5)} if uncond else None)


def snapshot(roles):
    return {role: [p.detach().clone() for p in net.parameters()] for role, net in roles.nets.items()}


def changed(roles, before):
    return {
        role for role, net in roles.nets.items() if any(not torch.equal(a, b) for a, b in zip(before[role], net.parameters(), strict=True))
    }


@pytest.mark.parametrize(
    ("objective", "teacher", "fake"),
    [
        ({"schedule": RenoiseSchedule("coupled")}, [2 * B], 1),
        ({"schedule": RenoiseSchedule("hybrid")}, [3 * B], 1),
        ({"schedule": RenoiseSchedule("hybrid"), "split_teacher": True}, [B, B, B], 1),
        ({"ca_weight": 0.0}, [B], 1),
        ({"alpha": 1.0}, [B], 1),
        ({"dm_weight": 0.0}, [2 * B], 0),
        ({"dm_weight": 0.0, "schedule": RenoiseSchedule("coupled")}, [2 * B], 0),
        ({"mean_variance": MeanVariance(1.0, 0.0, 0.25)}, [3 * B], 1),
    ],
)
def test_passes_of_a_generator_update(objective, teacher, fake):
    distiller, roles = build(**objective, with_fake=fake > 0)
    distiller.generator_update(batch())
    assert [n for role, n, *_ in roles.calls if role == "teacher"] == teacher
    counts = Counter(role for role, *_ in roles.calls)
    assert (counts["student"], counts["fake"]) == (1, fake)
    assert not any(graph for role, _, graph, *_ in roles.calls if role != "student")


def test_dm_never_asks_the_unconditional_teacher():
    for objective in ({"ca_weight": 0.0}, {"alpha": 1.0}):
        distiller, roles = build(**objective)
        distiller.generator_update(batch(uncond=False))
        teacher = next(call for call in roles.calls if call[0] == "teacher")
        assert torch.equal(teacher[5]["embeds"], batch().cond["embeds"])


def test_rollout_and_graph_of_each_rung():
    """Step k of N costs k student calls, the first k - 1 without a graph; over a seed, every rung is met."""
    distiller, roles = build(grid=uniform_grid(4))
    met = Counter()
    for _ in range(24):
        roles.calls.clear()
        update = distiller.generator_update(batch())
        graphs = [graph for role, _, graph, *_ in roles.calls if role == "student"]
        rung = uniform_grid(4).index(update.sample.u_gen[0].item())
        assert graphs == [False] * rung + [True]
        met[rung] += 1
    assert set(met) == {0, 1, 2, 3}


@pytest.mark.parametrize("rung", range(4))
def test_a_rung_that_is_given_is_every_parts(rung):
    """Both updates exit there, in each part of an accumulated batch, and nothing is drawn for it."""
    distiller, roles = build(grid=uniform_grid(4), plan={"gradient_accumulation": 2})
    drawn = distiller.rungs.get_state()
    for update in (distiller.generator_update, distiller.fake_update):
        roles.calls.clear()
        sample = update(batch(), rung=rung).sample
        assert sample.u_gen.tolist() == [1 - rung / 4] * B
        assert [role for role, *_ in roles.calls].count("student") == 2 * (rung + 1)
    assert torch.equal(distiller.rungs.get_state(), drawn)


def test_all_ranks_exit_at_the_same_rung():
    ranks = [build(grid=uniform_grid(4))[0] for _ in range(2)]
    ranks[1].generator.manual_seed(99)  # own noise, shared rung
    for _ in range(8):
        samples = [rank.generator_update(batch()).sample for rank in ranks]
        assert torch.equal(samples[0].u_gen, samples[1].u_gen)
        assert not torch.equal(samples[0].x, samples[1].x)


@pytest.mark.parametrize("role", ["student", "fake"])
def test_accumulated_gradients_are_those_of_the_parts(role):
    """Parts of a batch, one after another, leave the average of the gradients that each gives alone."""

    def gradients(batches, accumulation):
        distiller, roles = build(grid=(1.0, 0.5), lr=0.0, plan={"clip": 1e9, "gradient_accumulation": accumulation})
        found, calls = [], []
        for given in batches:
            update = distiller.generator_update(given) if role == "student" else distiller.fake_update(given)
            assert len(update.sample.x) == len(given.cond["embeds"])
            found.append([p.grad.clone() for p in roles.parameters(role)])
            calls.append([len(call[3]) for call in roles.calls if call[0] == role])
        return found, calls

    whole = batch()
    halves = [Batch(*(select(field, slice(*rows)) for field in whole[:2])) for rows in ((0, B // 2), (B // 2, B))]
    (together,), (sizes,) = gradients([whole], 2)
    apart, _ = gradients(halves, 1)
    assert max(sizes) == B // 2
    for both, one, two in zip(together, *apart, strict=True):
        torch.testing.assert_close(both, (one + two) / 2)
    with pytest.raises(ValueError, match="divide"):
        gradients([whole], 3 if B % 3 else 5)


def test_only_the_trained_role_moves():
    distiller, roles = build()
    before = snapshot(roles)
    distiller.generator_update(batch())
    assert changed(roles, before) == {"student"}
    assert all(p.grad is None for role in ("teacher", "fake") for p in roles.parameters(role))
    before = snapshot(roles)
    distiller.fake_update(batch())
    assert changed(roles, before) == {"fake"}


@pytest.mark.parametrize("name", RULES)
def test_the_student_gradient_is_eq8(name):
    """The whole update, rebuilt by hand from the calls the networks saw."""
    distiller, roles = build(alpha=4.0, grid=uniform_grid(2), schedule=RenoiseSchedule(name))
    path = FlowPath()
    update = distiller.generator_update(batch())
    found = torch.cat([p.grad.flatten() for p in roles.parameters("student")])

    _, _, _, z, u, cond = [call for call in roles.calls if call[0] == "student"][-1]
    torch.manual_seed(0)
    student = Net(1)
    x = path.to_x0(student(z, u, cond), z, u)
    torch.testing.assert_close(x.detach(), update.sample.x)
    teacher = next(call for call in roles.calls if call[0] == "teacher")
    said = path.to_x0(roles.nets["teacher"](*teacher[3:]), teacher[3], teacher[4]).split(B)
    cond_dm, uncond_ca = said[0], said[1]
    cond_ca = cond_dm if RULES[name].coupled else said[2]
    _, _, _, z_dm, u_dm, _ = next(call for call in roles.calls if call[0] == "fake")
    assert torch.equal(z_dm, teacher[3][:B])  # teacher and fake look at the same image in the DM branch
    assert torch.equal(teacher[5]["embeds"][B : 2 * B], torch.zeros(B, 5))
    if RULES[name].ca_below:
        assert (teacher[4][B : 2 * B] < u).all()
    fake_dm = path.to_x0(roles.nets["fake"](z_dm, u_dm, cond), z_dm, u_dm)
    direction = (cond_dm - fake_dm) / mean_abs(x - cond_dm) + 3.0 * (cond_ca - uncond_ca) / mean_abs(x - cond_ca)
    if RULES[name].coupled:
        torch.testing.assert_close(
            (cond_dm - fake_dm) + 3.0 * (cond_ca - uncond_ca), classifier_free_guidance(cond_ca, uncond_ca, 4.0) - fake_dm
        )
    (-(direction.detach() * x).sum() / x.numel()).backward()
    expected = torch.cat([p.grad.flatten() for p in student.parameters()])
    assert expected.norm() < 10  # below the clip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_fake_learns_the_students_image_in_either_space():
    for space in ("native", "x0"):
        distiller, roles = build(plan={"fake_space": space})
        sample = distiller.student_sample(batch())
        loss = distiller.fake_update(sample=sample).metrics["fake_loss"]
        _, _, graph, z, u, cond = roles.calls[-1]
        assert graph
        torch.manual_seed(0)
        fake = Net(2)
        x0 = FlowPath().to_x0(fake(z, u, cond), z, u)
        weight = 1.0 if space == "x0" else (1 / u.view(-1, 1, 1, 1) ** 2).float()  # v-MSE is x0-MSE over sigma^2
        torch.testing.assert_close(loss, (weight * (x0 - sample.x) ** 2).mean(), rtol=2e-3, atol=1e-4)
        assert torch.equal(cond["embeds"], batch().cond["embeds"])  # conditional


def test_one_rollout_serves_several_fake_updates():
    distiller, roles = build(grid=uniform_grid(4))
    sample = distiller.generator_update(batch()).sample
    roles.calls.clear()
    for _ in range(3):
        distiller.fake_update(sample=sample)
    assert Counter(role for role, *_ in roles.calls) == {"fake": 3}


def test_the_fake_can_follow_the_student():
    distiller, roles = build(lr=0.0, plan={"follow": 0.25})
    expected = [f + 0.25 * (s - f) for f, s in zip(roles.parameters("fake"), roles.parameters("student"), strict=True)]
    distiller.fake_update(batch())
    for found, wanted in zip(roles.parameters("fake"), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_noised_data_as_the_students_input():
    distiller, roles = build(grid=(1.0, 0.5), plan={"source": "data"})
    with pytest.raises(ValueError, match=r"batch\.images"):
        distiller.generator_update(batch())
    images = torch.full((B, *SHAPE), 3.0)
    while True:
        roles.calls.clear()
        update = distiller.generator_update(batch()._replace(images=images))
        assert len([c for c in roles.calls if c[0] == "student"]) == 1
        if update.sample.u_gen[0] == 0.5:
            break
    z = next(call[3] for call in roles.calls if call[0] == "student")
    assert z.mean().item() == pytest.approx(1.5, abs=0.2)


@pytest.mark.parametrize("path", [FlowPath(), DiffusionPath(torch.tensor([0.9, 0.5, 0.2, 0.1]))], ids=["flow", "diffusion"])
def test_noised_data_begins_with_noise_alone(path):
    """As inference does: the last entry of a diffusion table still holds some of the image."""
    distiller, _ = build(grid=(1.0, 0.5), plan={"source": "data"})
    distiller.path = path
    shown = {}
    for value in (0.0, 100.0):
        distiller.generator.manual_seed(0)
        images = torch.full((B, *SHAPE), value)
        shown[value] = [distiller.student_input(batch()._replace(images=images), rung)[0] for rung in (0, 1)]
    assert torch.equal(shown[0.0][0], shown[100.0][0])
    assert shown[0.0][0].std().item() == pytest.approx(1, abs=0.2)
    assert (shown[100.0][1] - shown[0.0][1]).mean().item() > 10


def test_the_fake_learns_at_every_index_of_a_diffusion_table_and_never_on_a_clean_image():
    distiller, roles = build(grid=(1.0,))
    distiller.path = path = DiffusionPath(torch.tensor([0.9, 0.5, 0.2, 0.1]), "eps")
    sample = distiller.student_sample(batch())
    roles.calls.clear()
    for _ in range(30):
        distiller.fake_update(sample=sample)
    levels = torch.cat([call[4] for call in roles.calls if call[0] == "fake"])
    assert path.time(levels).unique().tolist() == [0, 1, 2, 3]
    assert (path.coefficients(levels)[1] > 0).all()


def test_shared_noise_is_shared_and_independent_is_not():
    for noise in ("shared", "independent"):
        distiller, roles = build(noise=noise)
        update = distiller.generator_update(batch())
        _, _, _, z, u, _ = next(call for call in roles.calls if call[0] == "teacher")
        eps = FlowPath().to_eps(update.sample.x.repeat(3, 1, 1, 1), z, u)
        alike = torch.allclose(eps[:B], eps[B : 2 * B], atol=1e-3)
        assert alike == (noise == "shared")


def test_a_resumed_distiller_repeats_itself_bit_for_bit():
    straight, roles = build(grid=uniform_grid(4))
    for _ in range(3):
        straight.generator_update(batch())
        straight.fake_update(batch())
    state, weights = straight.state_dict(), snapshot(roles)
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    expected = straight.generator_update(batch())

    resumed, again = build(grid=uniform_grid(4))
    with torch.no_grad():
        for role, net in again.nets.items():
            for p, value in zip(net.parameters(), weights[role], strict=True):
                p.copy_(value)
    resumed.load_state_dict(state)
    found = resumed.generator_update(batch())
    assert torch.equal(found.sample.x, expected.sample.x)
    assert torch.equal(found.metrics["generator_loss"], expected.metrics["generator_loss"])


def test_guidance_scales():
    like = torch.zeros(1000, 3, 2, 2)
    assert GuidanceScale(4.0).at(0, like) == 4.0
    warm = GuidanceScale(4.0, warmup=10)
    assert [warm.at(c, like) for c in (0, 5, 10, 99)] == [1.0, 2.5, 4.0, 4.0]
    drawn = GuidanceScale(4.0, spread=(2.0, 8.0)).at(0, like, torch.Generator().manual_seed(0))
    assert drawn.shape == (1000, 1, 1, 1)
    assert 2.0 <= drawn.min() < 2.1
    assert 7.9 < drawn.max() <= 8.0
    with pytest.raises(ValueError, match="alpha"):
        GuidanceScale(0.5)
    with pytest.raises(ValueError, match="alpha"):
        GuidanceScale(4.0, spread=(0.5, 2.0))


def test_concatenate_joins_tensors_and_lists():
    joined = concatenate([{"a": torch.zeros(2, 3), "b": [1, 2]}, {"a": torch.ones(1, 3), "b": [3]}])
    assert joined["a"].shape == (3, 3)
    assert joined["b"] == [1, 2, 3]


def test_impossible_requests_are_named():
    with pytest.raises(ValueError, match="dm_weight"):
        build(with_fake=False)
    distiller, _ = build()
    with pytest.raises(ValueError, match="uncond"):
        distiller.generator_update(batch(uncond=False))
    with pytest.raises(ValueError, match="neither"):
        distiller.fake_update()
