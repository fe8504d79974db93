"""`ddmd evaluate`: models against a suite, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...devices import best_device
from ...errors import InputError
from ...files import claim, read_object, write_atomic, write_json
from ...pages import markdown_table, markdown_text
from ...run.export import SETTINGS
from ...run.results import Setting, Timed, add_seconds, remarks, results_object, score_row, table, teacher_settings, weights_hash
from ...teachers.builtin import load_suite, model_folder
from ...teachers.denoisers import Denoiser, load_denoiser
from ...teachers.prompts import encode_all
from ...teachers.sampling import bare
from .world_page import write_world_page


def resolve(model: str) -> Path:
    """The pipeline folder behind a name: an embedded teacher, a run's folder, or a pipeline's."""
    folder = model_folder(model)
    return folder / "student" if (folder / "student" / "model_index.json").is_file() else folder


def open_model(folder: Path) -> Denoiser:
    """The denoiser of a pipeline's folder, on the best device, at the size that a student was trained at."""
    own = student_setting(folder)
    denoiser = load_denoiser(folder, own.resolution if own else None)
    device = best_device()
    denoiser.move(device)
    denoiser.network.to(device)
    return denoiser


def student_setting(folder: Path) -> Setting | None:
    """How a student that ddmd exported is sampled; None for any other pipeline."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    saved = read_object(path)
    try:
        return Setting(tuple(saved["grid"]), saved["sampler"], saved["guidance"], saved.get("resolution"))
    except (TypeError, KeyError) as error:
        raise InputError(str(path), f"settings that cannot be read ({error})", "export the student again") from error


def evaluate(
    models: Sequence[str],
    suite_name: str,
    out: Path,
    n: int,
    teacher_steps: int,
    few: int,
    guidance: float,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Score models on the first n of a suite's report prompts; writes results.json, table.md and index.html into `out` and returns
    the results.

    A student is sampled with its own settings. Anything else is a teacher: many steps with and without guidance, and few. All models
    stay open until the end, so that their speeds are measured in turn.
    """
    claim(out, ("results.json", "table.md", "index.html"))
    suite = load_suite(suite_name)
    prompts = suite.prompts("report", n)
    scores: dict[str, Any] = {}
    shown: dict[str, Tensor] = {}
    timed: dict[str, Timed] = {}
    hashes = {}
    for model in models:
        folder = resolve(model)
        denoiser = open_model(folder)
        hashes[model] = weights_hash(folder)
        cond = encode_all(denoiser, prompts)
        own = student_setting(folder)
        rows = {"student": own} if own else teacher_settings(denoiser, teacher_steps, few, guidance)
        for name, setting in rows.items():
            label = name if name not in scores else f"{name} ({Path(model).name})"

            def report(done: int, label: str = label) -> None:
                progress(label, done, len(prompts))

            timed[label] = Timed(denoiser, bare(denoiser), setting, cond)
            shown[label], scores[label] = score_row(denoiser, timed[label].network, setting, suite, prompts, cond, seed, report)
    progress("timing", 0, 1)
    add_seconds(scores, timed)
    results = results_object(suite_name, seed, scores, models=list(models), weights=hashes[models[0]] if len(models) == 1 else hashes)
    write_json(out / "results.json", results)
    said = "".join(f"\n{markdown_text(remark)}\n" for remark in remarks(scores))
    write_atomic(out / "table.md", markdown_table(table(scores)) + "\n" + said)
    write_world_page(out, results, suite.about, shown, prompts)
    return results


__all__ = ["evaluate", "open_model", "resolve", "student_setting"]
