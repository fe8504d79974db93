"""Make the shipped parts of `emoji` again, from the fetched pictures: autoencoder, teacher, judge; and pack them for the package."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ....devices import best_device
from ....errors import InputError
from ....files import folder_atomic, read_object
from ....folders import check_replaceable
from ....quiet import quiet_libraries
from ...denoisers.parts import load_network
from ..training import Changes, Report, steps_and_seed
from .autoencoder import reconstruction_error, to_unit, train_autoencoder
from .build import build_autoencoder, build_pipeline
from .concepts import STYLES, UNSEEN_STYLES, captions
from .judge import picture_features, recall, save_judge, text_features, train_judge
from .pictures import Pictures, load_pictures
from .train import EmojiRecipe, train_teacher

AUTOENCODER_STEPS = 3000
JUDGE_STEPS = 3000
JUDGE_CAPTIONS = 4  # a picture; more are rarer words
REFERENCE = 1000  # real pictures behind the kernel distance
PACKED = ("unet", "vae")  # what the package holds of a pipeline; the text encoder comes from its own


def make_teacher(pictures: Path, folder: Path, changes: Changes, start: Path | None, report: Report) -> Path:
    """Train the autoencoder, then the teacher, into folder/pipeline, going on from what `folder` holds; on a GPU when there is one.

    With `start`, a pipeline, its denoiser is trained on and its latents are kept; a decoder unlike today's is trained anew for them.
    """
    found = load_pictures(pictures)
    recipe = replace(EmojiRecipe(), **changes)
    autoencoder = _autoencoder(found, folder / "autoencoder", recipe.seed, start, report)
    return train_teacher(
        folder, recipe, found, autoencoder, best_device(), lambda done, loss: report(done, recipe.steps, loss), start=start
    )


def _autoencoder(pictures: Pictures, folder: Path, seed: int, start: Path | None, report: Report) -> Any:
    if (folder / "config.json").is_file():
        return _open_autoencoder(folder)
    check_replaceable(folder)
    kept = _open_autoencoder(start / "vae") if start is not None else None
    if kept is not None and _decoder_shape(kept) == _decoder_shape(build_autoencoder()):
        with folder_atomic(folder) as temporary:  # so that the training goes on with it, named again or not
            kept.save_pretrained(temporary)
        return kept
    rows = pictures.rows(tuple(STYLES), held_out=False)
    trained: Any = train_autoencoder(
        pictures, rows, AUTOENCODER_STEPS, seed, lambda done, loss: report(done, AUTOENCODER_STEPS, loss), kept
    )
    facts = {
        name: reconstruction_error(trained, to_unit(pictures.images[pictures.rows(styles, held_out=True)]))
        for name, styles in (("held-out concepts", tuple(STYLES)), ("held-out styles", UNSEEN_STYLES))
    }
    with folder_atomic(folder) as temporary:
        trained.save_pretrained(temporary)
        (temporary / "autoencoder.json").write_text(
            json.dumps({"steps": AUTOENCODER_STEPS, "seed": seed, **facts}, indent=1) + "\n", encoding="utf-8"
        )
    return trained


def _open_autoencoder(folder: Path) -> Any:
    from diffusers import AutoencoderTiny

    return load_network(AutoencoderTiny, folder).eval().requires_grad_(False)


def _decoder_shape(autoencoder: Any) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in autoencoder.decoder.parameters()]


def make_judge(pictures: Path, folder: Path, changes: Changes, start: Path | None, report: Report) -> Path:
    """Train the judge and measure it on concepts and on styles that it never saw."""
    if start is not None:
        raise InputError("--start", str(start), "only a teacher can begin from trained weights")
    check_replaceable(folder)
    total, seed = steps_and_seed(changes, JUDGE_STEPS)
    found = load_pictures(pictures)
    rows = found.rows(tuple(STYLES), held_out=False)
    images = to_unit(found.images[rows])
    codes = sorted(found.concepts)
    concept = torch.tensor([codes.index(found.codes[row]) for row in rows])
    style = torch.tensor([list(STYLES).index(found.styles[row]) for row in rows])
    said = [captions(found.concepts[found.codes[row]], found.styles[row]) for row in rows]
    said = [(texts * JUDGE_CAPTIONS)[-JUDGE_CAPTIONS:] for texts in said]
    texts = text_features([text for four in said for text in four]).view(len(rows), JUDGE_CAPTIONS, -1)
    real = picture_features(images)
    judge = train_judge([real, *_views(images, seed)], texts, concept, style, total, seed, lambda done, loss: report(done, total, loss))

    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows), generator=generator)[:REFERENCE]
    facts = {"steps": total, "seed": seed, "checks": _checks(judge, found, codes)}
    save_judge(judge, real[chosen], folder, facts)
    return folder


def _views(images: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Features of the pictures a little moved, blurred and grainy: samples are never as clean as drawings."""
    generator = torch.Generator().manual_seed(seed)
    moved = images.roll((2, -3), dims=(2, 3))
    small = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="area")
    blurred = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    grainy = images + 0.15 * torch.randn(images.shape, generator=generator)
    return [picture_features(view) for view in (moved, blurred, grainy)]


