"""Time of whole nets against the time of their convolutions, for --target-latency.

Tables of single convolutions (utils.deploy.layer_time) leave out what else a net does, so the sum of a net's tables is
corrected by what was measured of whole nets: the dense one, the narrowest one, and those that the search tries. All
times of whole nets are shares of the dense net's, which is measured beside each.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from utils.cli import Target
from utils.deploy.layer_time import LayerClock
from utils.deploy.net_time import Stopwatch

LONG_ENOUGH = 1.5  # seconds of forward passes of the dense net that tell nets apart on a machine that others use


@dataclass
class Pace:
    """clock: of convolutions; watch: of whole nets; target: of --target-latency; repeats: forward passes per
    measurement, at least; points: (seconds by tables, measured share of the dense net's time) of nets that were
    measured."""

    clock: LayerClock
    watch: Stopwatch
    target: Target
    repeats: int
    points: list[tuple[float, float]] = field(default_factory=list)
    dense: list[float] = field(default_factory=list)  # seconds of the dense net, each time

    @property
    def dense_seconds(self) -> float:
        """Median over all measurements."""
        return float(np.median(self.dense))

    @property
    def most(self) -> float:
        """The share that is asked for."""
        return self.target.of(self.dense_seconds) / self.dense_seconds

    @property
    def floor(self) -> float:
        """The least share that was measured."""
        return min(share for _, share in self.points)

    def measure(self, net: nn.Module, table_seconds: float) -> float:
        """Share of the dense net's time that `net` takes, remembered for the correction."""
        enough = math.ceil(LONG_ENOUGH / self.dense_seconds) if self.dense else 0
        whole, own = (latency.median for latency in self.watch.beside(net, max(self.repeats, enough)))
        self.dense.append(whole)
        self.points.append((table_seconds, own / whole))
        return own / whole

    def share(self, table_seconds: float) -> float:
        """What to expect of a net, between the nets that were measured."""
        return float(np.interp(table_seconds, *self._line()))

    def budget(self, share: float) -> float:
        """Seconds by tables at which a net is expected to take `share`."""
        seconds, shares = self._line()
        return float(np.interp(share, shares, seconds))

    def _line(self) -> tuple[np.ndarray, np.ndarray]:
        """(seconds by tables, shares), both ascending: noise may have put a larger net before a smaller one."""
        seconds, shares = np.array(sorted(self.points)).T
        return seconds, np.maximum.accumulate(shares) + 1e-9 * np.arange(len(shares))

    def words(self, share: float) -> str:
        """A share in words."""
        return f"{share:.3f} of the dense net's time ({1e3 * share * self.dense_seconds:.2f} ms)"
