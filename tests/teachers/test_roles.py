import copy

import pytest
import torch

from ddmd.method.batch import Batch
from ddmd.method.distiller import Distiller, Objective, Plan
from ddmd.method.guidance import GuidanceScale
from ddmd.teachers.roles import CopyRoles, LoraRoles, RoleError, in_bfloat16


@pytest.fixture
def fresh(denoiser):
    network = denoiser.network
    denoiser_copy = copy.copy(denoiser)
    return copy.deepcopy(network), denoiser_copy


def build(kind, network, denoiser, **kwargs):
    if kind == "copies":
        return CopyRoles(network, denoiser.call, **kwargs)
    return LoraRoles(network, denoiser.call, denoiser.lora_targets, rank=4, **kwargs)


def inputs(denoiser, n=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, *denoiser.shape, generator=g)
    return z, torch.full((n,), 0.6, dtype=torch.float64), denoiser.encode(["a red circle", "a blue star"][:n])


def stir(roles, role, seed=1):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in roles.parameters(role):
            p.add_(0.05 * torch.randn(p.shape, generator=g))


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_all_roles_begin_as_the_teacher_bit_for_bit(kind, fresh):
    network, denoiser = fresh
    z, u, cond = inputs(denoiser)
    with torch.no_grad():
        base = denoiser.call(network, z, u, cond)
    roles = build(kind, network, denoiser)
    with torch.no_grad():
        assert torch.equal(roles.teacher(z, u, cond), base)
        assert torch.equal(roles.student(z, u, cond), base)
        assert torch.equal(roles.fake(z, u, cond), base)
    stir(roles, "student")
    stir(roles, "fake", 2)
    with torch.no_grad():
        student, fake = roles.student(z, u, cond), roles.fake(z, u, cond)
        assert not torch.equal(student, base)
        assert not torch.equal(fake, student)
        assert torch.equal(roles.teacher(z, u, cond), base)  # adapters off equals the base


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_a_role_trains_its_own_parameters_only(kind, fresh):
    network, denoiser = fresh
    roles = build(kind, network, denoiser)
    stir(roles, "student")
    z, u, cond = inputs(denoiser)
    loss = roles.student(z, u, cond).square().mean()
    with torch.no_grad():
        roles.fake(z, u, cond)
        roles.teacher(z, u, cond)
    roles.backward("student", loss)
    assert all(p.grad is not None for p in roles.parameters("student"))
    assert all(p.grad is None for p in roles.parameters("fake"))
    assert not any(a is b for a in roles.parameters("student") for b in roles.parameters("fake"))
    assert roles.teacher(z, u, cond).requires_grad is False


