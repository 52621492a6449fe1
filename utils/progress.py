"""How far a long loop is: a bar on a terminal, a line per minute where there is none."""

import sys
import time
from typing import Callable, Iterable, Iterator

from tqdm import tqdm

from utils import torchrun

LINE_SECONDS = 60.0


class Progress:
    """Iterates over `steps`, of which there are `total`; `per_step` images in each. `note`, such as a loss, stands
    behind the speed.

    On a terminal a bar that is wiped when the loop ends; elsewhere (a log file, a pipe) a line per minute with step,
    speed and time left. Of several processes the first shows it.
    """

    def __init__(self, steps: Iterable, total: int, name: str, per_step: int = 1, shown: bool = True,
                 clock: Callable[[], float] = time.monotonic):
        self.steps, self.total, self.name, self.per_step = steps, total, name, per_step
        self.shown, self.clock = shown and torchrun.rank() == 0, clock
        self.note = ""
        self._terminal = sys.stderr.isatty()

    def __iter__(self) -> Iterator:
        if not self.shown or not self._terminal:
            yield from self._lines() if self.shown else self.steps
            return
        bar = tqdm(self.steps, total=self.total, desc=self.name, leave=False)
        for step_i, step in enumerate(bar):
            yield step
            if self.note and step_i % 10 == 9:
                bar.set_postfix_str(self.note)

    def _lines(self) -> Iterator:
        started = said = self.clock()
        for step_i, step in enumerate(self.steps, start=1):
            yield step
            now = self.clock()
            if now - said >= LINE_SECONDS and step_i < self.total:
                said = now
                print(f"{self.name}: {self.describe(step_i, now - started)}", flush=True)

    def describe(self, done: int, seconds: float) -> str:
        """ "step 30/112  12.1 images/s  2:10 left  loss 31.2" after `done` steps in `seconds`."""
        left = round(seconds / done * (self.total - done))
        minutes = f"{left // 3600}:{left // 60 % 60:02}" if left >= 3600 else f"{left // 60}"
        speed = done * self.per_step / seconds
        return "  ".join([f"step {done}/{self.total}", f"{speed:.1f} images/s", f"{minutes}:{left % 60:02} left",
                          *([self.note] if self.note else [])])
