"""One YAML file is one run: strict models of everything that can be set, presets, and key=value overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from ..method.guidance import GuidanceScale
from ..method.renoise import RenoiseSchedule
from ..method.student import check_grid, uniform_grid

SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
Window = Annotated[list[float], Field(min_length=2, max_length=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MeanVarianceSection(Section):
    """Eq. 7. `targets` are [mean, variance], or where to measure them: the teacher's samples or the data."""

    weight: Positive = 1.0
    targets: Window | Literal["teacher", "data"] = "teacher"


class GanSection(Section):
    """A GAN term: `fake` judges by the fake model's features (DMD2), `teacher_init` by a copy of the teacher (section 3.2)."""

    where: Literal["fake", "teacher_init"] = "fake"
    reals: Literal["data", "teacher"] = "data"
    generator_weight: Positive = 0.005
    critic_weight: Positive = 0.01
    levels: Window = [0.02, 0.98]


class ObjectiveSection(Section):
    """Eq. 8 and what the paper leaves open about it."""

    alpha: Annotated[float, Field(ge=1)]
    alpha_warmup: Annotated[int, Field(ge=0)] = 0
    alpha_spread: Window | None = None
    ca_weight: Annotated[float, Field(ge=0)] = 1.0
    dm_weight: Annotated[float, Field(ge=0)] = 1.0
    normalizer: Literal["per_branch", "none", "dmd2", "shared"] = "per_branch"
    floor: Positive = 0.02
    proxy_scale: Positive = 0.5
    noise: Literal["independent", "shared"] = "independent"
    mean_variance: MeanVarianceSection | None = None
    gan: GanSection | None = None
    split_teacher: bool = False


class RenoiseSection(Section):
    """Section 4.3 of the paper, in levels (1 noise, 0 clean)."""

    schedule: Literal["coupled", "full", "constrained", "hybrid", "coupled_constrained"] = "hybrid"
    clamp: Window = [0.02, 0.98]
    ca_window: Window | None = None
    dm_window: Window | None = None


class StudentSection(Section):
    """The few-step student. `sampler` null is the model family's own."""

    steps: Count = 4
    grid: list[float] | None = None
    shift: Positive | None = None  # time shift of its levels, in training and drawing (flow models); null is the teacher's own
    sampler: Literal["sde", "ode"] | None = None
    source: Literal["simulate", "data"] = "simulate"


class FakeSection(Section):
    """The fake model: `updates` a cycle.

    In Algorithm 1 they follow the generator update: `joint` learns its very sample first, `alternate` always fresh ones. `ahead`
    turns the cycle round: the exit step is drawn first, the fake learns what the student makes there, and then judges it there.
    """

    updates: Count = 1
    turn: Literal["joint", "alternate", "ahead"] = "joint"
    reuse_rollout: bool = False
    space: Literal["native", "x0"] = "native"
    range: Window = [0.0, 1.0]
    follow: Share = 0.0
    observe: bool = False  # learn although nothing uses it: shows what Distribution Matching would have removed


class AdaptersSection(Section):
    """LoRA student and fake on one base; null means full copies."""

    rank: Count = 16
    fake_rank: Count | None = None
    base: Literal["own", "int8"] = "own"  # int8: the frozen base's linear weights in eight bits (torchao)

    def rank_of(self, role: str) -> int:
        """The rank of a trained role's adapter."""
        return self.rank if role == "student" else self.fake_rank or self.rank


class OptimSection(Section):
    """AdamW for both; `ema` averages the student that is evaluated and exported, from the teacher's weights on."""

    student_lr: Positive
    fake_lr: Positive
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: Share = 0.0
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"  # adamw8bit: moments in eight bits (torchao)
    betas: Window = [0.0, 0.99]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.95
    ema_warmup: bool = True  # a short average at first; false keeps the teacher's share in it, ema ** cycles
    gradient_checkpointing: bool = False
    gradient_accumulation: Count = 1  # parts of a batch, one after another, for one optimiser step
    sharded: bool = False  # FSDP2: weights, gradients and moments divided among torchrun's processes; else whole in each
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: frozen weights in it, trained ones in float32 and computed in it
    cudnn_attention: bool = False  # on a GPU: attention by cuDNN too, whose gradients can be NaN (devices.choose_attention)


class TrainSection(Section):
    """Length, data and housekeeping, all counted in cycles (one generator update and its fake updates)."""

    cycles: Count
    batch: Count = 32
    prompts: str | None = None
    cache: str | None = None  # a folder for encoded prompts; null keeps them, and the text encoders, in memory
    prompt_count: Count = 4000
    reals: str | None = None  # a folder made by `ddmd cache`: the "data" of a GAN term or of source=data; null is the suite's
    reals_count: Count = 512
    log_every: Count = 5
    evaluate_every: Count = 50
    evaluate_prompts: Count = 200
    checkpoint_every: Count = 50
    keep_checkpoints: Count = 2
    export: Literal["best", "last"] = "best"
    stop_on_alarm: bool = False


class ReportSection(Section):
    """What the closing evaluation measures; `teacher_guidance` null is the objective's alpha."""

    prompts: Count = 1000
    teacher_steps: Count = 50
    teacher_guidance: Annotated[float, Field(ge=1)] | None = None
    student_steps: list[Count] = []