def test_lora_keeps_one_base(fresh):
    network, denoiser = fresh
    before = sum(p.numel() for p in network.parameters())
    roles = build("lora", network, denoiser)
    adapters = sum(p.numel() for role in ("student", "fake") for p in roles.parameters(role))
    storages = {p.untyped_storage().data_ptr() for p in roles.plain("teacher").parameters()}
    assert sum(p.numel() for p in roles.plain("teacher").parameters()) == before + adapters
    assert len(storages) == len(list(roles.plain("teacher").parameters()))
    assert adapters < 0.2 * before


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_switched_before_backward_is_an_error_or_cannot_happen(checkpointing, fresh):
    """The two silent traps: no gradient, or a wrong one under gradient checkpointing."""
    network, denoiser = fresh
    roles = build("lora", network, denoiser)
    stir(roles, "student")
    stir(roles, "fake", 2)
    z, u, cond = inputs(denoiser)
    roles.student(z, u, cond).square().mean().backward()
    expected = [p.grad.clone() for p in roles.parameters("student")]

    if checkpointing:
        network.enable_gradient_checkpointing()
        network.train()  # diffusers recomputes in training mode only; this network has no dropout
    for p in roles.parameters("student"):
        p.grad = None
    loss = roles.student(z, u, cond).square().mean()
    with torch.no_grad():
        roles.fake(z, u, cond)
    with pytest.raises(RoleError, match="student"):
        loss.backward()

    loss = roles.student(z, u, cond).square().mean()
    with torch.no_grad():
        roles.fake(z, u, cond)
    roles.backward("student", loss)
    for p, wanted in zip(roles.parameters("student"), expected, strict=True):
        torch.testing.assert_close(p.grad, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_states_survive_a_round_trip_and_foreign_ones_are_refused(kind, fresh):
    network, denoiser = fresh
    roles = build(kind, network, denoiser)
    z, u, cond = inputs(denoiser)
    stir(roles, "student")
    state = {k: v.clone() for k, v in roles.state_dict("student").items()}
    with torch.no_grad():
        wanted = roles.student(z, u, cond)
        stir(roles, "student", 3)
        assert not torch.equal(roles.student(z, u, cond), wanted)
        roles.load_state_dict("student", state)
        assert torch.equal(roles.student(z, u, cond), wanted)
    state.popitem()
    with pytest.raises(KeyError, match="student"):
        roles.load_state_dict("student", state)


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_without_a_fake_there_is_none(kind, fresh):
    network, denoiser = fresh
    roles = build(kind, network, denoiser, trained=("student",))
    with pytest.raises(RoleError, match="fake"):
        roles.fake(*inputs(denoiser))


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_a_full_cycle_runs(kind, fresh):
    network, denoiser = fresh
    roles = build(kind, network, denoiser)
    distiller = Distiller(
        roles, denoiser.path, Objective(GuidanceScale(4.0), floor=0.02), Plan(), denoiser.shape,
        torch.optim.AdamW(roles.parameters("student"), 1e-3), torch.optim.AdamW(roles.parameters("fake"), 1e-3),
        torch.Generator().manual_seed(0), torch.Generator().manual_seed(0),
    )  # fmt: skip
    cond = denoiser.encode(["a red circle", "a blue star"])
    teacher = roles.teacher(*inputs(denoiser)).clone()
    batch = Batch(cond, denoiser.unconditional(2))
    update = distiller.generator_update(batch)
    distiller.fake_update(sample=update.sample)
    assert all(torch.isfinite(value).all() for value in update.metrics.values())
    assert torch.equal(roles.teacher(*inputs(denoiser)), teacher)


def test_a_fake_of_full_weights_moves_straight_to_the_student(fresh):
    network, denoiser = fresh
    roles = build("copies", network, denoiser)
    for role, seed in (("student", 1), ("fake", 2)):
        torch.manual_seed(seed)
        for parameter in roles.parameters(role):
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    before, goal = ([p.detach().clone() for p in roles.parameters(role)] for role in ("fake", "student"))
    roles.follow(0.3)
    for was, to, now in zip(before, goal, roles.parameters("fake"), strict=True):
        torch.testing.assert_close(now.detach(), was + 0.3 * (to - was))


def test_adapters_do_not_follow(fresh):
    """Their factors' mean is not their mean, and their mean has twice their rank."""
    network, denoiser = fresh
    with pytest.raises(RoleError, match="adapters"):
        build("lora", network, denoiser).follow(0.3)


def test_rank_zero_is_refused(fresh):
    network, denoiser = fresh
    with pytest.raises(ValueError, match="rank"):
        LoraRoles(network, denoiser.call, denoiser.lora_targets, rank=-1)


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_bfloat16_holds_frozen_weights_in_it_and_trains_in_float32(kind, fresh):
    network, denoiser = fresh
    z, u, cond = inputs(denoiser)
    with torch.no_grad():
        exact = denoiser.call(network, z, u, cond)
    denoiser.call = in_bfloat16(denoiser.call)
    roles = build(kind, network, denoiser, frozen=torch.bfloat16)
    assert {p.dtype for role in ("student", "fake") for p in roles.parameters(role)} == {torch.float32}
    answers = roles.teacher(z, u, cond), roles.student(z, u, cond)
    for answer in answers:
        assert answer.dtype == torch.float32
        assert (answer - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()
    roles.backward("student", answers[1].square().mean())
    assert sum(p.grad.abs().sum() for p in roles.parameters("student") if p.grad is not None) > 0
    assert all(p.grad is None for p in roles.parameters("fake"))


def resident(*networks):
    """Bytes of distinct parameter storage."""
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for n in networks for p in n.parameters()}.values())


def test_adapters_share_one_base_where_copies_are_three(fresh):
    network, denoiser = fresh
    base = resident(network)
    assert resident(*build("copies", copy.deepcopy(network), denoiser).networks.values()) == 3 * base
    roles = build("lora", network, denoiser)
    adapters = sum(p.numel() * p.element_size() for role in ("student", "fake") for p in roles.parameters(role))
    assert resident(roles.base) == base + adapters
