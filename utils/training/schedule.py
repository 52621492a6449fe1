"""Learning rate as a pure function of the step."""

import math
from dataclasses import dataclass

from utils.output import counted
from utils.training.args import StepOptions


def learning_rate(
    step: int, total: int, base: float, warmup: int = 0, kind: str = "cosine", final: float = 0.01
) -> float:
    """Learning rate of optimiser step `step` (from 0) out of `total`.

    Rises linearly over `warmup` steps, then "cosine": falls to base x final (Loshchilov and Hutter 2017, eq. 5);
    "steps": base / 10 after 80 % and / 100 after 90 % (YOLOv3's policy); "constant": stays.
    """
    if step < warmup:
        return base * (step + 1) / warmup
    if kind == "cosine":
        done = (step - warmup) / max(total - warmup, 1)
        return base * (final + (1 - final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2)
    if kind == "steps":
        return base * (0.1 if step >= 0.8 * total else 1.0) * (0.1 if step >= 0.9 * total else 1.0)
    return base


@dataclass(frozen=True)
class Schedule:
    """The steps of a run."""

    options: StepOptions
    steps_per_epoch: int

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.options.epochs

    def progress(self, step: int) -> float:
        """Share of the run that lies before a step, 0 to 1."""
        return step / self.total

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        options = self.options
        # steps that the rewound run is taken to have behind it
        before = max(options.rewind - options.epochs, 0) * self.steps_per_epoch
        warmup = int(options.warmup * self.steps_per_epoch)
        return learning_rate(before + step, before + self.total, options.lr, warmup, options.schedule)

    def rates(self) -> list[float]:
        """Learning rate of every step."""
        return [self.rate(step) for step in range(self.total)]

    def describe(self) -> str:
        """How long the run is, in words."""
        return f"{counted(self.options.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}"
