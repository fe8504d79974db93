"""Which noise a scheduler says that its model was trained in."""

from __future__ import annotations

from typing import Any, Literal

from ...errors import InputError

Noise = Literal["flow", "vp"]
WORDS: dict[str, str] = {"flow": "flow matching", "vp": "a table of variance-preserving noise levels"}
MENDS: dict[str, str] = {
    "flow": "put back the scheduler that it was published with, such as FlowMatchEulerDiscreteScheduler",
    "vp": "put back the scheduler that it was published with, such as DDIMScheduler",
}


def noise_of(scheduler: Any) -> Noise | None:
    """By its configuration, then its class; None for any other kind, such as the EDM ones."""
    config, name = scheduler.config, type(scheduler).__name__
    prediction = config.get("prediction_type")
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or prediction == "flow_prediction":
        return "flow"
    if name.startswith("EDM") or config.get("timestep_type", "discrete") != "discrete":
        return None  # continuous levels, in a preconditioning of their own
    return "vp" if getattr(scheduler, "alphas_cumprod", None) is not None else None


def check_scheduler(scheduler: Any, wanted: Noise, family: str) -> None:
    """Raise InputError where a pipeline's scheduler is not of its family's kind of noise."""
    if scheduler is None:
        raise InputError("scheduler", "none in the pipeline", MENDS[wanted])
    if noise_of(scheduler) != wanted:
        raise InputError("scheduler", type(scheduler).__name__, f"a {family} teacher needs one of {WORDS[wanted]}: {MENDS[wanted]}")
