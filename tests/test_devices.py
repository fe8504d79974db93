from types import SimpleNamespace

import pytest
import torch

from ddmd import cli
from ddmd.devices import MPI_SIZES, Launch, best_device, choose_attention, launch
from ddmd.errors import InputError
from ddmd.run.recipe import load_recipe
from ddmd.run.setup import accelerator_for
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


TORCHRUNS = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*TORCHRUNS, *MPI_SIZES):
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "here"}, Launch()),  # a container's, without torchrun
        (TORCHRUNS, Launch(4, 1, 2, 1, True)),
        ({**TORCHRUNS, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, Launch(1, 0, 1, 0, True)),
    ],
)
def test_a_process_knows_its_place(environment, told, expected):
    environment(**told)
    assert launch() == expected


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"LOCAL_RANK": "0"}, ["LOCAL_RANK", "WORLD_SIZE"]),
        ({"LOCAL_RANK": "0", "RANK": "0"}, ["RANK", "WORLD_SIZE", "MASTER_ADDR"]),
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE: found '2' without RANK, LOCAL_RANK"]),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, ["without LOCAL_RANK"]),
        ({"RANK": "1"}, ["RANK: found '1' without WORLD_SIZE"]),
        ({**TORCHRUNS, "MASTER_PORT": ""}, ["without MASTER_PORT"]),
        ({**TORCHRUNS, "RANK": "4"}, ["RANK: found 4 of 4"]),
        ({**TORCHRUNS, "LOCAL_RANK": "2"}, ["2 of 2 on this machine"]),
        ({**TORCHRUNS, "WORLD_SIZE": "two"}, ["WORLD_SIZE: found 'two'"]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["OMPI_COMM_WORLD_SIZE: found 2 processes"]),
    ],
)
def test_half_a_launch_is_refused(environment, told, words):
    environment(**told)
    with pytest.raises(InputError) as error:
        launch()
    assert all(word in str(error.value) for word in words) and "torchrun" in str(error.value)


def test_each_process_has_a_gpu_of_its_own(environment, monkeypatch):
    environment(**TORCHRUNS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert best_device() == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes for 1 GPUs; start at most 1"):
        best_device()


def test_processes_that_accelerate_does_not_join_are_refused(environment, monkeypatch):
    """On a machine without GPUs it is told to be on the CPU; whatever else keeps it apart is found by its count."""
    asked = []
    monkeypatch.setattr("accelerate.Accelerator", lambda cpu, mixed_precision: asked.append(cpu) or SimpleNamespace(num_processes=1))
    accelerator_for(load_recipe("shapes"))
    environment(**TORCHRUNS)
    with pytest.raises(InputError, match="WORLD_SIZE: found 4 for 1 joined"):
        accelerator_for(load_recipe("shapes"))
    assert asked == [False, True]


@pytest.mark.parametrize("command", ["evaluate", "sample", "lab", "cache", "export"])
def test_commands_of_one_process_are_refused_under_torchrun(environment, command):
    environment(**TORCHRUNS)
    with pytest.raises(InputError, match=f"ddmd {command}: found 4 processes"):
        cli.app([command], standalone_mode=False)
