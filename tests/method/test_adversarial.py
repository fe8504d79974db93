import math
from dataclasses import replace

import pytest
import torch
from test_distiller import SHAPE, B, CountingRoles, Net, batch, changed, snapshot

from ddmd.method.adversarial import Adversary, Head, critic_loss, generator_loss
from ddmd.method.batch import Reals
from ddmd.method.distiller import Distiller, Objective, Plan
from ddmd.method.guidance import GuidanceScale
from ddmd.method.noise import DiffusionPath, FlowPath


class FeatureRoles(CountingRoles):
    """The counting roles, with the first layer's maps as features and a discriminator of its own."""

    def __init__(self):
        super().__init__()
        self.nets["discriminator"] = Net(0)

    def features(self, role, z, u, cond):
        self.calls.append((f"{role} features", len(z), torch.is_grad_enabled(), z, u, cond))
        return self.nets[role].body[0](z.float()) + self.nets[role].text(cond["embeds"]).mean()


def build(role, dm_weight=1.0, weight=1.0):
    roles = FeatureRoles()
    torch.manual_seed(3)
    head = Head(8)
    fake = torch.optim.SGD([*roles.parameters("fake"), *head.parameters()], lr=0.1)
    own = torch.optim.SGD([*roles.parameters("discriminator"), *head.parameters()], lr=0.1) if role == "discriminator" else None
    distiller = Distiller(
        roles, FlowPath(), Objective(GuidanceScale(1.0), ca_weight=0.0, dm_weight=dm_weight), Plan(grid=(1.0,)), SHAPE,
        torch.optim.SGD(roles.parameters("student"), lr=0.1), fake, torch.Generator().manual_seed(0), torch.Generator().manual_seed(0),
        Adversary(role, head, generator_weight=weight, critic_weight=1.0, optimizer=own),
    )  # fmt: skip
    return distiller, roles, head


def reals(value=2.0):
    return Reals(torch.full((B, *SHAPE), value), batch().cond)


def test_losses_at_known_logits():
    zero = torch.zeros(4)
    assert generator_loss(zero).item() == pytest.approx(math.log(2))
    assert critic_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(torch.tensor([9.0])) < generator_loss(torch.tensor([-9.0]))
    assert critic_loss(torch.tensor([9.0]), torch.tensor([-9.0])) < 1e-3 < critic_loss(torch.tensor([-9.0]), torch.tensor([9.0]))


def test_the_head_reads_maps_and_tokens_alike():
    head, maps = Head(6), torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(head(maps), head(maps.flatten(2).transpose(1, 2)))


@pytest.mark.parametrize("role", ["fake", "discriminator"])
def test_the_students_gradient_lowers_the_generator_loss(role):
    """The detour over x gives the gradient that backward through everything would, and no other parameter collects any."""
    distiller, roles, head = build(role, dm_weight=0.0)
    before = snapshot(roles)
    distiller.generator_update(batch())
    assert changed(roles, before) == {"student"}
    found = torch.cat([p.grad.flatten() for p in roles.parameters("student")])
    assert all(p.grad is None for p in [*roles.parameters(role), *head.parameters()])

    z, u_gen, cond = next(call for call in roles.calls if call[0] == "student")[3:]
    noisy, u = next(call for call in roles.calls if call[0].endswith("features"))[3:5]
    torch.manual_seed(1)
    student = Net(1)
    x = FlowPath().to_x0(student(z, u_gen, cond), z, u_gen)
    noise = FlowPath().to_eps(x.detach(), noisy.detach(), u)
    generator_loss(head(roles.features(role, FlowPath().add_noise(x, u, noise), u, cond))).backward()
    expected = torch.cat([p.grad.flatten() for p in student.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_the_critic_learns_with_the_fake_or_alone():
    distiller, roles, head = build("fake")
    before, heads = snapshot(roles), [p.detach().clone() for p in head.parameters()]
    update = distiller.fake_update(batch(), reals=reals())
    assert changed(roles, before) == {"fake"}
    assert any(not torch.equal(a, b) for a, b in zip(heads, head.parameters(), strict=True))
    assert "gan_critic_loss" in update.metrics
    with pytest.raises(ValueError, match="reals"):
        distiller.fake_update(batch())

    distiller, roles, _ = build("discriminator")
    before = snapshot(roles)
    sample = distiller.student_sample(batch())
    losses = [distiller.critic_update(sample, reals()).metrics["gan_critic_loss"].item() for _ in range(60)]
    assert changed(roles, before) == {"discriminator"}
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    with pytest.raises(ValueError, match="critic_update"):
        build("fake")[0].critic_update(sample, reals())


def test_real_and_student_images_are_judged_at_the_same_levels():
    distiller, roles, _ = build("discriminator")
    distiller.critic_update(distiller.student_sample(batch()), reals())
    _, size, _, _, u, _ = roles.calls[-1]
    assert size == 2 * B
    assert torch.equal(u[:B], u[B:])


def test_a_judge_looks_at_every_index_of_its_range_on_a_diffusion_path():
    path = DiffusionPath(torch.linspace(0.99, 0.01, 50, dtype=torch.float64))
    adversary, generator = Adversary("fake", Head(8)), torch.Generator().manual_seed(0)
    assert path.time(adversary.draw(3000, path, generator)).unique().tolist() == list(range(1, 50))
    whole = replace(adversary, levels=(0.0, 1.0))
    assert path.time(whole.draw(3000, path, generator)).unique().tolist() == list(range(50))
