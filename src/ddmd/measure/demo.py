"""A local page: one sentence drawn by a teacher and its student side by side, with times and the way each took."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..extras import require
from ..method.rng import sampling_seed
from ..method.student import uniform_grid, walk
from ..run.pictures import strips, to_pil
from ..run.results import Setting, teacher_setting
from ..teachers.denoisers import Denoiser
from ..teachers.prompts import to_device
from ..teachers.sampling import bare, guided, initial_noise
from .evaluate import open_model, resolve, student_setting

if TYPE_CHECKING:
    from PIL import Image

TEACHER_STEPS = (50, 4)
STUDENT_STEPS = (1, 2, 4)
SHOWN = 8  # pictures of the way, at most
SCALE = 3  # small pictures are shown larger
LARGE = 256  # pixels from which they are not
ROUNDS, PATIENCE = 3, 5.0  # of drawing all rows, for their times; seconds after which no further round begins


@dataclass(frozen=True)
class Drawn:
    """One row of the page."""

    label: str
    seconds: float
    image: Tensor
    way: Tensor  # x0 predictions (K, 3, H, W), first to last


@dataclass(frozen=True)
class Pair:
    """A teacher and its student, opened."""

    teacher: Denoiser
    student: Denoiser
    own: Setting

    @classmethod
    def open(cls, teacher: str, student: str) -> Pair:
        """Raises InputError where either cannot be had, or the second is no student that ddmd exported."""
        folder = resolve(student)
        own = student_setting(folder)
        if own is None:
            raise InputError(student, "a model without a student's settings", "name a run's folder or a student that ddmd exported")
        return cls(open_model(resolve(teacher)), open_model(folder), own)

    def settings(self, guidance: float) -> list[tuple[str, Denoiser, Setting]]:
        """The rows: name, model, how it samples."""
        rows = [("teacher", self.teacher, teacher_setting(self.teacher, steps, guidance)) for steps in TEACHER_STEPS]
        fewer = [steps for steps in STUDENT_STEPS if steps < self.own.steps]
        students = [Setting(uniform_grid(steps), self.own.sampler, 1.0) for steps in fewer] + [self.own]
        return rows + [("student", self.student, setting) for setting in students]

    def draw(self, prompt: str, seed: int, guidance: float) -> list[Drawn]:
        """All rows of a sentence, from the same seed; times are medians over rounds of all rows, as far as there is time for more."""
        rows = [(f"{name}, {s.steps} step{'s' * (s.steps > 1)}", model, s) for name, model, s in self.settings(guidance)]
        for _, model, setting in rows:  # a step of each warms up
            draw_way("", model, replace(setting, grid=setting.grid[:1]), prompt, seed)
        rounds = [[draw_way(label, model, s, prompt, seed) for label, model, s in rows]]
        while len(rounds) < ROUNDS and sum(row.seconds for each in rounds for row in each) < PATIENCE:
            rounds.append([draw_way(label, model, s, prompt, seed) for label, model, s in rows])
        return [replace(each[0], seconds=median(row.seconds for row in each)) for each in zip(*rounds, strict=True)]


@torch.no_grad()
def draw_way(label: str, denoiser: Denoiser, setting: Setting, prompt: str, seed: int) -> Drawn:
    """One image and the x0 predictions on the way; the time is that of the steps and of decoding the last."""
    generator = torch.Generator(denoiser.device).manual_seed(sampling_seed(seed))
    z = initial_noise(denoiser, 1, generator)
    predict = guided(denoiser, bare(denoiser), to_device(denoiser.encode([prompt]), denoiser.device), setting.guidance)
    began = time.perf_counter()
    found = [x0 for x0, _ in walk(predict, denoiser.path, (*setting.grid, 0.0), z, setting.sampler, generator)]
    image = denoiser.decode(found[-1])[0].float().cpu()  # on a GPU the time ends when it is here
    seconds = time.perf_counter() - began
    every = max(1, -(-len(found) // SHOWN))
    kept = found[::-1][::every][::-1]  # always with the last
    return Drawn(label, seconds, image, denoiser.decode(torch.cat(kept)).float().cpu())


def shown(image: Tensor) -> Image.Image:
    """A picture for the page."""
    from PIL import Image

    picture = to_pil(image)
    factor = SCALE if picture.width < LARGE else 1
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def ways(rows: list[Drawn]) -> Image.Image:
    """The strip of x0 predictions, a row a setting; shorter ones begin with blanks."""
    longest = max(len(row.way) for row in rows)
    return strips(
        {row.label.replace(", ", "\n"): torch.cat([torch.ones(longest - len(row.way), *row.image.shape), row.way]) for row in rows}
    )


def page(pair: Pair, prompt: str) -> Any:
    """The gradio page. Raises InputError where the extra is not installed."""
    require("demo")
    import gradio

    def answer(text: str, seed: float, guidance: float) -> tuple[list[Any], Any, str]:
        try:
            rows = pair.draw(text, int(seed), guidance)
        except InputError as error:
            raise gradio.Error(str(error)) from error
        slow, fast = rows[0], rows[-1]
        said = f"{slow.label}: {slow.seconds:.2f} s; {fast.label}: {fast.seconds:.3f} s, {slow.seconds / fast.seconds:.0f} times faster."
        return [(shown(row.image), f"{row.label}, {row.seconds:.3f} s") for row in rows], ways(rows), said

    with gradio.Blocks(title="ddmd") as blocks:
        gradio.Markdown("# ddmd\nA teacher and its few-step student draw the same sentence from the same noise.")
        with gradio.Row():
            text = gradio.Textbox(prompt, label="Sentence", scale=4)
            seed = gradio.Number(0, label="Seed", precision=0)
            guidance = gradio.Slider(1, 8, 3, step=0.5, label="The teacher's guidance")
        button = gradio.Button("Draw", variant="primary")
        said = gradio.Markdown()
        gallery = gradio.Gallery(label="Drawn", columns=5, height="auto", object_fit="contain")
        strip = gradio.Image(label="x0 on the way", interactive=False)
        inputs, outputs = [text, seed, guidance], [gallery, strip, said]
        button.click(answer, inputs, outputs, api_name="draw")
        text.submit(answer, inputs, outputs, api_name="enter")
    return blocks
