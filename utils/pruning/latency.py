"""Which widths, and which residual blocks, keep the most importance within a time: a knapsack (HALP, Shen et al. 2022,
"Structural Pruning via Latency-Saliency Knapsack"). Pure functions on tables; no net is built or timed here.

An axis is a set of interchangeable channel groups (utils.pruning.importance.axes): it keeps its best ones, and has one
width. L convolutions, M axes, B residual blocks. The time of a convolution depends on its inputs and its outputs, so
on several axes: their choices are made in turn, each given the others, until none changes. One factor weighs time
against importance (Everett 1963); bisection finds the one whose choice just meets the budget, and what it leaves over
is filled up with what gains most importance per second.
"""

from dataclasses import dataclass, field, replace
from typing import Sequence

import numpy as np

from utils.deploy.layer_time import WidthTable

SWEEPS = 20  # rounds through all axes for one factor; two or three are enough as a rule
BISECTIONS = 24


@dataclass(frozen=True)
class Knapsack:
    """What there is to choose from. All arrays are of numpy.

    tables: of the L convolutions; reads, gives: (L, M) how many channels of its inputs and of its outputs one channel
    of an axis is; fixed: (L, 2) those that no axis has; choices: per axis its widths, ascending; values: per axis
    (n + 1,) importance of its best 0, 1, ... n groups; blocks: per residual block its convolutions; inner: per block
    the axes that are gone with it; block_values: (B,) importance of a block beside that of its inner axes.
    """

    tables: list[WidthTable]
    reads: np.ndarray
    gives: np.ndarray
    fixed: np.ndarray
    choices: list[np.ndarray]
    values: list[np.ndarray]
    blocks: list[list[int]] = field(default_factory=list)
    inner: list[list[int]] = field(default_factory=list)
    block_values: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def touched(self, axis: int) -> np.ndarray:
        """Convolutions whose time depends on the axis."""
        return np.flatnonzero(self.reads[:, axis] | self.gives[:, axis])


@dataclass(frozen=True)
class Choice:
    """widths: (M,); stays: (B,) bool, the residual blocks that are left."""

    widths: np.ndarray
    stays: np.ndarray


def widest(knapsack: Knapsack) -> Choice:
    """Everything that may stay."""
    return Choice(np.array([own[-1] for own in knapsack.choices]), np.ones(len(knapsack.blocks), dtype=bool))


def narrowest(knapsack: Knapsack) -> Choice:
    """Everything that may go is gone."""
    return Choice(np.array([own[0] for own in knapsack.choices]), np.zeros(len(knapsack.blocks), dtype=bool))


def layer_seconds(knapsack: Knapsack, choice: Choice) -> np.ndarray:
    """(L,) of each convolution by its table; 0 in a block that is gone."""
    return _some_seconds(knapsack, choice, range(len(knapsack.tables))) * _there(knapsack, choice)


def _some_seconds(knapsack: Knapsack, choice: Choice, layers: Sequence[int]) -> np.ndarray:
    """(n,) of the convolutions `layers`, whether their blocks are there or not."""
    inputs = knapsack.reads[layers] @ choice.widths + knapsack.fixed[layers, 0]
    outputs = knapsack.gives[layers] @ choice.widths + knapsack.fixed[layers, 1]
    return np.array([knapsack.tables[layer].at(inputs[i:i + 1], outputs[i:i + 1])[0] for i, layer in enumerate(layers)])


def seconds(knapsack: Knapsack, choice: Choice) -> float:
    """Sum of the tables' times."""
    return float(layer_seconds(knapsack, choice).sum())


def importance(knapsack: Knapsack, choice: Choice) -> float:
    """Sum over all that stays."""
    gone = _gone_axes(knapsack, choice)
    axes = sum(values[width] for i, (values, width) in enumerate(zip(knapsack.values, choice.widths)) if i not in gone)
    return float(axes + knapsack.block_values[choice.stays].sum())


def solve(knapsack: Knapsack, budget: float) -> Choice | None:
    """The choice of most importance among those found that take at most `budget` seconds; None where even the narrowest
    takes longer."""
    best = widest(knapsack)
    if seconds(knapsack, best) <= budget:
        return best
    if seconds(knapsack, best := narrowest(knapsack)) > budget:
        return None
    scale = importance(knapsack, widest(knapsack)) / seconds(knapsack, widest(knapsack))
    low, high = np.log(scale) - 20, np.log(scale) + 20
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = balanced(knapsack, float(np.exp(middle)))
        if seconds(knapsack, found) <= budget:
            high, best = middle, max(best, found, key=lambda own: importance(knapsack, own))
        else:
            low = middle
    return filled(knapsack, best, budget)