class Recipe(Section):
    """A whole run."""

    name: str
    about: str = ""
    model: str
    resolution: Count | None = None  # pixels; the model's own when left out
    allow_distilled_teacher: bool = False  # train although the teacher's guidance seems to mean nothing
    suite: Literal["shapes", "pairs", "emoji"] | None = None
    seed: int = 0
    objective: ObjectiveSection
    renoise: RenoiseSection = RenoiseSection()
    student: StudentSection = StudentSection()
    fake: FakeSection = FakeSection()
    adapters: AdaptersSection | None = None
    optim: OptimSection
    train: TrainSection
    report: ReportSection = ReportSection()

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        """Build the method's own objects once, so that they refuse what cannot be."""
        _ = self.guidance, self.schedule, self.grid
        windows = {"fake.range": self.fake.range} | ({"objective.gan.levels": self.objective.gan.levels} if self.objective.gan else {})
        for key, window in windows.items():
            if not (0 <= window[0] < window[1] <= 1):
                raise ValueError(f"{key}: found {window}; two increasing levels inside [0, 1] are needed")
        o = self.objective
        if not (o.dm_weight or o.ca_weight or o.mean_variance or o.gan):
            raise ValueError("objective: found ca_weight, dm_weight, mean_variance and gan all off; nothing would train the student")
        if self.train.batch % self.optim.gradient_accumulation:
            raise ValueError(
                f"optim.gradient_accumulation: found {self.optim.gradient_accumulation}; it must divide train.batch, {self.train.batch}"
            )
        if self.optim.sharded and (self.optim.optimizer != "adamw" or (self.adapters and self.adapters.base != "own")):
            raise ValueError("optim.sharded: found eight-bit weights or moments, which are not divided; leave one of them out")
        if self.suite is None and self.train.prompts is None:
            raise ValueError("train.prompts: found none and no suite to draw them from; give a text file, one prompt a line")
        if self.fake.follow and self.adapters and self.adapters.fake_rank not in (None, self.adapters.rank):
            raise ValueError("fake.follow: found adapters of unequal rank; the fake can follow only a student of its own shape")
        return self

    @property
    def trained_roles(self) -> tuple[str, ...]:
        """The networks that the recipe trains."""
        o = self.objective
        fake = o.dm_weight > 0 or (o.gan is not None and o.gan.where == "fake") or self.fake.observe
        judge = o.gan is not None and o.gan.where == "teacher_init"
        return ("student", *(["fake"] if fake else []), *(["discriminator"] if judge else []))

    @property
    def guidance(self) -> GuidanceScale:
        """The guidance scale over training."""
        o = self.objective
        return GuidanceScale(o.alpha, o.alpha_warmup, _pair(o.alpha_spread))

    @property
    def schedule(self) -> RenoiseSchedule:
        """The re-noise schedule."""
        r = self.renoise
        return RenoiseSchedule(r.schedule, _pair(r.clamp) or (0.0, 1.0), _pair(r.ca_window), _pair(r.dm_window))

    @property
    def grid(self) -> tuple[float, ...]:
        """The student's levels."""
        return check_grid(self.student.grid) if self.student.grid is not None else uniform_grid(self.student.steps)

    @property
    def teacher_guidance(self) -> float:
        """The guidance scale of the teacher that the student is measured against."""
        return self.report.teacher_guidance or self.objective.alpha

    @property
    def teacher_reals(self) -> bool:
        """Whether the GAN term's real images are the teacher's own samples."""
        gan = self.objective.gan
        return gan is not None and gan.reals == "teacher" and self.student.source != "data"

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _pair(window: Sequence[float] | None) -> tuple[float, float] | None:
    return (window[0], window[1]) if window else None


def preset_names() -> list[str]:
    """The recipes that ship with ddmd."""
    folder = resources.files("ddmd") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A preset by name or a YAML file, with `a.b=value` overrides applied; values are read as YAML.

    A preset may name another under `base` and give only what differs. Raises InputError naming the key, what was found and the mend.
    """
    values = _read(name)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise InputError(override, "no key=value", "write overrides like objective.alpha=3")
        try:
            _assign(values, key.split("."), _value(text), override)
        except yaml.YAMLError as error:
            raise InputError(key, f"{text!r}, which is not YAML", "quote the value") from error
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _as_input_error(error, values) from error


def _value(text: str) -> Any:
    """An override's value: YAML, and numbers such as 5e-5, which YAML 1.1 takes for words."""
    return float(text) if SCIENTIFIC.fullmatch(text) else yaml.safe_load(text)


def _read(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(name, "no such file", "give a recipe's YAML file or one of " + ", ".join(preset_names()))
        text = path.read_text(encoding="utf-8", errors="replace")
    elif name in preset_names():
        text = (resources.files("ddmd") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise InputError("recipe", repr(name), "use a YAML file or one of " + ", ".join(preset_names()))
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(name, "a file that is not YAML", " ".join(str(error).split())[:120]) from error
    if not isinstance(values, dict):
        raise InputError(name, "no keys", "a recipe is a YAML mapping; copy one from `ddmd recipes NAME`")
    base = values.pop("base", None)
    if base is None:
        return values
    if base in seen:
        raise InputError("base", f"{base!r} naming itself", "a recipe's bases must end")
    return _merged(_read(str(base), (*seen, name)), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def _assign(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise InputError(override, f"{key} is not a section", "see `ddmd recipes NAME` for the keys")
    values[keys[-1]] = value


def _as_input_error(error: ValidationError, values: dict[str, Any]) -> InputError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "list[", "literal["))) or "recipe"
    if first["type"] == "value_error":
        reason = str(first["ctx"]["error"])
        name, _, rest = reason.partition(": found ")
        found, _, mend = rest.partition("; ")
        return InputError(name, found, mend) if mend else InputError(key, reason, "see `ddmd recipes NAME`")
    if first["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(first["loc"][:-1]))
        return InputError(key, "an unknown key", f"known here: {known}")
    if first["type"] == "missing":
        return InputError(key, "nothing", "this key is required")
    return InputError(key, repr(first["input"])[:80], first["msg"][0].lower() + first["msg"][1:])


def _known_keys(loc: Sequence[int | str]) -> list[str]:
    model: Any = Recipe
    for part in loc:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
