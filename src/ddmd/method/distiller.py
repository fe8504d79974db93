"""Algorithm 1: one generator update and one fake update. The caller owns the loop, the data and the optimisers' settings.

distiller = Distiller(roles, path, objective, plan, shape, student_optimizer, fake_optimizer, generator, rungs)
for batch in batches:
    update = distiller.generator_update(batch)
    for _ in range(5):
        distiller.fake_update(next(batches))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .adversarial import Adversary, critic_loss, generator_loss
from .batch import Batch, Condition, Reals, Sample, batch_size, concatenate, joined, split
from .guidance import GuidanceScale
from .noise import NoisePath
from .objective import Branches, Direction, Normalizer, decoupled_direction, fake_loss, mean_abs, mean_variance_loss, proxy_loss
from .renoise import RenoiseSchedule
from .student import Sampler, simulate, uniform_grid


class Roles(Protocol):
    """The three networks. Each call returns native output (v, eps or x0, see `NoisePath`) for z (B, ...), u (B,)."""

    def student(self, z: Tensor, u: Tensor, cond: Condition) -> Tensor: ...
    def teacher(self, z: Tensor, u: Tensor, cond: Condition) -> Tensor: ...
    def fake(self, z: Tensor, u: Tensor, cond: Condition) -> Tensor: ...
    def features(self, role: str, z: Tensor, u: Tensor, cond: Condition) -> Tensor: ...
    def parameters(self, role: str) -> Sequence[nn.Parameter]: ...
    def backward(self, role: str, loss: Tensor) -> None: ...
    def follow(self, rate: float) -> None: ...


@dataclass(frozen=True)
class MeanVariance:
    """Eq. 7 as a regulariser: weight and targets (SDXL's latents: 0.075 and 0.81)."""

    weight: float
    mean: float
    variance: float


@dataclass(frozen=True)
class Objective:
    """What the student is pushed along. A weight of 0 removes a branch and every forward pass it would need."""

    alpha: GuidanceScale
    schedule: RenoiseSchedule = field(default_factory=RenoiseSchedule)
    ca_weight: float = 1.0
    dm_weight: float = 1.0
    normalizer: Normalizer = "per_branch"
    floor: float = 1e-6
    proxy_scale: float = 0.5
    noise: Literal["independent", "shared"] = "independent"
    mean_variance: MeanVariance | None = None
    split_teacher: bool = False  # one teacher pass at a time: less memory, more time


@dataclass(frozen=True)
class Plan:
    """How the student walks and how the fake model learns."""

    grid: tuple[float, ...] = field(default_factory=lambda: uniform_grid(4))
    sampler: Sampler = "sde"
    source: Literal["simulate", "data"] = "simulate"
    fake_space: Literal["native", "x0"] = "native"
    fake_range: tuple[float, float] = (0.0, 1.0)
    follow: float = 0.0  # after each fake update the fake moves this share of the way to the student
    clip: float = 10.0
    gradient_accumulation: int = 1  # parts of a batch, each with a rung and a graph of its own, for one optimiser step


class Update(NamedTuple):
    """What an update did: 0-d tensors by name (nothing was synchronised), and the student's output for reuse."""

    metrics: dict[str, Tensor]
    sample: Sample


class Loss(NamedTuple):
    """A loss with its graph, what there is to say about it, and the student's output it was taken on."""

    loss: Tensor
    metrics: dict[str, Tensor]
    sample: Sample


class Distiller:
    """Decoupled DMD on tensors and callables.

    `shape` is one latent's shape; `generator` draws noise and levels (one per process), `rungs` draws the exit step and
    must be seeded alike in every process, since rollouts of unequal length would leave sharded ranks waiting.
    """

    def __init__(
        self,
        roles: Roles,
        path: NoisePath,
        objective: Objective,
        plan: Plan,
        shape: Sequence[int],
        student_optimizer: torch.optim.Optimizer,
        fake_optimizer: torch.optim.Optimizer | None,
        generator: torch.Generator,
        rungs: torch.Generator,
        adversary: Adversary | None = None,
    ) -> None:
        if objective.dm_weight and fake_optimizer is None:
            raise ValueError("dm_weight: found a value above 0 without a fake model; give a fake optimiser or set dm_weight=0")
        self.roles, self.path, self.objective, self.plan = roles, path, objective, plan
        self.shape, self.generator, self.rungs = tuple(shape), generator, rungs
        self.student_optimizer, self.fake_optimizer, self.adversary = student_optimizer, fake_optimizer, adversary
        own = adversary.optimizer if adversary else None
        self._optimizers = [optimizer for optimizer in (student_optimizer, fake_optimizer, own) if optimizer is not None]
        self.cycle = 0
        self.settle_gradients: Callable[[list[nn.Parameter]], None] = lambda trained: None  # among processes, before a step

    # ---- Algorithm 1, generator part -------------------------------------------------------------------------------

    def generator_update(self, batch: Batch, rung: int | None = None) -> Update:
        """One step of the student along Eq. 8, over the parts of a batch; each draws its exit step where no `rung` is given."""
        losses = (self._generator_loss(part, rung) for part in split(batch, self.plan.gradient_accumulation))
        update = self._step("student", losses, self.student_optimizer, "generator")
        self.cycle += 1
        return update

    def _generator_loss(self, batch: Batch, rung: int | None) -> Loss:
        """Algorithm 1's generator part; a single student graph feeds every term."""
        z, u_gen = self.student_input(batch, rung)
        x = self._student_x0(z, u_gen, batch.cond)
        alpha = self.objective.alpha.at(self.cycle, x, self.generator)
        branches = self._branches(x.detach(), u_gen, batch, alpha)
        direction = decoupled_direction(
            branches, alpha, self.objective.normalizer, self.objective.floor, self.objective.ca_weight, self.objective.dm_weight
        )
        loss = proxy_loss(x, direction.total, self.objective.proxy_scale)
        metrics = {"generator_loss": loss.detach(), **_describe(branches, direction)}
        if (target := self.objective.mean_variance) is not None:
            penalty = mean_variance_loss(x, target.mean, target.variance)
            loss = loss + target.weight * penalty
            metrics["mean_variance_loss"] = penalty.detach()
        if self.adversary is not None:
            judged, gradient = self._realism(self.adversary, x.detach(), batch.cond)
            # The gradient was taken under the judging role; as a linear term it joins the one student graph.
            loss = loss + self.adversary.generator_weight * (gradient * x).sum()
            metrics["gan_generator_loss"] = judged
        return Loss(loss, metrics, Sample(x.detach(), u_gen, batch.cond))

    def _branches(self, x: Tensor, u_gen: Tensor, batch: Batch, alpha: float | Tensor) -> Branches:
        """Re-noise x for both branches and ask the teacher (one batched call) and the fake. Nothing here has a graph."""
        objective, schedule = self.objective, self.objective.schedule
        with_dm = objective.dm_weight != 0
        with_ca = objective.ca_weight != 0 and not (isinstance(alpha, float | int) and alpha == 1)
        u_ca, u_dm = schedule.draw(u_gen, self.path, self.generator)
        noise_ca = self._noise(x)
        noise_dm = noise_ca if schedule.coupled or objective.noise == "shared" else self._noise(x)
        x_ca, x_dm = self.path.add_noise(x, u_ca, noise_ca), self.path.add_noise(x, u_dm, noise_dm)

        asked: dict[str, tuple[Tensor, Tensor, Condition]] = {}
        if with_dm:
            asked["cond_dm"] = (x_dm, u_dm, batch.cond)
        if with_ca:
            if batch.uncond is None:
                raise ValueError("batch.uncond: found None; CFG Augmentation needs the unconditional condition (or set alpha to 1)")
            asked["uncond_ca"] = (x_ca, u_ca, batch.uncond)
            if not (with_dm and schedule.coupled):  # coupled: both branches look at one image, asked once
                asked["cond_ca"] = (x_ca, u_ca, batch.cond)
        with torch.no_grad():
            said = self._teacher_x0(asked)
            if with_ca and with_dm and schedule.coupled:
                said["cond_ca"] = said["cond_dm"]
            fake_dm = self.path.to_x0(self.roles.fake(x_dm, u_dm, batch.cond), x_dm, u_dm) if with_dm else None
        return Branches(x, fake_dm=fake_dm, **said)

    def _teacher_x0(self, asked: Mapping[str, tuple[Tensor, Tensor, Condition]]) -> dict[str, Tensor]:
        if not asked:
            return {}
        if self.objective.split_teacher:
            return {name: self.path.to_x0(self.roles.teacher(*call), call[0], call[1]) for name, call in asked.items()}
        z, u, cond = (list(parts) for parts in zip(*asked.values(), strict=True))
        every_z, every_u = torch.cat(z), torch.cat(u)
        x0 = self.path.to_x0(self.roles.teacher(every_z, every_u, concatenate(cond)), every_z, every_u)
        return dict(zip(asked, x0.split([len(part) for part in z]), strict=True))

    # ---- Algorithm 1, fake part ------------------------------------------------------------------------------------

    def fake_update(
        self, batch: Batch | None = None, sample: Sample | None = None, reals: Reals | None = None, rung: int | None = None
    ) -> Update:
        """One regression step of the fake model on the student's output: a given `sample`, or a fresh one for `batch`, made at `rung` if given.

        Where the adversary judges by the fake's features, its critic loss against `reals` joins the same step.
        """
        if self.fake_optimizer is None:
            raise ValueError("fake_update: found no fake model; this objective was built without one")
        given = sample if sample is not None else batch
        if given is None:
            raise ValueError("fake_update: found neither a batch nor a sample; give one of them")
        losses = (
            self._fake_loss(part if isinstance(part, Sample) else self.student_sample(part, rung), real)
            for part, real in self._pairs(given, reals)
        )
        update = self._step("fake", losses, self.fake_optimizer, "fake")
        if self.plan.follow:
            self.roles.follow(self.plan.follow)
        return update

    def _fake_loss(self, sample: Sample, reals: Reals | None) -> Loss:
        draw = torch.rand(sample.u_gen.shape, generator=self.generator, device=sample.x.device, dtype=torch.float64)
        u = self.path.levels(draw, *self.plan.fake_range)
        noise = self._noise(sample.x)
        noisy = self.path.add_noise(sample.x, u, noise)
        output = self.roles.fake(noisy, u, sample.cond)
        if self.plan.fake_space == "x0":
            loss = fake_loss(self.path.to_x0(output, noisy, u), sample.x)
        else:
            loss = fake_loss(output, self.path.target(sample.x, noise, u))
        metrics = {"fake_loss": loss.detach()}
        if self.adversary is not None and self.adversary.role == "fake":
            critic = self._critic_loss(self.adversary, sample, reals)
            loss = loss + self.adversary.critic_weight * critic
            metrics["gan_critic_loss"] = critic.detach()
        return Loss(loss, metrics, sample)

    # ---- the GAN terms ---------------------------------------------------------------------------------------------

    def critic_update(self, sample: Sample, reals: Reals) -> Update:
        """One step of a discriminator that has a network of its own."""
        if self.adversary is None or self.adversary.optimizer is None:
            raise ValueError("critic_update: found no discriminator with an optimiser of its own; give one in the adversary")
        adversary, optimizer = self.adversary, self.adversary.optimizer

        def judged(part: Sample, real: Reals | None) -> Loss:
            critic = self._critic_loss(adversary, part, real)
            return Loss(critic, {"gan_critic_loss": critic.detach()}, part)

        losses = (judged(part, real) for part, real in self._pairs(sample, reals))
        return self._step("discriminator", losses, optimizer, "gan_critic")

    def _realism(self, adversary: Adversary, x: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """How real student images x (detached) look, and the gradient of that loss by x; no parameter collects any."""
        x = x.requires_grad_()
        u = adversary.draw(len(x), self.path, self.generator)
        noisy = self.path.add_noise(x, u, self._noise(x))
        loss = generator_loss(adversary.head(self.roles.features(adversary.role, noisy, u, cond)))
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.detach(), gradient

    def _critic_loss(self, adversary: Adversary, sample: Sample, reals: Reals | None) -> Tensor:
        if reals is None:
            raise ValueError("reals: found None; a GAN term needs real images (data or teacher samples)")
        u = adversary.draw(len(sample.x), self.path, self.generator)
        images = torch.cat([reals.images.to(sample.x), sample.x])
        levels = torch.cat([u, u])
        noisy = self.path.add_noise(images, levels, self._noise(images))
        logits = adversary.head(self.roles.features(adversary.role, noisy, levels, concatenate([reals.cond, sample.cond])))
        return critic_loss(*logits.split(len(u)))

    # ---- the student's inputs and outputs --------------------------------------------------------------------------

    def draw_rung(self) -> int:
        """An exit step: which level of the grid an update is for."""
        return int(torch.randint(len(self.plan.grid), (), generator=self.rungs))

    def student_input(self, batch: Batch, rung: int | None = None) -> tuple[Tensor, Tensor]:
        """The student's noisy input at a rung of its grid: its own rollout, or noised data. Returns z and u_gen (B,)."""
        grid = self.plan.grid
        rung = self.draw_rung() if rung is None else rung
        size = batch_size(batch.cond)
        z = torch.randn((size, *self.shape), generator=self.generator, device=self.generator.device)
        u_gen = z.new_full((size,), grid[rung], dtype=torch.float64)
        if self.plan.source == "data":
            if batch.images is None:
                raise ValueError("batch.images: found None; source=data noises real latents, so the batch must hold them")
            # The first input is the noise that inference begins with: the last entry of a diffusion table still shows the image.
            return (self.path.add_noise(batch.images.to(z.device), u_gen, z) if rung else z), u_gen

        def predict(z: Tensor, u: Tensor) -> Tensor:
            return self._student_x0(z, u, batch.cond)

        return simulate(predict, self.path, grid, rung, z, self.plan.sampler, self.generator), u_gen

    @torch.no_grad()
    def student_sample(self, batch: Batch, rung: int | None = None) -> Sample:
        """A fresh student output without a graph, for the fake model to learn."""
        z, u_gen = self.student_input(batch, rung)
        return Sample(self._student_x0(z, u_gen, batch.cond), u_gen, batch.cond)

    def _student_x0(self, z: Tensor, u: Tensor, cond: Condition) -> Tensor:
        return self.path.to_x0(self.roles.student(z, u, cond), z, u)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def _step(self, role: str, losses: Iterable[Loss], optimizer: torch.optim.Optimizer, name: str) -> Update:
        """One optimiser step over the parts of a batch; one part's graph and one role's gradients live at a time. Metrics are averaged."""
        for every in self._optimizers:
            every.zero_grad(set_to_none=True)
        said, samples = [], []
        for loss, metrics, sample in losses:
            self.roles.backward(role, loss / self.plan.gradient_accumulation)
            said.append(metrics)
            samples.append(sample)
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.settle_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, self.plan.clip)
        if hasattr(norm, "full_tensor"):  # of gradients divided among processes
            norm = norm.full_tensor()
        optimizer.step()
        averages = {key: torch.stack([metrics[key].float() for metrics in said]).mean() for key in said[0]}
        return Update({**averages, f"{name}_grad_norm": norm.detach()}, joined(samples))

    def _pairs(self, given: Any, reals: Reals | None) -> Iterator[tuple[Any, Any]]:
        """Parts of a batch or sample, each with its share of the real images."""
        parts = self.plan.gradient_accumulation
        return zip(split(given, parts), split(reals, parts), strict=True)

    # ---- resuming --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Position and random state; networks and optimisers are the caller's to save."""
        return {"cycle": self.cycle, "generator": self.generator.get_state(), "rungs": self.rungs.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.cycle = int(state["cycle"])
        self.generator.set_state(state["generator"].cpu())
        self.rungs.set_state(state["rungs"].cpu())


def _describe(branches: Branches, direction: Direction) -> dict[str, Tensor]:
    """Health of one update: sizes of the two parts, their ratio and angle, how far the fake lags, non-finite values."""
    dm, ca = direction.dm.flatten(1), direction.ca.flatten(1)
    size_dm, size_ca = dm.abs().mean(), ca.abs().mean()
    described = {"dm": size_dm, "ca": size_ca, "nonfinite": direction.nonfinite}
    if branches.cond_dm is not None and branches.fake_dm is not None:
        gap, reach = mean_abs(branches.cond_dm - branches.fake_dm).mean(), mean_abs(branches.x - branches.cond_dm).mean()
        described["fake_gap"] = gap / reach.clamp(min=1e-12)
        if branches.cond_ca is not None:
            described["dm_over_ca"] = size_dm / size_ca.clamp(min=1e-12)
            described["cosine"] = nn.functional.cosine_similarity(dm, ca, dim=1).mean()
    return described
