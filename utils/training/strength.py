"""The strength s of -sr found while training, for a cut that is planned: --target-flops, --target-params,
--target-latency.

Every look plans the cut anew and sees its energy: the share of the squared gammas that would go with it. While it is
high all gammas are pulled alike, which ranks them, and s rises until the logarithm of the energy falls fast enough to
reach that of a free cut in time. As it gets low, and from half-time on in any case, channels that would stay are let go
of, so that they recover while the others end at 0 (the idea of growing regularisation: Wang et al., Neural Pruning via
Growing Regularization, ICLR 2021). Once the cut is free s stays as it is.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from utils.batch_norm import FREE
from utils.cli import Target, size_target, time_target
from utils.training.args import SparsityOptions

LOOKS = 100  # at the gammas, in a run
FIRST, FIRST_STEPS = 0.1, 80  # the first s takes the threshold to 0 in this share of the run, or steps, unresisted
GOAL = 3e-5  # energy of a free cut, with some room below FREE
DECIDED = 1e-2  # energy from which on the channels that stay are let go of
LEAST_THRESHOLD = 0.25  # of the first threshold: below it they are let go of, too, or more would go than was planned
UNUSED = 0.05  # of the aim's size: where so many gammas are 0 too many, none is pulled until some come back
LOST = 3.0  # times the lowest loss so far
RELEASE_FROM, RELEASE_UNTIL = 0.3, 0.5  # shares of the run between which they are let go of in any case
FREE_BY = 0.6  # share of the run after which the cut is to be free
LEAST_TIME = 0.1  # later than that: the share of the run in which it is to be
FALL_LOOKS = 5  # looks over which the fall of the energy is measured
MOST_LOG_STEP = 0.12  # of ln s per look, at most
S_RANGE = 100.0  # s stays within this factor of the first


@dataclass(frozen=True)
class Aim:
    """What the cut is to leave at most; None: any. latency: its time, in `runtime` (None: the first that is installed);
    words: the flags that say so."""

    flops: Target | None = None
    params: Target | None = None
    latency: Target | None = None
    runtime: str | None = None
    words: str = ""

    @classmethod
    def of(cls, options: SparsityOptions) -> "Aim | None":
        """The aim of -sr, None without one."""
        targets = {"flops": size_target, "params": size_target, "latency": time_target}
        typed = {name: getattr(options, f"target_{name}") for name in targets}
        typed = {name: text for name, text in typed.items() if text is not None}
        if not options.sr or not typed:
            return None
        words = " ".join(f"--target-{name} {text}" for name, text in typed.items())
        return cls(**{name: targets[name](text) for name, text in typed.items()}, runtime=options.latency_backend,
                   words=words)


@dataclass(frozen=True)
class PlannedCut:
    """A cut that meets an aim. gone: layer -> (C_i,) bool; energy: share of the squared gammas that go;
    threshold: |gamma| under which a channel goes, or most that go are; typical: median |gamma| of those that stay;
    unused: share of the aim's size by which more gammas are 0 than need be; leaves: in words, what stays."""

    gone: dict[int, Tensor]
    energy: float
    threshold: float
    typical: float
    unused: float
    leaves: str


class Planner(Protocol):
    """Who plans the cut, again and again (utils.pruning.planned). measured: times that the plans rest on, of plain
    values, with which a resumed run goes on; empty where they rest on none."""

    measured: dict

    def planned(self, model: nn.Module) -> PlannedCut:
        """The cut of this net; where none gets there any more, since constants of removed channels need carriers, the
        strongest."""


@dataclass(frozen=True)
class Seen:
    """What a look sees. energy: of the cut that is planned now; threshold: its, as a share of the first; unused: see
    PlannedCut; progress: share of the run that is done; loss: mean of the epoch so far, NaN while it is of few
    batches."""

    energy: float
    threshold: float
    unused: float
    progress: float
    loss: float


@dataclass(frozen=True)
class Course:
    """How s has come so far. first: what it began with; look: the number of the last one, below LOOKS; pull, share: of
    s on channels that go and on those that stay; energies: of the last looks; free_since: share of the run, None while
    the cut is not free; calm: the lowest loss so far; lost: whether the loss is too high to cut, and at how
    many looks it was."""

    first: float
    s: float
    look: int = -1
    pull: float = 1.0
    share: float = 1.0
    energies: tuple[float, ...] = ()
    free_since: float | None = None
    calm: float = math.inf
    lost: bool = False
    waited: int = 0


def first_strength(size: float, rates: list[float], momentum: float) -> float:
    """The s that takes a gamma of `size` to 0 in FIRST of the run, or FIRST_STEPS steps where that is less,
    if the loss does nothing. rates: learning rate of every step."""
    steps = max(1.0, min(FIRST * len(rates), FIRST_STEPS))
    return size * (1 - momentum) / (steps * max(rates))


def follow(course: Course, seen: Seen, warm: float = 0.0) -> Course:
    """The course after a look. warm: share of the run at which the learning rate is at its highest, before which s does
    not move.

    s rises by a factor e^MOST_LOG_STEP where the energy stands still, stays where it falls at the pace that is needed,
    and falls as much where it is twice as fast or more; within S_RANGE of the first. A net that has lost its way
    (LOST), as at too high a learning rate, ranks nothing: until it is back no gamma is pulled.
    """
    energy, progress = seen.energy, seen.progress
    energies = (*course.energies, energy)[-FALL_LOOKS - 1:]
    free, calm, s = energy <= FREE, min(course.calm, seen.loss), course.s  # min of a number and NaN: the number
    lost = course.lost if math.isnan(seen.loss) else seen.loss > LOST * calm
    if not free and not lost and progress >= warm and len(energies) > 1:
        s = s * math.exp(MOST_LOG_STEP * max(-1.0, min(1.0, 1 - _fall(energies) / needed_fall(energy, progress))))
        s = max(course.first / S_RANGE, min(course.first * S_RANGE, s))
    since = (progress if course.free_since is None else course.free_since) if free else None
    return replace(course, s=s, look=int(progress * LOOKS), pull=float(seen.unused <= UNUSED and not lost),
                   share=0.0 if lost else share_of_staying(seen), energies=energies, free_since=since, calm=calm,
                   lost=lost, waited=course.waited + lost)


