"""A scheduler of another kind than the family's noise is one line that names it."""

import json
import shutil

import diffusers
import pytest

from ddmd.errors import InputError
from ddmd.teachers.denoisers import load_denoiser
from ddmd.teachers.denoisers.schedulers import check_scheduler, noise_of
from tiny import save_twin

KINDS = {
    "vp": [
        "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler",
        "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "DEISMultistepScheduler",
    ],
    "flow": ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"],
    None: ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"],
}  # fmt: skip
EVERY = [(noise, name) for noise, names in KINDS.items() for name in names]


@pytest.mark.parametrize(("noise", "name"), EVERY)
def test_the_kind_of_noise_of_stock_schedulers(noise, name):
    scheduler = getattr(diffusers, name)()
    assert noise_of(scheduler) == noise
    for wanted in ("vp", "flow"):
        if wanted == noise:
            check_scheduler(scheduler, wanted, "sdxl")
        else:
            with pytest.raises(InputError, match=f"scheduler: found {name}; "):
                check_scheduler(scheduler, wanted, "sdxl")


def test_the_configuration_decides_before_the_class():
    solver = diffusers.DPMSolverMultistepScheduler
    assert noise_of(solver(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)) == "flow"
    continuous = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=80.0
    )
    assert noise_of(continuous) is None
    with pytest.raises(InputError, match="scheduler: found none"):
        check_scheduler(None, "vp", "sdxl")


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    root = tmp_path_factory.mktemp("twins")
    return {name: save_twin(name, root / name) for name in ("sdxl-eps", "lumina2")}


@pytest.mark.parametrize(
    ("twin", "name"),
    [("sdxl-eps", "EDMDPMSolverMultistepScheduler"), ("sdxl-eps", "FlowMatchEulerDiscreteScheduler"), ("lumina2", "DDIMScheduler")],
)
def test_a_pipeline_with_another_kind_does_not_open(twin, name, twins, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(twins[twin], folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", name]}))
    getattr(diffusers, name)().save_pretrained(folder / "scheduler")
    with pytest.raises(InputError, match=f"scheduler: found {name}; a (sdxl|lumina2) teacher needs one of"):
        load_denoiser(folder)
