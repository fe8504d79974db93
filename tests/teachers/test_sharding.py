import pytest
import torch
from torch import nn

from ddmd.teachers import sharding


@pytest.fixture
def two(monkeypatch):
    """A second process whose every value is 10, without one; returns the sizes of the messages."""
    sent = []

    def all_reduce(tensor):
        assert tensor.is_contiguous()
        sent.append(tensor.numel())
        tensor += 10

    monkeypatch.setattr(sharding, "_several", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, source: tensor.fill_(10))
    return sent


def parameters():
    torch.manual_seed(0)
    made = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (2, 3, 4, 5), (5,), (1,))]
    made.append(nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)))
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    made[2].grad = made[2].grad.contiguous(memory_format=torch.channels_last)
    made[3].grad = None
    return made


@pytest.mark.parametrize(("bucket", "messages"), [(10**6, [131, 3]), (12, [10, 120, 1, 3]), (1, [6, 4, 120, 1, 3])])
def test_gradients_become_means_in_messages_of_any_size(two, monkeypatch, bucket, messages):
    monkeypatch.setattr(sharding, "BUCKET", bucket)
    trained = parameters()
    own = [None if p.grad is None else p.grad.clone() for p in trained]
    sharding.mean_gradients(trained)
    assert two == messages
    assert trained[3].grad is None
    for parameter, gradient in zip(trained, own, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, (gradient + 10) / 2)


def test_one_process_alone_keeps_its_gradients_and_weights():
    trained = parameters()
    own = trained[0].grad.clone()
    sharding.mean_gradients(trained)
    sharding.alike(trained, torch.device("cpu"))
    assert torch.equal(trained[0].grad, own) and not trained[0].any()


def test_all_begin_with_the_first_ones_weights(two):
    trained = [*parameters(), nn.Parameter(torch.zeros(3, 4).T)]
    sharding.alike(trained, torch.device("cpu"))
    assert all((parameter == 10).all() for parameter in trained)
