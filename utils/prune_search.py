"""Finding the threshold of a cut: the mildest that is small enough, or the strongest that still scores well."""

from typing import Callable, Sequence

import torch
from torch import Tensor


def thresholds(scores: Tensor, free: Tensor, most: int | None = None, start: float = 0.0) -> list[float]:
    """Every threshold that cuts something else, ascending: the distinct scores of the groups in `free` (G,) bool, and one above them
    all. most: only about as many, evenly spread over the channels; start: none below it."""
    values = scores[free & (scores >= start)].sort().values
    if not len(values):  # start cuts everything already
        return [start]
    if most is not None and len(values) > most:
        values = values[torch.linspace(0, len(values) - 1, most).round().long()]
    levels = values.unique().tolist()
    return levels + [levels[-1] * 2 + 1]


def curve_levels(scores: Tensor, free: Tensor, count: int) -> list[float]:
    """At most `count` thresholds from mild to strong, evenly spread over the channels that are not dead (score 0). The first cuts just the
    dead ones where there are any; the last cuts all that may go."""
    dead = bool((scores[free] == 0).any())
    levels = thresholds(scores, free & (scores > 0), count + 1 - dead)  # the last but one leaves a single group, which stays in any case
    return levels[0 if dead else 1:-2] + levels[-1:]


def mildest(levels: Sequence[float], fits: Callable[[float], bool]) -> float | None:
    """The first of ascending `levels` for which fits(level); None when the last does not. fits must hold for all levels after
    one for which it holds; log2(n) calls."""
    if not fits(levels[-1]):
        return None
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(levels[middle]) else (middle + 1, high)
    return levels[low]


def strongest(levels: Sequence[float], holds: Callable[[float], bool]) -> float | None:
    """The last of ascending `levels` up to which holds(level) was seen; None when the first does not hold. By bisection, as
    if holds could not come back once lost."""
    if not holds(levels[0]):
        return None
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(levels[middle]) else (low, middle - 1)
    return levels[low]
