import pytest
import torch

from ddmd.devices import choose_attention
from ddmd.teachers.builtin import training

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(autouse=True)
def flag():
    """PyTorch's flag is there without a GPU too."""
    kept = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(kept)


def test_cudnn_attention_is_off_for_gradients_on_a_gpu_and_said_once():
    assert "optim.cudnn_attention" in choose_attention(GPU)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert choose_attention(GPU) is None


def test_the_last_choice_counts():
    choose_attention(GPU)
    assert choose_attention(GPU, cudnn=True) is None and torch.backends.cuda.cudnn_sdp_enabled()


def test_a_cpu_is_left_alone():
    assert choose_attention(CPU) is None and torch.backends.cuda.cudnn_sdp_enabled()


def test_a_teachers_training_chooses_too(monkeypatch):
    class Chosen(Exception):
        pass

    def choose(device):
        raise Chosen(device)

    monkeypatch.setattr(training, "choose_attention", choose)
    monkeypatch.setattr(training.TeacherTraining, "__abstractmethods__", frozenset())
    with pytest.raises(Chosen, match="cpu"):
        training.TeacherTraining(None, None, (), CPU)
