"""The sizes that --target-params and --target-flops allow, and the mildest cut within them."""

from typing import Callable, Sequence

from utils.cli import Target
from utils.pruning.selection import mildest
from utils.shapes import LayerCost


class NoCutError(ValueError):
    """No cut is small enough; the message says what the strongest leaves."""


def most_allowed(params: Target | None, flops: Target | None, dense: LayerCost) -> LayerCost:
    """What a net may have at most, given the dense one's size; without a target as much as that. A multiply-add counts
    as two FLOPs."""
    return LayerCost(int(params.of(dense.parameters)) if params else dense.parameters,
                     int(flops.of(2 * dense.macs) / 2) if flops else dense.macs)


def mildest_within(levels: Sequence[float], cost_of: Callable[[float], LayerCost], most: LayerCost) -> float:
    """The first of ascending `levels`, thresholds, whose cut leaves at most so much. cost_of: level -> size of the net
    that its cut leaves. Raises NoCutError."""
    def fits(level: float) -> bool:
        cost = cost_of(level)
        return cost.parameters <= most.parameters and cost.macs <= most.macs

    if (level := mildest(levels, fits)) is None:
        least = cost_of(levels[-1])
        raise NoCutError(f"no cut gets there; the strongest leaves {least.parameters:,} parameters and "
                            f"{2 * least.macs / 1e9:.3g} GFLOPs")
    return level