def _checks(judge: Any, pictures: Pictures, codes: list[str]) -> dict[str, Any]:
    """Retrieval among all concepts' names of pictures that training saw, of held-out concepts, and of held-out styles."""
    names = judge.hear(text_features([f"an emoji of {pictures.concepts[code].name}" for code in codes]))
    found = {}
    for label, styles, held_out in (
        ("training pictures", tuple(STYLES), False),
        ("held-out concepts", tuple(STYLES), True),
        *((f"held-out style {style}", (style,), False) for style in UNSEEN_STYLES),
    ):
        rows = pictures.rows(styles, held_out)
        features = picture_features(to_unit(pictures.images[rows]))
        right = torch.tensor([codes.index(pictures.codes[row]) for row in rows])
        found[label] = {"n": len(rows), "among": len(codes), **recall(judge.see(features), names, right)}
        if styles == tuple(STYLES):
            wanted = torch.tensor([list(STYLES).index(pictures.styles[row]) for row in rows])
            found[label]["style"] = (judge.style(features).argmax(1) == wanted).float().mean().item()
    return found


def pack(pipeline: Path, folder: Path) -> Path:
    """Write the parts of a pipeline that the package ships, in halves."""
    quiet_libraries()
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    if not (pipeline / "model_index.json").is_file():
        raise InputError(str(pipeline), "no pipeline in it", "name the pipeline/ of a training or the student/ of a run")
    with folder_atomic(folder) as temporary:
        for name, kind in zip(PACKED, (UNet2DConditionModel, AutoencoderTiny)):
            load_network(kind, pipeline / name, torch.float16).save_pretrained(temporary / name)
        _carry(pipeline, temporary)
    return folder


def unpack(packed: Path, folder: Path) -> Path:
    """The whole pipeline of packed parts, in single precision, at `folder`."""
    quiet_libraries()
    import diffusers

    unet = load_network(diffusers.UNet2DConditionModel, packed / "unet")
    vae = load_network(diffusers.AutoencoderTiny, packed / "vae")
    pipeline = build_pipeline(0, unet, vae)
    kind = read_object(packed / "scheduler" / "scheduler_config.json")["_class_name"]
    pipeline.register_modules(scheduler=getattr(diffusers, kind).from_pretrained(packed, subfolder="scheduler"))
    with folder_atomic(folder) as temporary:
        pipeline.save_pretrained(temporary)
        _carry(packed, temporary)
    return folder


def _carry(source: Path, target: Path) -> None:
    """Copy what stands beside the networks: the scheduler, how it was trained, how a student is sampled."""
    shutil.copytree(source / "scheduler", target / "scheduler", dirs_exist_ok=True)
    for extra in ("training.json", "ddmd.json"):
        if (source / extra).is_file():
            shutil.copy(source / extra, target / extra)
