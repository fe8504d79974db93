"""One YAML file is one run: strict models of everything that can be set, presets, and key=value overrides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from ..files import read_text
from ..method.guidance import GuidanceScale
from ..method.renoise import RenoiseSchedule
from ..method.student import check_grid, uniform_grid
from .overrides import SHOWN, read_value, section_of
from .plain_yaml import parse_yaml, write_yaml

MOST_STEPS = 1000  # of a sampler: published teachers are trained on so many levels
DEEPEST_KEY = 8  # parts of a key; a recipe's own have 3
MENDS = {  # pydantic's kinds of errors whose own words do not tell the mend
    "bool_type": "write true or false",
    "string_type": "give text; quote what YAML would take for something else",
    "string_pattern_mismatch": "use letters, digits, spaces and . _ + -, at most 100, a letter or digit first",
    "finite_number": "a finite number is needed",
}


def _as_text(text: str) -> str:
    """A string that can be written to a file, and name one."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("give text in UTF-8, without NUL")
    return text


Text = Annotated[str, AfterValidator(_as_text)]
Place = Annotated[Text, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^\w[\w.+ -]{0,99}$")]  # of a run: it names folders and files
Share = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(gt=0, le=1)]  # AdamW moves each weight by about so much a step
Guidance = Annotated[float, Field(ge=1, le=1000)]
Window = Annotated[list[Share], Field(min_length=2, max_length=2)]
Moments = Annotated[list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=2, max_length=2)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Warmup = Annotated[int, Field(ge=0, le=10**9)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Rank = Annotated[int, Field(ge=1, le=8192)]
Pixels = Annotated[int, Field(ge=8, le=16384)]


Family = Literal["chroma", "flux", "lumina2", "pixart_sigma", "qwen_image", "sana", "sd15", "sd3", "sdxl", "z_image"]


class Section(BaseModel):
    """A part of a recipe: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class MeanVarianceSection(Section):
    """Eq. 7. `targets` are [mean, variance], or where to measure them: the teacher's samples or the data."""

    weight: Positive = 1.0
    targets: Moments | Literal["teacher", "data"] = "teacher"


class GanSection(Section):
    """A GAN term: `fake` judges by the fake model's features (DMD2), `teacher_init` by a copy of the teacher (section 3.2)."""

    where: Literal["fake", "teacher_init"] = "fake"
    reals: Literal["data", "teacher"] = "data"
    generator_weight: Positive = 0.005
    critic_weight: Positive = 0.01
    levels: Window = [0.02, 0.98]


class ObjectiveSection(Section):
    """Eq. 8 and what the paper leaves open about it."""

    alpha: Guidance
    alpha_warmup: Warmup = 0
    alpha_spread: Annotated[list[Guidance], Field(min_length=2, max_length=2)] | None = None
    ca_weight: Weight = 1.0
    dm_weight: Weight = 1.0
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

    steps: Steps = 4
    grid: Annotated[list[Share], Field(max_length=MOST_STEPS)] | None = None
    shift: Positive | None = None  # time shift of its levels, in training and drawing (flow models); null is the teacher's own
    sampler: Literal["sde", "ode"] | None = None
    source: Literal["simulate", "data"] = "simulate"


class FakeSection(Section):
    """The fake model: `updates` a cycle.

    In Algorithm 1 they follow the generator update: `joint` learns its very sample first, `alternate` always fresh ones. `ahead`
    turns the cycle round: the exit step is drawn first, the fake learns what the student makes there, and then judges it there.
    """

    updates: Steps = 1
    turn: Literal["joint", "alternate", "ahead"] = "joint"
    reuse_rollout: bool = False
    space: Literal["native", "x0"] = "native"
    range: Window = [0.0, 1.0]
    follow: Share = 0.0
    observe: bool = False  # learn although nothing uses it: shows what Distribution Matching would have removed


class AdaptersSection(Section):
    """LoRA student and fake on one base; null means full copies."""

    rank: Rank = 16
    fake_rank: Rank | None = None
    base: Literal["own", "int8"] = "own"  # int8: the frozen base's linear weights in eight bits (torchao)

    def rank_of(self, role: str) -> int:
        """The rank of a trained role's adapter."""
        return self.rank if role == "student" else self.fake_rank or self.rank


class OptimSection(Section):
    """AdamW for both; `ema` averages the student that is evaluated and exported, from the teacher's weights on."""

    student_lr: Rate
    fake_lr: Rate
    warmup: Warmup = 0
    decay: Share = 0.0
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"  # adamw8bit: moments in eight bits (torchao)
    betas: Annotated[list[Below1], Field(min_length=2, max_length=2)] = [0.0, 0.99]
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    clip: Positive = 1.0
    ema: Below1 = 0.95
    ema_warmup: bool = True  # a short average at first; false keeps the teacher's share in it, ema ** cycles
    gradient_checkpointing: bool = False
    gradient_accumulation: Count = 1  # parts of a batch, one after another, for one optimiser step
    sharded: bool = False  # FSDP2: weights, gradients and moments divided among torchrun's processes; else whole in each
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: frozen weights in it, trained ones in float32 and computed in it
    cudnn_attention: bool = False  # on a GPU: attention by cuDNN too, whose gradients can be NaN (devices.choose_attention)


class TrainSection(Section):
    """Length, data and housekeeping, all counted in cycles (one generator update and its fake updates)."""

    cycles: Count
    batch: Annotated[int, Field(ge=1, le=65536)] = 32
    prompts: Place | None = None
    cache: Place | None = None  # a folder for encoded prompts; null keeps them, and the text encoders, in memory
    prompt_count: Count = 4000
    reals: Place | None = None  # a folder made by `ddmd cache`: the "data" of a GAN term or of source=data; null is the suite's
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
    teacher_steps: Steps = 50
    teacher_guidance: Guidance | None = None
    student_steps: Annotated[list[Steps], Field(max_length=100)] = []


class Recipe(Section):
    """A whole run."""

    name: Name
    about: Text = ""
    model: Place
    family: Family | None = None  # the model's, for which the recipe was made; null is any
    resolution: Pixels | None = None  # pixels; the model's own when left out
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
        if o.mean_variance and isinstance(o.mean_variance.targets, list) and o.mean_variance.targets[1] <= 0:
            raise ValueError(f"objective.mean_variance.targets: found {o.mean_variance.targets}; a variance is above 0")
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
        if self.fake.follow and self.adapters:
            raise ValueError(
                f"fake.follow: found {self.fake.follow} with adapters, whose mean is no adapter of that rank; "
                "train full copies (adapters=null), or set fake.follow=0"
            )
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
        return write_yaml(self.model_dump(mode="json"))


def _pair(window: Sequence[float] | None) -> tuple[float, float] | None:
    return (window[0], window[1]) if window else None


def preset_names() -> list[str]:
    """The recipes that ship with ddmd."""
    folder = resources.files("ddmd") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A preset by name or a YAML file, with `a.b=value` overrides applied.

    The value of a key that holds text is that text as it stands (`null`, or nothing, is none where a key may have none);
    other values are read as YAML.

    A preset may name another under `base` and give only what differs. Raises InputError naming the key, what was found and the mend.
    """
    values = _read(name)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise InputError(override, "no key=value", "write overrides like objective.alpha=3")
        keys = key.split(".")
        if len(keys) > DEEPEST_KEY:
            raise InputError(key[:80], "an unknown key", "see `ddmd recipes NAME` for the keys")
        _assign(values, keys, read_value(Recipe, keys, text), override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _as_input_error(error) from error


def _read(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        if not os.path.exists(path):
            raise InputError(name, "no such file", "give a recipe's YAML file or one of " + ", ".join(preset_names()))
        text = read_text(path)
    elif name in preset_names():
        text = (resources.files("ddmd") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise InputError("recipe", SHOWN.repr(name), "use a YAML file or one of " + ", ".join(preset_names()))
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise InputError(name, f"what is not YAML, or not a recipe's: {error}", "mend that line") from error
    if not isinstance(values, dict):
        raise InputError(name, "no keys", "a recipe is a YAML mapping; copy one from `ddmd recipes NAME`")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise InputError(f"{name}: base", SHOWN.repr(base), "name a preset or a YAML file")
    here = str(path.resolve()) if path.is_file() else name
    if here in seen:
        raise InputError("base", f"{base!r} naming itself", "a recipe's bases must end")
    return _merged(_read(base, (*seen, here)), values)


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


def _as_input_error(error: ValidationError) -> InputError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "list[", "literal["))) or "recipe"
    if first["type"] == "value_error":
        reason = str(first["ctx"]["error"])
        name, _, rest = reason.partition(": found ")
        found, _, mend = rest.partition("; ")
        return InputError(name, found, mend) if mend else InputError(key, SHOWN.repr(first["input"]), reason)
    if first["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(first["loc"][:-1]))
        return InputError(key, "an unknown key", f"known here: {known}")
    if first["type"] == "missing":
        return InputError(key, "nothing", "this key is required")
    mend = MENDS.get(first["type"]) or first["msg"][0].lower() + first["msg"][1:]
    return InputError(key, SHOWN.repr(first["input"]), mend)


def _known_keys(loc: Sequence[int | str]) -> list[str]:
    model: Any = Recipe
    for part in loc:
        model = section_of(model.model_fields[part].annotation)
    return list(model.model_fields)
