"""Eight-bit bases and moments: close to the whole ones, saved exactly, exported whole."""

import builtins

import pytest
import torch

from ddmd.errors import InputError
from ddmd.run.checkpoint import load_tensors, pack_optimizer, unpack_optimizer
from ddmd.run.export import student_network
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.eight_bit import eight_bit_adamw
from ddmd.teachers.roles import LoraRoles
from tiny import RESOLUTION, save_twin


@pytest.fixture(autouse=True)
def _no_compiler():
    """torchao compiles its optimiser's step; uncompiled it is the same arithmetic without half a minute of C++."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("name", ["sdxl-kl", "z_image"])
def test_an_eight_bit_base_answers_nearly_alike_trains_and_exports_whole(name, tmp_path):
    folder = save_twin(name, tmp_path / name)

    def roles(int8):
        model = load_denoiser(folder, RESOLUTION.get(name))
        return model, LoraRoles(model.network, model.call, model.lora_targets, rank=2, int8=int8)

    (model, whole), (_, eight) = roles(False), roles(True)
    z = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    u, cond = torch.tensor([0.3, 0.8], dtype=torch.float64), model.encode(["a red circle", "a star"])
    a, b = whole.teacher(z, u, cond), eight.teacher(z, u, cond)
    assert 0 < (a - b).abs().max() < 0.05 * a.std()
    eight.backward("student", eight.student(z, u, cond).square().mean())
    assert all(p.grad is not None for p in eight.parameters("student"))
    assert all(p.grad is None for p in eight.parameters("fake"))
    with torch.no_grad():
        for parameter in eight.parameters("student"):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    whole.load_state_dict("student", eight.state_dict("student"))
    merged = student_network(eight, model)
    with torch.no_grad():
        torch.testing.assert_close(model.call(merged, z, u, cond), whole.student(z, u, cond), atol=1e-5, rtol=1e-5)


def test_eight_bit_moments_are_saved_exactly(tmp_path):
    from safetensors.torch import save_file

    def train(optimizer, parameter, steps, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    one = torch.nn.Parameter(torch.ones(64, 128))
    first = eight_bit_adamw([one], 0.01, (0.9, 0.99), 0.0)
    train(first, one, 3, 0)
    packed = pack_optimizer(first)
    assert packed["0.exp_avg.codes"].dtype == torch.uint8
    save_file(packed, tmp_path / "moments.safetensors")
    two = torch.nn.Parameter(one.detach().clone())
    second = eight_bit_adamw([two], 0.01, (0.9, 0.99), 0.0)
    unpack_optimizer(second, load_tensors(tmp_path / "moments.safetensors"))
    train(first, one, 2, 1)
    train(second, two, 2, 1)
    assert torch.equal(one, two)


def test_without_torchao_the_key_and_the_mend_are_named(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr("importlib.import_module", lambda name: real("a_module_that_is_not_there"))
    with pytest.raises(InputError, match=r"optim.optimizer.*quant"):
        eight_bit_adamw([], 0.1, (0.9, 0.99), 0.0)
