"""From scores to the channels that stay: a global threshold, what every layer keeps, masks. Pure functions, no model.

G groups of channels (utils.pruning.channel_graph), C_i channels of layer i. A group counts once per member channel
everywhere, so that a percentage means channels.
"""

import math
from dataclasses import dataclass
from typing import Callable, Sequence

import torch
from torch import Tensor

from utils.batch_norm import FREE, SMALL
from utils.pruning.channel_graph import ChannelGraph
from utils.pruning.importance import axes, member_count, reduce_members

TIE = 1e-9  # of a score; gammas of float32 that differ are 6e-8 apart
STARVED = 0.1  # share of a layer's channels that are not at zero; fewer left starve it
COSTLY = 1e-2  # share of the squared gammas from which a cut has been seen to cost mAP before fine-tuning


@dataclass(frozen=True)
class Cut:
    """What a threshold leaves. keep: (G,) bool; threshold: None where the cut was found without one; rescued: layers
    that the threshold alone would have left with less than they keep."""

    keep: Tensor
    threshold: float | None
    rescued: list[int]

    def masks(self, graph: ChannelGraph) -> dict[int, Tensor]:
        """(C_i,) bool of every convolution with batch norm: True for the channels that stay."""
        return {i: self.keep[graph.outputs[i]] for i in graph.normalised}


def candidates(graph: ChannelGraph, members: Tensor) -> Tensor:
    """(G,) bool: groups that may be cut."""
    return ~graph.frozen & (members > 0)


def global_threshold(scores: Tensor, members: Tensor, percent: float) -> float:
    """Score under which a share `percent` of the channels lies (Liu et al. 2017, section 3.2).

    scores, members: of the groups that may be cut. With ties fewer channels than asked lie under it. Raises ValueError
    unless 0 <= percent < 1.
    """
    if not 0 <= percent < 1:
        raise ValueError(f"found percent {percent}, expected a share from 0 to below 1")
    order = scores.argsort()
    place = members[order].cumsum(0)  # channels up to and with each group
    cut = channels_of(percent, members)
    return scores[order][(place > cut).nonzero()[0, 0]].item()


def channels_of(percent: float, members: Tensor) -> int:
    """How many channels a share `percent` of groups of so many `members` is, rounded down: 0.29 of 100 are 29."""
    return int(round(percent * int(members.sum()), 6))


def percent_limit(graph: ChannelGraph, scores: Tensor, members: Tensor) -> tuple[float, float]:
    """(threshold, share of channels under it) from which on some layer would be left empty."""
    free = candidates(graph, members)
    threshold = min(scores[graph.outputs[i]].max().item() for i in graph.prunable)
    under = members[free & (scores < threshold)].sum().item()
    return threshold, under / max(members[free].sum().item(), 1)


def without_ties(graph: ChannelGraph, scores: Tensor) -> Tensor:
    """(G,) scores of which equal ones are told apart, so that a threshold can stop anywhere: raised by at most a
    billionth, in even steps through each axis. Where all are equal, as in a net that was not trained, a cut takes the
    same share of every layer. 0 stays 0."""
    raised = scores.clone()
    for axis in axes(graph):
        _, ties, counts = scores[axis].unique(return_inverse=True, return_counts=True)
        order = ties.argsort(stable=True)
        place = torch.empty(len(axis), dtype=scores.dtype)
        place[order] = (torch.arange(len(axis)) - (counts.cumsum(0) - counts)[ties[order]]).to(scores.dtype)
        raised[axis] = scores[axis] * (1 + TIE * place / counts[ties])
    return raised


def in_blocks(graph: ChannelGraph, scores: Tensor, divisor: int) -> Tensor:
    """(G,) scores for which any threshold leaves widths that are multiples of `divisor`, as far as the dense widths
    are.

    The groups of each axis (interchangeable channels) are ranked and taken in blocks of `divisor`, best first; each
    takes the score of its block's best. So alignment is decided inside the ranking, not by rounding after it.
    """
    if divisor == 1:
        return scores
    scores = scores.clone()
    for axis in axes(graph):
        ranked = axis[scores[axis].argsort(descending=True, stable=True)]
        best = torch.arange(len(ranked)) // divisor * divisor
        scores[ranked] = scores[ranked[best]]
    return scores


def obtain_bn_mask(gamma: Tensor, threshold: float) -> Tensor:
    """(C,) bool: |gamma| >= threshold, and not exactly 0."""
    return (gamma.abs() >= threshold) & (gamma != 0)


def obtain_filters_mask(graph: ChannelGraph, scores: Tensor, members: Tensor, threshold: float, layer_keep: float = 0.0,
                        divisor: int = 1) -> Cut:
    """Keep the groups that reach the threshold. A group of score 0 always goes, but every layer keeps its best
    channels: one, or a share `layer_keep` of them, in whole blocks of `divisor` (see in_blocks, whose scores belong
    here then)."""
    keep = obtain_bn_mask(scores, threshold) | ~candidates(graph, members)
    rescued = []
    for layer_i in graph.prunable:
        group = graph.outputs[layer_i].unique()
        least = min(math.ceil(least_kept(graph, layer_i, layer_keep) / divisor) * divisor, len(group))
        if keep[group].sum() < least:
            keep[group[scores[group].argsort(descending=True, stable=True)[:least]]] = True
            rescued.append(layer_i)
    return Cut(keep, threshold, rescued)


def least_kept(graph: ChannelGraph, layer_i: int, layer_keep: float) -> int:
    """How many channels a layer keeps in any case: one, or a share `layer_keep` of them."""
    return max(1, math.ceil(layer_keep * len(graph.outputs[layer_i].unique())))


