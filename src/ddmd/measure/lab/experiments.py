"""The experiments: what each compares, as overrides of one recipe. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import InputError

Overrides = tuple[str, ...]

NO_DM = ("objective.dm_weight=0",)
NO_CA = ("objective.ca_weight=0",)
DMD2 = ("objective.normalizer=dmd2", "objective.gan={where: fake, reals: teacher}")
KEEP_ALL = "train.keep_checkpoints=1000"  # a probe looks at every one


@dataclass(frozen=True)
class Experiment:
    """One of the paper's figures or tables.

    `cases` are overrides by label; `reference` is the case that differences are taken against; `probes` are measured besides
    the scores; `checkpoints` says how many looks a probe over training needs; `likeness` compares the cases' pictures pairwise.
    """

    about: str
    cases: dict[str, Overrides]
    reference: str | None = None
    probes: tuple[str, ...] = ()
    checkpoints: int = 0
    likeness: bool = False
    shared: Overrides = field(default=())


def _window(low: float, high: float) -> str:
    """A window in the paper's time, as levels (level = 1 - tau)."""
    return f"renoise.ca_window=[{round(1 - high, 6)}, {round(1 - low, 6)}]"


# The paper gives no weights for its two other regularisers, so each runs with two.
def _mean_variance(weight: float) -> str:
    return f"objective.mean_variance={{weight: {weight}, targets: teacher}}"


def _gan(weight: float) -> str:
    return f"objective.gan={{where: teacher_init, reals: teacher, generator_weight: {weight}}}"


EXPERIMENTS: dict[str, Experiment] = {
    "fig2": Experiment(
        "CFG Augmentation alone, Distribution Matching alone and both, with one step and with four",
        {
            f"{name}, {steps} step{'s' * (steps > 1)}": (*keys, f"student.steps={steps}")
            for steps in (1, 4)
            for name, keys in (("CA + DM", ()), ("CA only", NO_DM), ("DM only", NO_CA))
        },
        "CA + DM, 4 steps",
        ("matched",),
        likeness=True,
    ),
    "fig3": Experiment(
        "CFG Augmentation held by nothing, by Distribution Matching, by the mean-variance term (Eq. 7) and by a GAN (section 3.2)",
        {
            "CA only": NO_DM,
            "CA + DM": (),
            **{f"CA + mean-variance, weight {w:g}": (*NO_DM, _mean_variance(w)) for w in (0.1, 1)},
            **{f"CA + GAN, weight {w:g}": (*NO_DM, _gan(w)) for w in (0.005, 0.1)},
        },
        "CA + DM",
        ("matched",),
    ),
    "fig4a": Experiment(
        "A one-step student by CFG Augmentation alone, re-noised within windows of the paper's time (0 noise, 1 clean)",
        {f"tau in [{low:g}, {high:g}]": (_window(low, high),) for low, high in ((0, 0.05), (0, 0.1), (0, 0.3), (0, 1), (0.7, 1))},
        "tau in [0, 1]",
        ("spectrum",),
        shared=(*NO_DM, "student.steps=1", "renoise.schedule=full"),
    ),
    "fig4b": Experiment(
        "CFG Augmentation alone, watched by a fake model that never touches it",
        {"CA only, observed": (*NO_DM, "fake.observe=true", KEEP_ALL)},
        probes=("observer",),
        checkpoints=4,
    ),
    "table1": Experiment(
        "The re-noise schedules 1 to 4, and coupled-constrained",
        {
            "1 coupled": ("renoise.schedule=coupled",),
            "2 full": ("renoise.schedule=full",),
            "3 constrained": ("renoise.schedule=constrained",),
            "4 hybrid": ("renoise.schedule=hybrid",),
            "coupled-constrained": ("renoise.schedule=coupled_constrained",),
        },
        "4 hybrid",
    ),
    "table2": Experiment(
        "DMD2, the same with only its schedule replaced by the hybrid one, and Decoupled DMD",
        {
            "DMD2": (*DMD2, "renoise.schedule=coupled"),
            "DMD2, hybrid schedule": (*DMD2, "renoise.schedule=hybrid"),
            "Decoupled DMD": (),
            "DMD (coupled, no GAN)": ("objective.normalizer=dmd2", "renoise.schedule=coupled"),
            "Diff-Instruct, 1 step": ("objective.alpha=1", "objective.normalizer=none", "renoise.schedule=full", "student.steps=1"),
        },
        "DMD2",
        ("memory",),
    ),
    "baking": Experiment(
        "Appendix A, measured: how much of the teacher's guidance direction the student has taken in, by level, over training",
        {"CA + DM": (KEEP_ALL,), "CA only": (*NO_DM, KEEP_ALL)},
        "CA + DM",
        ("baking",),
        checkpoints=5,
    ),
    "sensitivity": Experiment(
        "One knob at a time",
        {
            "recipe": (),
            "alpha x 0.5": ("objective.alpha*=0.5",),
            "alpha x 0.75": ("objective.alpha*=0.75",),
            "alpha x 2": ("objective.alpha*=2",),
            "fake lr x 0.3": ("optim.fake_lr*=0.3",),
            "fake lr x 3": ("optim.fake_lr*=3",),
            "1 fake update": ("fake.updates=1",),
            "10 fake updates": ("fake.updates=10",),
            "normaliser none": ("objective.normalizer=none",),
            "normaliser dmd2": ("objective.normalizer=dmd2",),
            "normaliser shared": ("objective.normalizer=shared",),
            "shared noise": ("objective.noise=shared",),
            "ode sampler": ("student.sampler=ode",),
        },
        "recipe",
    ),
}


def experiment(name: str) -> Experiment:
    """An experiment by name. Raises InputError for an unknown one."""
    if name not in EXPERIMENTS:
        raise InputError("lab", repr(name), f"use one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
