"""One distillation from recipe to result: the loop around `Distiller`, and everything a long run needs around the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..devices import choose_attention
from ..errors import InputError
from ..files import write_atomic
from ..folders import Lock, check_replaceable, lock_folder, remove_leftovers
from ..method.batch import Batch, Reals, Sample
from ..teachers.denoisers.words import too_long
from ..teachers.sampling import Network, sample_images
from ..teachers.sharding import gathered, local, placed_like
from . import checkpoint as ckpt
from .environment import foreign_settings
from .health import Health, output_statistics
from .logs import Logs
from .pictures import comparison, write_grid
from .processes import gather, lead_finds, stop_signals
from .recipe import Recipe
from .results import Setting, teacher_settings
from .resume import check_folder, check_identities, identities
from .setup import Parts, accelerator_for, build

# Scores said at an evaluation.
SPOKEN = ("overall", "frechet", "text_image", "recall", "style", "kid_lite0", "std", "saturation", "clipped")
EXPORTS = ("student", "student-lora")  # what the end of a run writes anew


class Observer(Protocol):
    """Who is told how the run goes; the command line draws it."""

    def start(self, total: int, position: int) -> None: ...
    def cycle(self, position: int, metrics: dict[str, float]) -> None: ...
    def count(self, what: str, done: int, total: int) -> None: ...
    def say(self, text: str) -> None: ...


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


class NonFiniteLoss(Exception):
    """A loss is NaN or infinite; the last checkpoint is from before."""


class Training:
    """A run in its folder. `run()` goes to the recipe's last cycle; a new Training with resume=True goes on, bit for bit on a CPU."""

    def __init__(self, recipe: Recipe, folder: Path, observer: Observer, resume: bool = False) -> None:
        self.accelerator = accelerator_for(recipe)
        self.recipe, self.folder, self.observer = recipe, folder, observer
        self.lead = self.accelerator.is_main_process
        check_folder(recipe, folder, resume)
        self._lock: Lock | None = None
        lead_finds(self.accelerator, lambda: self._take(folder, resume))
        if foreign := foreign_settings():
            observer.say(f"left out, since the recipe decides: {', '.join(foreign)}")
        if note := choose_attention(self.accelerator.device, recipe.optim.cudnn_attention):
            observer.say(note)
        self.parts: Parts = build(recipe, self.accelerator, observer.count)
        self.average = {name: p.detach().clone() for name, p in self.parts.roles.named_parameters("student").items()}
        self.cycle = 0
        self.positions = {"prompts": 0, "reals": 0}  # batches handed out
        self.seconds = 0.0
        self.nonfinite = torch.zeros((), device=self.accelerator.device)  # largest share since the last log line
        self.alarms: list[str] = []
        self._saved: int | None = None
        self.identities: dict[str, str] = lead_finds(self.accelerator, lambda: identities(self.parts))
        self._prepare_samples()
        cut, limit = too_long(self.parts.denoiser.pipeline, self.parts.prompts.prompts)
        if cut:
            observer.say(
                f"{len(cut)} of {len(self.parts.prompts.prompts)} prompts have more than {limit} tokens and are cut: {cut[0][:80]!r} ..."
            )
        if resume:
            self._load()
        lead_finds(self.accelerator, self._check_room)
        self.accelerator.wait_for_everyone()  # all have looked at the folder before the lead claims it
        if self.lead:
            write_atomic(folder / "recipe.yaml", recipe.to_yaml())

    # ---- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last cycle. Raises Interrupted (state saved) on a signal that asks to stop, NonFiniteLoss on a broken loss."""
        recipe, train = self.recipe, self.recipe.train
        self.observer.start(train.cycles, self.cycle)
        with stop_signals() as stop, self._logs() as log:
            if self.cycle == 0:
                self._evaluate(log)
            started = time.perf_counter()
            while self.cycle < train.cycles:
                first = self.cycle == 0
                metrics = self._one_cycle()
                self.seconds += time.perf_counter() - started
                if first:
                    self._checked(metrics)
                if self.cycle % train.log_every == 0 or self.cycle == train.cycles:
                    self._log(log, metrics)
                if self.cycle % train.evaluate_every == 0 or self.cycle == train.cycles:
                    self._evaluate(log)
                if self.cycle % train.checkpoint_every == 0 or self.cycle == train.cycles:
                    self._save(metrics)
                if self._any(stop.requested):
                    self._save(metrics)
                    raise Interrupted
                if recipe.train.stop_on_alarm and self._any(bool(self.alarms)):
                    self._save(metrics)
                    self.observer.say("stopped on the alarm above (train.stop_on_alarm)")
                    break
                started = time.perf_counter()

    def _one_cycle(self) -> dict[str, Tensor]:
        """One generator update and the recipe's fake updates, in its order."""
        distiller, turn = self.parts.distiller, self.recipe.fake.turn
        self._set_learning_rates()
        if turn == "ahead":
            rung = distiller.draw_rung()
            learned = self._fake_updates(None, rung)
            update = distiller.generator_update(self._batch(), rung)
        else:  # Algorithm 1's
            update = distiller.generator_update(self._batch())
            learned = self._fake_updates(update.sample if turn == "joint" else None)
        metrics = {**update.metrics, **output_statistics(update.sample.x), **learned}
        self.nonfinite = torch.maximum(self.nonfinite, metrics["nonfinite"])
        metrics["nonfinite"] = self.nonfinite
        self._move_average()
        if "discriminator" in self.parts.roles.trained:
            reals = self._reals()
            assert reals is not None  # setup gives every GAN its real images
            metrics |= distiller.critic_update(update.sample, reals).metrics
        self.cycle += 1
        return metrics

    def _fake_updates(self, known: Sample | None, rung: int | None = None) -> dict[str, Tensor]:
        """The first on a known sample, if there is one, the others on fresh ones (all at one rung, if given)."""
        fake = self.recipe.fake
        metrics: dict[str, Tensor] = {}
        for _ in range(fake.updates if "fake" in self.parts.roles.trained else 0):
            update = self.parts.distiller.fake_update(None if known else self._batch(), known, self._reals(), rung)
            known = update.sample if fake.reuse_rollout else None
            metrics |= update.metrics
        return metrics

    @torch.no_grad()
    def _move_average(self) -> None:
        """The average after this cycle's student."""
        optim = self.recipe.optim
        decay = min(optim.ema, (1 + self.cycle) / (10 + self.cycle)) if optim.ema_warmup else optim.ema
        own = self.parts.roles.named_parameters("student")
        torch._foreach_lerp_([local(self.average[name]) for name in own], [local(p.detach()) for p in own.values()], 1 - decay)

    def _batch(self) -> Batch:
        """The next prompts; where the student starts from data, the next real images with their own prompts."""
        uncond = self.parts.prompts.uncond
        if self.recipe.student.source == "data" and (reals := self._reals()) is not None:
            return Batch(reals.cond, uncond, reals.images)
        return Batch(self.parts.prompts.at(self._next("prompts")), uncond)

    def _reals(self) -> Reals | None:
        """The next real images, where the recipe uses any."""
        if self.parts.reals is None:
            return None
        return self.parts.reals.at(self._next("reals"))

    def _next(self, what: str) -> int:
        """The position of the next batch of prompts or real images; each counts its own, so that epochs are whole."""
        self.positions[what] += 1
        return self.positions[what] - 1

    def _set_learning_rates(self) -> None:
        """Linear warm-up, plateau, linear decay over the last share, alike for all optimisers."""
        optim, total = self.recipe.optim, self.recipe.train.cycles
        rising = (self.cycle + 1) / optim.warmup if optim.warmup else 1.0
        falling = (total - self.cycle) / (optim.decay * total) if optim.decay else 1.0
        factor = min(1.0, rising, falling)
        for role, optimizer in self.parts.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = factor * (optim.student_lr if role == "student" else optim.fake_lr)

    # ---- logs, alarms, evaluations ---------------------------------------------------------------------------------

    def _log(self, log: Logs, metrics: dict[str, Tensor]) -> None:
        values = self._checked(metrics)
        alarms = self.health.watch(values["x_mean"], values["x_std"])
        for alarm in [*alarms, *self.health.count_nonfinite(values["nonfinite"])]:
            self._alarm(alarm.message)
        self.nonfinite = torch.zeros_like(self.nonfinite)
        rate = self.seconds / self.cycle
        log.write({"cycle": self.cycle, "seconds": round(self.seconds, 2), **values})
        self.observer.cycle(self.cycle, {**values, "seconds_per_cycle": rate})

    def _checked(self, metrics: dict[str, Tensor]) -> dict[str, float]:
        """An update's metrics as numbers. Raises NonFiniteLoss, in all processes together, where one of them has lost its numbers."""
        values = {name: value.item() for name, value in metrics.items()}
        lost = [f"{name} is {v}" for name, v in values.items() if name.endswith(("_loss", "_norm")) and not math.isfinite(v)]
        if values["nonfinite"] == 1:
            lost.insert(0, "no value of an update's direction was finite")
        found = [text for texts in gather(self.accelerator, lost) for text in texts]
        if found:
            raise NonFiniteLoss(f"{found[0]}, at cycle {self.cycle}")
        return values

    def _alarm(self, message: str) -> None:
        text = f"cycle {self.cycle}: {message}"
        self.alarms.append(text)
        self.observer.say(f"alarm, {text}")

    def _evaluate(self, log: Logs) -> None:
        """Sample grid and, in a suite, exact scores of the averaged student on validation prompts; keeps the best."""
        setting, watched, suite = self.student_setting, self.parts.watched, self.parts.suite
        if self.lead or self.recipe.optim.sharded:  # a divided network answers only when all processes ask
            with self.averaged() as network:
                conditions = [watched.shown, watched.validation] if suite else [watched.shown]
                shown, *judged = [
                    sample_images(self.parts.denoiser, network, cond, setting.grid, setting.sampler, 1.0, self.recipe.seed)
                    for cond in conditions
                ]
            average = gathered(self.average, self.lead)
        if self.lead:
            columns = {**self.teacher_images, f"student {setting.steps}": shown}
            grid = comparison(columns, watched.shown_prompts)
            write_grid(self.folder / "samples" / f"cycle-{self.cycle:06d}", grid, shown.shape[-1])
            if suite is not None:
                self._judge(log, suite.score(judged[0], watched.validation_prompts), average)
        self.accelerator.wait_for_everyone()

    def _judge(self, log: Logs, scores: dict[str, Any], average: ckpt.Tensors) -> None:
        suite = self.parts.suite
        assert suite is not None
        numbers = {f"validation_{k}": v for k, v in scores.items() if isinstance(v, float)}
        log.write({"cycle": self.cycle, "seconds": round(self.seconds, 2), **numbers})
        shown = ", ".join(f"{name} {scores[name]:.3g}" for name in SPOKEN if scores.get(name) is not None)
        self.observer.say(f"cycle {self.cycle}: validation {shown}")
        best, alarms = self.health.judge(self.cycle, scores[suite.main])
        if scores[suite.distance] is not None:  # of too few images, or of none that is finite
            alarms += self.health.measure(self.cycle, scores[suite.distance])
        if best and ckpt.not_finite({"average": average}) is None:
            ckpt.save_best(self.folder / "checkpoints", self.cycle, {"average": average}, {"cycle": self.cycle, **numbers})
        for alarm in alarms:
            self._alarm(alarm.message)

    @property
    def student_setting(self) -> Setting:
        """How this run's student samples."""
        return Setting(self.recipe.grid, self.parts.sampler, 1.0)

    @contextmanager
    def averaged(self) -> Iterator[Network]:
        """The student with its averaged weights for the time of the block; `average` holds the student's own meanwhile."""
        roles = self.parts.roles
        self._swap()
        try:
            with torch.no_grad():
                yield lambda z, u, cond: roles.call(roles.plain("student"), z, u, cond)
        finally:
            self._swap()

    def _swap(self) -> None:
        """Exchange student and average in place, tensor by tensor: a third copy of a large student may not fit."""
        for name, parameter in self.parts.roles.named_parameters("student").items():
            own, average = local(parameter.detach()), local(self.average[name])
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)

    def _prepare_samples(self) -> None:
        """The teacher's own images of the prompts in the sample grids, and what the alarms compare with."""
        parts, recipe = self.parts, self.recipe
        suite = parts.suite
        settings = teacher_settings(parts.denoiser, recipe.report.teacher_steps, len(recipe.grid), recipe.teacher_guidance)
        self.teacher_images = {
            f"{name.removesuffix('-few-step')} {s.steps}": sample_images(
                parts.denoiser, parts.roles.teacher, parts.watched.shown, s.grid, s.sampler, s.guidance, recipe.seed
            )
            for name, s in settings.items()
            if name != "teacher-no-cfg"
        }
        many = next(iter(self.teacher_images.values()))
        reference = suite.reference() if suite else None
        if reference is None:
            latents = parts.denoiser.encode_images(many.clamp(-1, 1))
            reference = {"mean": latents.mean().item(), "std": latents.std().item()}
        self.health = Health(reference["mean"], reference["std"], suite.tolerance if suite else 0.0)

    # ---- saving and resuming ---------------------------------------------------------------------------------------

    def _save(self, metrics: dict[str, Tensor]) -> None:
        """A checkpoint from which `--resume` goes on exactly; never of a state that is not finite."""
        if self._saved == self.cycle:
            return
        self._checked(metrics)
        states = gather(
            self.accelerator, {k: v.tolist() if isinstance(v, Tensor) else v for k, v in self.parts.distiller.state_dict().items()}
        )
        held = {**self.parts.tensors(), "average": self.average}
        broken = [name for name in gather(self.accelerator, ckpt.not_finite(held)) if name is not None]
        if broken:
            raise NonFiniteLoss(f"{broken[0]} is not finite at cycle {self.cycle}")
        tensors = {name: gathered(content, self.lead) for name, content in held.items()}
        if self.lead:
            facts = {
                "cycle": self.cycle, "positions": self.positions, "seconds": self.seconds, "alarms": self.alarms,
                "health": self.health.state_dict(), "distillers": states, "identities": self.identities,
            }  # fmt: skip
            checkpoints = self.folder / "checkpoints"
            ckpt.save_checkpoint(ckpt.step_folder(checkpoints, self.cycle), tensors, facts)
            ckpt.drop_old(checkpoints, self.recipe.train.keep_checkpoints)
        self._saved = self.cycle
        self.accelerator.wait_for_everyone()

    def last_checkpoint(self) -> str:
        """What a stopped run leaves to go on from, in words."""
        whole = [folder for folder in reversed(ckpt.step_folders(self.folder / "checkpoints")) if ckpt.damage(folder) is None]
        return f"The checkpoint {whole[0]} is intact" if whole else "No checkpoint was saved before"

    def _load(self) -> None:
        folder = lead_finds(self.accelerator, self._find_checkpoint)
        if folder is None:
            return  # killed before its first checkpoint: begin again
        parts = self.parts
        tensors, facts = ckpt.load_checkpoint(folder, ["average", *parts.tensors()])
        if "identities" not in facts:
            raise InputError(str(folder), "a checkpoint of an older version", "go on with that version, or begin a new run")
        check_identities(facts["identities"], self.identities)
        try:
            parts.load_tensors(tensors)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(str(folder), f"a checkpoint of another network ({reason})", "resume with the recipe it was made by") from error
        own = parts.roles.named_parameters("student")
        self.average = {name: placed_like(value.to(self.accelerator.device), own[name]) for name, value in tensors["average"].items()}
        if len(facts["distillers"]) != self.accelerator.num_processes:
            raise InputError(
                str(folder), f"{len(facts['distillers'])} processes", f"resume with as many, not {self.accelerator.num_processes}"
            )
        state = facts["distillers"][self.accelerator.process_index]
        parts.distiller.load_state_dict({k: torch.tensor(v, dtype=torch.uint8) if isinstance(v, list) else v for k, v in state.items()})
        self.cycle, self.positions, self.seconds = facts["cycle"], facts["positions"], facts["seconds"]
        self.alarms, self.health = facts["alarms"], Health(**facts["health"])
        self._saved = self.cycle

    def _find_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole; damaged ones after it are put aside."""
        folders = ckpt.step_folders(self.folder / "checkpoints")
        if not folders:
            return None
        found = ckpt.newest_whole(folders, self.observer.say)
        for folder in folders[folders.index(found) + 1 :]:
            ckpt.put_aside(folder)
        return found

    def _check_room(self) -> None:
        """Refuse to train towards checkpoints that the disk has no room for."""
        train = self.recipe.train
        wanted = min(train.keep_checkpoints + 1, -(-(train.cycles - self.cycle) // train.checkpoint_every))
        kept = len(ckpt.step_folders(self.folder / "checkpoints"))
        one = ckpt.expected_bytes(self.parts.optimizers.values(), self.average)
        ckpt.check_room(self.folder, one * min(wanted, max(1, train.keep_checkpoints + 1 - kept)))

    def _take(self, folder: Path, resume: bool) -> None:
        """Hold the run's folder for this process, and clear away what a killed one left half-written."""
        self._lock = lock_folder(folder)
        check_folder(self.recipe, folder, resume)  # another may have come and gone meanwhile
        for place in (folder, folder / "checkpoints", folder / "samples"):
            remove_leftovers(place)
        for name in EXPORTS:
            check_replaceable(folder / name, "move it elsewhere: the end of the run writes there")

    # ---- signals and files -----------------------------------------------------------------------------------------

    def _any(self, mine: bool) -> bool:
        """Whether any process says so; all must leave the loop together."""
        return any(gather(self.accelerator, mine))

    @contextmanager
    def _logs(self) -> Iterator[Logs]:
        log = Logs(self.folder if self.lead else None, self.cycle, self.observer.say)
        try:
            yield log
        finally:
            log.close()