def make_room(
    graph: ChannelGraph, keep: Tensor, staying: Tensor, scores: Tensor, divisor: int, layer_keep: float = 0.0
) -> Tensor:
    """(G,) bool `keep`, less the weakest channels of axes whose width a carrier took off a multiple of `divisor`;
    where that would leave a layer with less than it keeps, plus the best of its removed ones.

    staying: (G,) bool, keep and carriers; scores: (G,) as they were before in_blocks.
    """
    keep = keep.clone()
    for axis in axes(graph):
        width, kept = int(staying[axis].sum()), axis[keep[axis]]
        over = width % divisor
        if not over or width == len(axis) or not len(kept):
            continue
        room = min(
            int(keep[graph.outputs[i].unique()].sum()) - least_kept(graph, i, layer_keep)
            for i in graph.prunable
            if torch.isin(axis[0], graph.outputs[i])
        )
        if over < len(kept) and over <= room:
            keep[kept[scores[kept].argsort(stable=True)[:over]]] = False
        else:
            gone = axis[~keep[axis]]
            keep[gone[scores[gone].argsort(descending=True, stable=True)[:divisor - over]]] = True
    return keep


def thresholds(scores: Tensor, free: Tensor, most: int | None = None, start: float = 0.0) -> list[float]:
    """Every threshold that cuts something else, ascending: the distinct scores of the groups in `free` (G,) bool, and
    one above them all. most: only about as many, evenly spread over the channels; start: none below it."""
    values = scores[free & (scores >= start)].sort().values
    if not len(values):  # start cuts everything already
        return [start]
    if most is not None and len(values) > most:
        values = values[torch.linspace(0, len(values) - 1, most).round().long()]
    levels = values.unique().tolist()
    return levels + [levels[-1] * 2 + 1]


def curve_levels(scores: Tensor, free: Tensor, count: int) -> list[float]:
    """At most `count` thresholds from mild to strong, evenly spread over the channels that are not dead (score 0). The
    first cuts just the dead ones where there are any; the last cuts all that may go."""
    dead = bool((scores[free] == 0).any())
    # the last but one leaves a single group, which stays in any case
    levels = thresholds(scores, free & (scores > 0), count + 1 - dead)
    return levels[0 if dead else 1:-2] + levels[-1:]


def mildest(levels: Sequence[float], fits: Callable[[float], bool]) -> float | None:
    """The first of ascending `levels` for which fits(level); None when the last does not. fits must hold for all levels
    after one for which it holds; log2(n) calls."""
    if not fits(levels[-1]):
        return None
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(levels[middle]) else (middle + 1, high)
    return levels[low]


def strongest(levels: Sequence[float], holds: Callable[[float], bool]) -> float | None:
    """The last of ascending `levels` up to which holds(level) was seen; None when the first does not hold. By
    bisection, as if holds could not come back once lost."""
    if not holds(levels[0]):
        return None
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(levels[middle]) else (low, middle - 1)
    return levels[low]


def starved_layers(graph: ChannelGraph, gammas: dict[int, Tensor], keep: Tensor) -> list[int]:
    """Prunable layers that keep less than STARVED of the channels whose gamma is not 0. gammas: layer -> (C_i,); keep:
    (G,) bool."""
    found = []
    for layer_i in graph.prunable:
        alive = gammas[layer_i].detach().cpu() != 0
        kept = alive & keep[graph.outputs[layer_i]]
        if kept.sum() < STARVED * alive.sum():
            found.append(layer_i)
    return found


def describe_sparsity(graph: ChannelGraph, gammas: dict[int, Tensor], percent: float) -> tuple[float, str]:
    """What cutting `percent` of the channels by |gamma| would take, see describe_cut. Ties count as cut, so equal
    gammas are called what they are: not sparse. gammas: layer -> (C_i,) for graph.normalised."""
    scores = reduce_members(graph, {i: gamma.detach().abs() for i, gamma in gammas.items()})
    members = member_count(graph)
    free = candidates(graph, members).nonzero().flatten()
    order = free[scores[free].argsort(stable=True)]
    gone = torch.zeros(len(graph.frozen), dtype=torch.bool)
    gone[order[members[order].cumsum(0) <= channels_of(percent, members[free])]] = True
    return describe_cut(graph, gammas, gone, f"percent {percent:g}")


def describe_cut(graph: ChannelGraph, gammas: dict[int, Tensor], gone: Tensor, name: str) -> tuple[float, str]:
    """The energy that a cut takes, and a line that says in words whether it is likely to be free.

    The energy: the squared gammas of the groups `gone` (G,) bool as a share of all prunable ones. Up to FREE a cut goes
    unnoticed; see COSTLY. gammas: layer -> (C_i,) for graph.normalised.
    """
    groups = torch.cat([graph.outputs[i] for i in graph.normalised])
    values = torch.cat([gammas[i].detach().double().abs().cpu() for i in graph.normalised])
    free = ~graph.frozen[groups]
    groups, values = groups[free], values[free]
    energy = (values[gone[groups]].square().sum() / values.square().sum().clamp(min=1e-30)).item()
    small, zero = (values < SMALL * values.max()).double().mean().item(), (values == 0).double().mean().item()
    verdict = (
        "it should cost nothing"
        if energy <= FREE
        else "it may cost some mAP before fine-tuning"
        if energy < COSTLY
        else "it would cost mAP: go on training with -sr"
    )
    return energy, (f"{small:.0%} of prunable gammas are under {SMALL:g} x the largest ({zero:.0%} exactly 0); {name} "
                    f"cuts channels with {energy:.2g} of the squared gammas: {verdict}")