def needed_fall(energy: float, progress: float) -> float:
    """By how much the logarithm of the energy is to fall per look."""
    return math.log(energy / GOAL) / (LOOKS * max(FREE_BY - progress, LEAST_TIME))


def _fall(energies: tuple[float, ...]) -> float:
    """By how much the logarithm of the energy fell per look."""
    return (math.log(max(energies[0], 1e-30)) - math.log(max(energies[-1], 1e-30))) / (len(energies) - 1)


def share_of_staying(seen: Seen) -> float:
    """Share of s, 0 to 1, on channels that would stay: 1 at first, 0 once the cut is free and from RELEASE_UNTIL on."""
    by_energy = math.log(max(seen.energy, FREE) / FREE) / math.log(DECIDED / FREE)
    by_time = (RELEASE_UNTIL - seen.progress) / (RELEASE_UNTIL - RELEASE_FROM)
    return max(0.0, min(1.0, by_energy, by_time, seen.threshold / LEAST_THRESHOLD))


def verdict(course: Course, cut: PlannedCut, epochs: int) -> str:
    """In words, at the end of a run of so many epochs, whether the cut of the net that is saved is free, and if not
    why and what to do."""
    found = f"s ended at {course.s:.3g}; the planned cut to {cut.leaves}"
    if cut.energy <= FREE:
        since = f" since epoch {1 + int(course.free_since * epochs)}" if course.free_since is not None else ""
        smaller = (", and stronger than asked for: more gammas are 0 than need be; a longer run lets some come back "
                   f"(--epochs {2 * epochs})") if cut.unused > UNUSED else ""
        return f"{found} is free{since}{smaller}"
    fall = _fall((*course.energies[:-1], cut.energy)) * LOOKS / epochs if len(course.energies) > 1 else 0.0
    if course.waited > LOOKS / 10:
        why = (f"in {course.waited / LOOKS:.0%} of the run the loss was over {LOST:g} times what it had been, and no "
               "gamma was pulled: lower --lr")
    elif fall * epochs > math.log(cut.energy / FREE) / 2:
        more = max(1, math.ceil(math.log(cut.energy / FREE) / fall))
        why = f"its gammas are still falling: the run is too short, try --epochs {epochs + more}"
    elif course.s > 0.99 * course.first * S_RANGE:
        why = f"the loss holds these channels against {S_RANGE:g} times the first s: ask for less"
    else:
        why = f"the loss holds these channels: ask for less, or give it longer (--epochs {2 * epochs})"
    return f"{found} is not free ({cut.energy:.2g} of the squared gammas, expected at most {FREE:g}): {why}"


class Strength:
    """The s of a run, and which channels it pulls at: a course and the cut that was last planned."""

    def __init__(self, cut: PlannedCut, rates: list[float], momentum: float, measured: dict | None = None):
        """cut: of the net as it begins; rates: learning rate of every step of the run; measured: of its planner, kept
        for the state alone."""
        self.measured = measured or {}
        # a net that is sparse already has a threshold near 0
        self.size = max(cut.threshold, LEAST_THRESHOLD * cut.typical, 1e-30)
        first = first_strength(self.size, rates, momentum)
        self.course, self.gone = Course(first, first), cut.gone
        self._factors: Tensor | None = None
        self.warm = rates.index(max(rates)) / len(rates)

    def due(self, progress: float) -> bool:
        """Whether it is time for another look."""
        return int(progress * LOOKS) != self.course.look

    def look(self, cut: PlannedCut, progress: float, loss: float) -> None:
        """See the cut that is planned now, and the mean loss of the epoch so far."""
        seen = Seen(cut.energy, cut.threshold / self.size, cut.unused, progress, loss)
        self.course, self.gone = follow(self.course, seen, self.warm), cut.gone
        self._factors = None

    def factors(self, layers: list[int], device: torch.device) -> Tensor:
        """(C,) share of s on each channel of `layers` in a row, until the next look; always of the same layers."""
        if self._factors is None:  # not every step: a GPU would wait for the copy
            gone = torch.cat([self.gone[layer] for layer in layers])
            self._factors = torch.where(gone, self.course.pull, self.course.share).to(device)
        return self._factors

    def state(self) -> dict:
        """What `restore` needs, of plain values and tensors."""
        return {**asdict(self.course), "energies": list(self.course.energies), "gone": self.gone,
                "size": self.size, "measured": self.measured}

    def restore(self, state: dict) -> None:
        """Go on where `state` was taken."""
        course = {name: value for name, value in state.items() if name not in ("gone", "size", "measured")}
        self.course = Course(**{**course, "energies": tuple(course["energies"])})
        self.gone, self.size = state["gone"], state["size"]
        self._factors = None

    def describe(self, cut: PlannedCut) -> str:
        """In words, s and the cut that is planned now."""
        others = f", {self.course.share:.2g} of that on channels that stay" if self.course.share < 1 else ""
        return (f"s = {self.course.s:.3g}{others}; planned cut: leaves {cut.leaves}, takes {cut.energy:.2g} of the "
                f"squared gammas (free from {FREE:g})")
