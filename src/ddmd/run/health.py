"""Is the run well? Statistics of the student's outputs, and alarms that say what they mean and what to turn."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from torch import Tensor

SMOOTHING = 0.9
PATIENCE = 3  # evaluations in a row below the best
MEAN_REACH = 0.35  # of the reference's standard deviation
STD_LOW, STD_HIGH = 0.7, 1.4  # of the reference's standard deviation
AWAY = 2.0  # times the shortest distance to the data; docs/results.md has what it tells apart


def output_statistics(x: Tensor) -> dict[str, Tensor]:
    """Mean, standard deviation and saturation (mean spread over channels) of student outputs (B, C, H, W); 0-d tensors."""
    return {"x_mean": x.mean(), "x_std": x.std(), "x_saturation": (x.amax(1) - x.amin(1)).mean()}


@dataclass(frozen=True)
class Alarm:
    """Something is going wrong: `kind` for programs, `message` for people."""

    kind: str
    message: str


@dataclass
class Health:
    """Watches the student's outputs against a reference (the data where it is known, else the teacher's samples), and the score and
    the distance to the data against their own best. Plain data, so it resumes."""

    reference_mean: float
    reference_std: float
    tolerance: float = 0.02  # of the score: smaller falls are noise
    mean: float | None = None
    std: float | None = None
    best: float | None = None
    best_cycle: int = 0
    falls: int = 0
    nearest: float | None = None
    nearest_cycle: int = 0
    raised: list[str] = field(default_factory=list)

    def watch(self, mean: float, std: float) -> list[Alarm]:
        """Judge the outputs of one logged cycle; each alarm is raised once until its cause has gone."""
        self.mean = mean if self.mean is None else SMOOTHING * self.mean + (1 - SMOOTHING) * mean
        self.std = std if self.std is None else SMOOTHING * self.std + (1 - SMOOTHING) * std
        drift = abs(self.mean - self.reference_mean) / self.reference_std
        ratio = self.std / self.reference_std
        return [
            *self._edge(
                "mean", drift > MEAN_REACH,
                f"the outputs' mean {self.mean:+.3f} has left the reference's {self.reference_mean:+.3f}: brightness or colour drifts. "
                "Lower optim.student_lr, raise optim.fake_lr or fake.updates, or lower objective.alpha.",
            ),
            *self._edge(
                "std_high", ratio > STD_HIGH,
                f"the outputs' spread {self.std:.3f} is {ratio:.2f} of the reference's {self.reference_std:.3f}: the engine outruns its "
                "regulariser (over-saturation). Lower objective.alpha or optim.student_lr, or raise optim.fake_lr or objective.dm_weight.",
            ),
            *self._edge(
                "std_low", ratio < STD_LOW,
                f"the outputs' spread {self.std:.3f} is {ratio:.2f} of the reference's {self.reference_std:.3f}: images fade or blur. "
                "Check the sign of anything custom; raise objective.alpha or train longer.",
            ),
        ]  # fmt: skip

    def count_nonfinite(self, share: float) -> list[Alarm]:
        """Judge the largest share of values of an update that were not finite, since the last logged cycle."""
        message = (
            f"{share:.1%} of an update's values were not finite and were set to zero: predictions overflow or a normaliser divides "
            "by nothing. Raise objective.floor or the lower renoise.clamp, or use optim.precision=fp32."
        )
        return self._edge("nonfinite", share > 0, message)

    def judge(self, cycle: int, score: float) -> tuple[bool, list[Alarm]]:
        """Take an evaluation's score (higher is better); returns whether it is the best so far, and alarms."""
        if self.best is None or score > self.best:
            self.best, self.best_cycle, self.falls = score, cycle, 0
            return True, self._edge("score", False, "")
        self.falls = self.falls + 1 if score < self.best - self.tolerance else 0
        message = (
            f"the score has been below its best ({self.best:.3f} at cycle {self.best_cycle}) for {self.falls} evaluations, now {score:.3f}. "
            "The best student is kept in checkpoints/; stop here, or lower optim.student_lr or objective.alpha and run again."
        )
        return False, self._edge("score", self.falls >= PATIENCE, message)

    def measure(self, cycle: int, distance: float) -> list[Alarm]:
        """Take an evaluation's distance between the pictures and the data (Frechet or kernel; lower is better)."""
        if self.nearest is None or distance < self.nearest:
            self.nearest, self.nearest_cycle = distance, cycle
        message = (
            f"the pictures are {distance:.0f} from the data, {distance / max(self.nearest, 1e-12):.1f} times their nearest "
            f"({self.nearest:.0f} at cycle {self.nearest_cycle}): the style runs away (grain, over-saturation, sameness), even where the score "
            "still rises. Raise objective.dm_weight or fake.updates, or lower objective.alpha or optim.student_lr."
        )
        return self._edge("distance", distance > AWAY * max(self.nearest, 0.0), message)

    def _edge(self, kind: str, wrong: bool, message: str) -> list[Alarm]:
        if not wrong:
            self.raised = [k for k in self.raised if k != kind]
            return []
        if kind in self.raised:
            return []
        self.raised.append(kind)
        return [Alarm(kind, message)]

    def state_dict(self) -> dict:
        return asdict(self)