def balanced(knapsack: Knapsack, factor: float) -> Choice:
    """A choice that no change of one axis or one block improves, where a second costs `factor` of importance."""
    choice = widest(knapsack)
    for _ in range(SWEEPS):
        before = choice
        for block in range(len(knapsack.blocks)):
            choice = _better_block(knapsack, choice, block, factor)
        gone = _gone_axes(knapsack, choice)
        for axis in range(len(knapsack.choices)):
            if axis not in gone and len(knapsack.choices[axis]) > 1:
                gain = _gains(knapsack, choice, axis, factor)
                choice = _with_width(choice, axis, knapsack.choices[axis][int(gain.argmax())])
        if np.array_equal(before.widths, choice.widths) and np.array_equal(before.stays, choice.stays):
            break
    return choice


def filled(knapsack: Knapsack, choice: Choice, budget: float) -> Choice:
    """The choice with axes widened, one step at a time by most importance per second, as far as `budget` seconds
    go."""
    left = budget - seconds(knapsack, choice)
    while True:
        gone, best = _gone_axes(knapsack, choice), None
        for axis, own in enumerate(knapsack.choices):
            wider = own[own > choice.widths[axis]]
            if axis in gone or not len(wider):
                continue
            more = _axis_seconds(knapsack, choice, axis, np.array([choice.widths[axis], *wider]))
            more = more[1:] - more[0]
            gain = knapsack.values[axis][wider] - knapsack.values[axis][choice.widths[axis]]
            rate = np.where(more <= left, gain / np.maximum(more, 1e-9), -1.0)
            if rate.max() > 0 and (best is None or rate.max() > best[0]):
                best = rate.max(), axis, wider[rate.argmax()], more[rate.argmax()]
        if best is None:
            return choice
        choice, left = _with_width(choice, best[1], best[2]), left - best[3]


def _with_width(choice: Choice, axis: int, width: int) -> Choice:
    widths = choice.widths.copy()
    widths[axis] = width
    return replace(choice, widths=widths)


def _axis_seconds(knapsack: Knapsack, choice: Choice, axis: int, widths: np.ndarray) -> np.ndarray:
    """(n,) seconds of all convolutions that an axis touches, for each of `widths` (n,)."""
    total, there = np.zeros(len(widths)), _there(knapsack, choice)
    for layer in knapsack.touched(axis):
        if there[layer]:
            moved = widths - choice.widths[axis]
            inputs = knapsack.reads[layer] @ choice.widths + knapsack.fixed[layer, 0]
            outputs = knapsack.gives[layer] @ choice.widths + knapsack.fixed[layer, 1]
            total += knapsack.tables[layer].at(inputs + knapsack.reads[layer, axis] * moved,
                                               outputs + knapsack.gives[layer, axis] * moved)
    return total


def _gains(knapsack: Knapsack, choice: Choice, axis: int, factor: float) -> np.ndarray:
    """(n,) importance less weighed time, of each width of an axis."""
    widths = knapsack.choices[axis]
    return knapsack.values[axis][widths] - factor * _axis_seconds(knapsack, choice, axis, widths)


def _better_block(knapsack: Knapsack, choice: Choice, block: int, factor: float) -> Choice:
    """The choice with the block at its best inner widths, or without it where its time keeps more elsewhere."""
    stays = choice.stays.copy()
    stays[block] = True
    whole = replace(choice, stays=stays)
    for axis in knapsack.inner[block]:
        gain = _gains(knapsack, whole, axis, factor)
        whole = _with_width(whole, axis, knapsack.choices[axis][int(gain.argmax())])
    kept = knapsack.block_values[block] + sum(knapsack.values[axis][whole.widths[axis]]
                                              for axis in knapsack.inner[block])
    stays = stays.copy()
    stays[block] = kept > factor * _some_seconds(knapsack, whole, knapsack.blocks[block]).sum()
    return replace(whole, stays=stays)


def _there(knapsack: Knapsack, choice: Choice) -> np.ndarray:
    """(L,) bool: convolutions that are in no block that is gone."""
    there = np.ones(len(knapsack.tables), dtype=bool)
    for layers, stays in zip(knapsack.blocks, choice.stays):
        there[layers] &= stays
    return there


def _gone_axes(knapsack: Knapsack, choice: Choice) -> set[int]:
    return {axis for axes, stays in zip(knapsack.inner, choice.stays) if not stays for axis in axes}
