"""The end of a run: the student exported, scored beside its teacher on prompts that nothing was chosen by, and reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import read_object, write_json
from ..method.student import uniform_grid
from ..teachers.builtin import BUILTIN, WEIGHTS, model_folder
from ..teachers.roles import STUDENT_ONLY, LoraRoles, Roles
from ..teachers.sampling import bare
from . import checkpoint as ckpt
from .assembly import build_roles, open_denoiser
from .export import export_lora, export_student, student_network
from .report import write_report
from .results import Setting, Timed, add_seconds, results_object, score_row, teacher_settings, weights_hash
from .train import Training

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""


def finish(training: Training, progress: Progress) -> dict[str, Any]:
    """Export student/, write results.json and report.html; returns the results."""
    recipe, parts, folder = training.recipe, training.parts, training.folder
    weights, chosen = ckpt.stored_weights(folder / "checkpoints", recipe.train.export, training.observer.say)
    roles = whole_roles(training) if recipe.optim.sharded else parts.roles
    roles.load_state_dict("student", weights)
    network = student_network(roles, parts.denoiser)
    export_student(folder / "student", recipe, parts.denoiser, network, parts.sampler, chosen)
    if isinstance(roles, LoraRoles):
        export_lora(folder / "student-lora", recipe, parts.denoiser, roles, parts.sampler, chosen)

    scores: dict[str, Any] = {}
    note = f"The exported student is the average at cycle {chosen} of {training.cycle}."
    if parts.suite is not None:
        prompts = parts.suite.prompts("report", recipe.report.prompts)
        cond = parts.encode(prompts)
        student = bare(parts.denoiser, network)
        timed: dict[str, Timed] = {}

        def row(name: str, setting: Setting, who: Any) -> dict[str, Any]:
            assert parts.suite is not None
            timed[name] = Timed(parts.denoiser, who, setting, cond)
            _, found = score_row(
                parts.denoiser, who, setting, parts.suite, prompts, cond, recipe.seed, lambda done: progress(name, done, len(prompts))
            )
            return found

        shipped = shipped_scores(recipe.model, recipe.report.prompts)
        for name, setting in teacher_settings(
            parts.denoiser, recipe.report.teacher_steps, len(recipe.grid), recipe.teacher_guidance
        ).items():
            known = shipped.get(name, {})
            if known.get("steps") == setting.steps and known.get("guidance") == setting.guidance:
                scores[name] = {**known, "source": "shipped with the teacher; `ddmd evaluate` measures it again"}
                timed[name] = Timed(parts.denoiser, roles.teacher, setting, cond)  # speed compares on one machine only
            else:
                scores[name] = row(name, setting, roles.teacher)
        scores["student"] = row("student", training.student_setting, student)
        for steps in recipe.report.student_steps:
            other = Setting(uniform_grid(steps), parts.sampler, 1.0)
            scores[f"student-{steps}"] = row(f"student-{steps}", other, student)
        add_seconds(scores, timed)
        note += " Teacher scores were measured when its weights were made, on the same prompts." if shipped else ""
    results = results_object(
        recipe.suite or "none",
        recipe.seed,
        scores,
        recipe=recipe.name,
        alarms=training.alarms,
        train_seconds=round(training.seconds, 1),
        note=note,
        about=parts.suite.about if parts.suite else "",
        pixels=parts.denoiser.resolution,
    )
    write_json(folder / "results.json", results)
    write_report(folder, f"{recipe.name}: {recipe.about}", recipe.to_yaml(), results, training.alarms, training.seconds)
    return results


def whole_roles(training: Training) -> Roles:
    """Teacher and student of a sharded run on this process alone, opened again: its own networks answer only all together."""
    recipe = training.recipe
    roles = build_roles(recipe, open_denoiser(recipe), STUDENT_ONLY)
    roles.to(training.accelerator.device)
    return roles


def shipped_scores(model: str, prompts: int) -> dict[str, dict[str, Any]]:
    """The embedded teacher's own rows on the report prompts, if they belong to the weights in place."""
    path = WEIGHTS / model / "results.json"
    if model not in BUILTIN or Path(model).exists() or not path.is_file():
        return {}
    results = read_object(path)
    if results.get("weights") != weights_hash(model_folder(model)):
        return {}
    return {name: row for name, row in results["scores"].items() if row["images"] == prompts}
