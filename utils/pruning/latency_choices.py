"""From a net to what the latency knapsack chooses from, and from its choice back to channels.

G groups of channels (utils.pruning.channel_graph), M axes of interchangeable ones, B residual blocks, L convolutions.
The width of an axis counts its carriers (utils.pruning.surgery), which take time as well: an axis of width w with c
carriers keeps its best w - c groups, and all of them at its dense width.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Callable

import numpy as np
import torch
from torch import Tensor

from utils.deploy.layer_time import ConvSpec, LayerClock, WidthTable, conv_specs, grid
from utils.parse_config import section_of
from utils.pruning.blocks import Block, remove_blocks
from utils.pruning.channel_graph import ChannelGraph
from utils.pruning.importance import axes
from utils.pruning.latency import Choice, Knapsack, importance, layer_seconds, narrowest, solve
from utils.pruning.surgery import narrow_defs

MOST_WIDTHS = 64  # among which the width of an axis is chosen
CARRIER_ROUNDS = 6


@dataclass(frozen=True)
class Offer:
    """A net whose axes may become narrower and whose `blocks` may go.

    importance: (G,) float64, of every group, summed over what stays; 0: goes in any case. block_importance: (B,) of a
    block beside that of the channels inside it; size: (width, height) of the image; divisor, layer_keep: as the flags.
    """

    defs: list[dict]
    graph: ChannelGraph
    importance: Tensor
    size: tuple[int, int]
    divisor: int = 1
    layer_keep: float = 0.0
    blocks: tuple[Block, ...] = ()
    block_importance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    tables: tuple[WidthTable, ...] = ()  # see with_tables

    @cached_property
    def axes(self) -> list[Tensor]:
        """Groups of each axis, best first."""
        return [axis[self.importance[axis].argsort(descending=True, stable=True)] for axis in axes(self.graph)]

    @cached_property
    def specs(self) -> dict[int, ConvSpec]:
        """layer -> what the time of a convolution depends on; their order is that of the knapsack's tables."""
        return conv_specs(self.defs, self.size)

    @cached_property
    def channels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Knapsack.reads, gives and fixed."""
        axis_of = torch.full((len(self.graph.frozen),), -1)
        for i, axis in enumerate(self.axes):
            axis_of[axis] = i
        lengths = np.array([len(axis) for axis in self.axes])
        count = lambda groups: np.bincount(axis_of[groups].numpy() + 1, minlength=len(lengths) + 1)
        reads = np.array([count(self.graph.inputs(i, section_of(self.defs, i))) for i in self.specs])
        gives = np.array([count(self.graph.outputs[i]) for i in self.specs])
        return reads[:, 1:] // lengths, gives[:, 1:] // lengths, np.stack([reads[:, 0], gives[:, 0]], axis=1)


def with_tables(offer: Offer, clock: LayerClock) -> Offer:
    """The offer with measured times of every convolution by its widths; says first how many there are to measure."""
    unit, (reads, gives, _) = clock.unit(), offer.channels
    free = [(bool(reads[row].any()), bool(gives[row].any())) for row in range(len(offer.specs))]
    wanted = set()
    for spec, own in zip(offer.specs.values(), free):
        _, inputs, outputs = grid(spec, own, unit)
        wanted |= {spec.of_widths(some, other).key for some in inputs for other in outputs}
    if new := len(wanted - clock.known.keys()):
        place = f", remembered in {clock.path}" if clock.path else ""
        print(f"{new} times of single convolutions to measure{place}", flush=True)
    return replace(offer, tables=tuple(
        WidthTable.of(spec, own, unit, clock) for spec, own in zip(offer.specs.values(), free)))


def knapsack_of(offer: Offer, carriers: np.ndarray) -> Knapsack:
    """What there is to choose from; carriers: (M,) of each axis where it is narrower than dense."""
    reads, gives, fixed = offer.channels
    unit = min((table.unit for table in offer.tables), default=1)
    choices = [widths_of(offer, axis, int(own), unit) for axis, own in zip(offer.axes, carriers)]
    values = [_values(offer.importance[axis].numpy(), int(own)) for axis, own in zip(offer.axes, carriers)]
    place = {layer_i: row for row, layer_i in enumerate(offer.specs)}
    blocks = [[place[i] for i in range(block.stream + 1, block.shortcut) if i in place] for block in offer.blocks]
    touched = reads.astype(bool) | gives.astype(bool)
    inner = [[i for i in range(len(choices)) if set(np.flatnonzero(touched[:, i])) <= set(own)] for own in blocks]
    return Knapsack(list(offer.tables), reads, gives, fixed, choices, values, blocks, inner, offer.block_importance)


def widths_of(offer: Offer, axis: Tensor, carriers: int, unit: int) -> np.ndarray:
    """Widths that an axis may have, ascending: multiples of --divisor, and of `unit`, since a runtime takes the time of
    the next one for what lies between; not above what has any importance."""
    count, live = len(axis), int((offer.importance[axis] > 0).sum())
    up = lambda width: min(math.ceil(width / offer.divisor) * offer.divisor, count)
    least = up(max(1, math.ceil(offer.layer_keep * count)) + carriers)
    most = max(count if live == count else up(live + carriers), least)
    step = math.lcm(offer.divisor, unit)
    step *= math.ceil(most / step / MOST_WIDTHS)
    between = np.arange(math.ceil(least / step) * step, most, step)
    return np.array([*between, most], dtype=int)


def _values(importances: np.ndarray, carriers: int) -> np.ndarray:
    """(n + 1,) importance of an axis by its width; importances: (n,) of its groups, best first."""
    kept = np.concatenate([[0.0], importances.cumsum()])
    shifted = kept[np.maximum(np.arange(len(kept)) - carriers, 0)]
    shifted[-1] = kept[-1]
    return shifted


def keep_of(offer: Offer, choice: Choice, carriers: np.ndarray) -> Tensor:
    """(G,) bool: the groups that a choice keeps, its carriers not among them."""
    keep = torch.ones(len(offer.graph.frozen), dtype=torch.bool)
    for axis, width, own in zip(offer.axes, choice.widths.tolist(), carriers.tolist()):
        keep[axis[width if width == len(axis) else max(width - own, 0):]] = False
    return keep


@dataclass(frozen=True)
class Solution:
    """choice: widths with carriers as they are, and blocks; keep: (G,) bool, without carriers; seconds: by tables, one
    per convolution (L,); importance: of what stays."""

    choice: Choice
    keep: Tensor
    layer_seconds: np.ndarray
    importance: float

    @property
    def seconds(self) -> float:
        """By tables, of all convolutions."""
        return float(self.layer_seconds.sum())


def choose(offer: Offer, budget: float, staying: Callable[[Tensor], Tensor]) -> Solution:
    """The choice of most importance within `budget` seconds by tables, the narrowest where none is; staying: (G,) bool
    of kept groups -> (G,) bool, those and the carriers they need. More carriers leave room for fewer channels, so both
    are found in turn."""
    carriers = np.zeros(len(offer.axes), dtype=int)
    for _ in range(CARRIER_ROUNDS):
        knapsack = knapsack_of(offer, carriers)
        choice = solve(knapsack, budget) or narrowest(knapsack)
        keep = keep_of(offer, choice, carriers)
        there = staying(keep)
        found = np.array([int((there & ~keep)[axis].sum()) for axis in offer.axes])
        if (found <= carriers).all():
            break
        carriers = np.maximum(carriers, found)
    return _solution(offer, knapsack, Choice(_widths(offer, there), choice.stays), keep)


def dense_choice(offer: Offer) -> Solution:
    """Everything stays, what has no importance as well."""
    everything = torch.ones(len(offer.graph.frozen), dtype=torch.bool)
    stays = np.ones(len(offer.blocks), dtype=bool)
    knapsack = knapsack_of(offer, np.zeros(len(offer.axes), dtype=int))
    return _solution(offer, knapsack, Choice(_widths(offer, everything), stays), everything)


def least_choice(offer: Offer) -> Solution:
    """All that may go is gone."""
    return choose(offer, 0.0, lambda keep: keep)


def _widths(offer: Offer, there: Tensor) -> np.ndarray:
    return np.array([int(there[axis].sum()) for axis in offer.axes])


def _solution(offer: Offer, knapsack: Knapsack, choice: Choice, keep: Tensor) -> Solution:
    return Solution(choice, keep, layer_seconds(knapsack, choice), importance(knapsack, choice))


def chosen_blocks(offer: Offer, choice: Choice) -> tuple[Block, ...]:
    """The residual blocks that a choice takes out."""
    return tuple(block for block, stays in zip(offer.blocks, choice.stays) if not stays)


def defs_of(offer: Offer, choice: Choice) -> list[dict]:
    """module_defs of a net of the chosen widths and blocks: what its time can be measured on, whatever its weights."""
    staying = keep_of(offer, choice, np.zeros(len(offer.axes), dtype=int))
    narrow = narrow_defs(offer.defs, offer.graph, staying)
    return remove_blocks(narrow, {}, list(chosen_blocks(offer, choice)))[0]


def profile(offer: Offer, solution: Solution, count: int = 3) -> str:
    """In words, the convolutions that take longest by their tables."""
    layers = list(offer.specs)
    order = solution.layer_seconds.argsort()[::-1][:count]
    return ", ".join(f"layer {layers[row]} {1e3 * solution.layer_seconds[row]:.2f} ms" for row in order)
