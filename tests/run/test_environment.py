import os

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from ddmd.run.environment import foreign_settings, without_foreign_settings
from ddmd.run.recipe import load_recipe
from ddmd.run.setup import accelerator_for

ASKED = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "1",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_USE_CPU": "1",
    "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
}


@pytest.fixture
def asked(monkeypatch):
    for key in list(os.environ):
        if key.startswith(("ACCELERATE_", "PARALLELISM_CONFIG_")):
            monkeypatch.delenv(key)
    for key, value in ASKED.items():
        monkeypatch.setenv(key, value)
    for state in (PartialState, AcceleratorState, GradientState):  # one for all of a process: here another
        monkeypatch.setattr(state, "_shared_state", {})


def test_the_recipe_decides_not_the_environment(asked):
    accelerator = accelerator_for(load_recipe("shapes"))
    assert accelerator.mixed_precision == "no" and accelerator.gradient_accumulation_steps == 1
    assert accelerator.state.dynamo_plugin.backend.value == "NO"
    assert accelerator.distributed_type.value == "NO"
    assert {key: os.environ[key] for key in ASKED} == ASKED


def test_what_is_left_out_is_named_and_what_asks_for_nothing_is_not(asked, monkeypatch):
    assert foreign_settings() == sorted(f"{key}={value}" for key, value in ASKED.items())
    for key in ASKED:
        monkeypatch.delenv(key)
    for key, value in {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    }.items():
        monkeypatch.setenv(key, value)
    assert foreign_settings() == []


def test_variables_come_back_and_new_ones_stay(asked, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    with without_foreign_settings():
        assert not any(key in os.environ for key in ASKED)
        os.environ["MASTER_PORT"] = "2"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16" and os.environ["MASTER_PORT"] == "2"
