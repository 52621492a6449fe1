"""From scores to the channels that stay: a global threshold, what every layer keeps, masks. Pure functions, no model.

G groups of channels (utils.prune_graph), C_i channels of layer i. A group counts once per member channel everywhere, so that
a percentage means channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.prune_graph import ChannelGraph
from utils.prune_scores import cells


@dataclass(frozen=True)
class Cut:
    """What a threshold leaves. keep: (G,) bool; rescued: layers that the threshold alone would have left with less than they keep."""

    keep: Tensor
    threshold: float
    rescued: list[int]

    def masks(self, graph: ChannelGraph) -> dict[int, Tensor]:
        """(C_i,) bool of every convolution with batch norm: True for the channels that stay."""
        return {i: self.keep[torch.from_numpy(graph.outputs[i])] for i in graph.normalised}


def candidates(graph: ChannelGraph, members: Tensor) -> Tensor:
    """(G,) bool: groups that may be cut."""
    return torch.from_numpy(~graph.frozen) & (members > 0)


def global_threshold(scores: Tensor, members: Tensor, percent: float) -> float:
    """Score under which a share `percent` of the channels lies (Liu et al. 2017, section 3.2).

    scores, members: of the groups that may be cut. With ties fewer channels than asked lie under it. Raises ValueError
    unless 0 <= percent < 1.
    """
    if not 0 <= percent < 1:
        raise ValueError(f"found percent {percent}, expected a share from 0 to below 1")
    order = scores.argsort()
    place = members[order].cumsum(0)  # channels up to and with each group
    cut = int(int(members.sum()) * percent)
    return scores[order][(place > cut).nonzero()[0, 0]].item()


def percent_limit(graph: ChannelGraph, scores: Tensor, members: Tensor) -> tuple[float, float]:
    """(threshold, share of channels under it) from which on some layer would be left empty."""
    free = candidates(graph, members)
    threshold = min(scores[torch.from_numpy(graph.outputs[i])].max().item() for i in graph.prunable)
    under = members[free & (scores < threshold)].sum().item()
    return threshold, under / max(members[free].sum().item(), 1)


def in_blocks(graph: ChannelGraph, scores: Tensor, divisor: int) -> Tensor:
    """(G,) scores for which any threshold leaves widths that are multiples of `divisor`, as far as the dense widths are.

    The groups of each cell (interchangeable channels) are ranked and taken in blocks of `divisor`, best first; each takes the
    score of its block's best. So alignment is decided inside the ranking, not by rounding after it.
    """
    if divisor == 1:
        return scores
    scores = scores.clone()
    for cell in cells(graph):
        ranked = cell[scores[cell].argsort(descending=True, stable=True)]
        best = torch.arange(len(ranked)) // divisor * divisor
        scores[ranked] = scores[ranked[best]]
    return scores


def obtain_bn_mask(gamma: Tensor, threshold: float) -> Tensor:
    """(C,) bool: |gamma| >= threshold, and not exactly 0."""
    return (gamma.abs() >= threshold) & (gamma != 0)


def obtain_filters_mask(graph: ChannelGraph, scores: Tensor, members: Tensor, threshold: float, layer_keep: float = 0.0,
                        divisor: int = 1) -> Cut:
    """Keep the groups that reach the threshold. A group of score 0 always goes, but every layer keeps its best channels: one, or a
    share `layer_keep` of them, in whole blocks of `divisor` (see in_blocks, whose scores belong here then)."""
    keep = obtain_bn_mask(scores, threshold) | ~candidates(graph, members)
    rescued = []
    for layer_i in graph.prunable:
        group = torch.from_numpy(graph.outputs[layer_i]).unique()
        least = min(math.ceil(least_kept(graph, layer_i, layer_keep) / divisor) * divisor, len(group))
        if keep[group].sum() < least:
            keep[group[scores[group].argsort(descending=True, stable=True)[:least]]] = True
            rescued.append(layer_i)
    return Cut(keep, threshold, rescued)


def least_kept(graph: ChannelGraph, layer_i: int, layer_keep: float) -> int:
    """How many channels a layer keeps in any case: one, or a share `layer_keep` of them."""
    return max(1, math.ceil(layer_keep * len(set(graph.outputs[layer_i].tolist()))))


def make_room(graph: ChannelGraph, keep: Tensor, staying: Tensor, scores: Tensor, divisor: int, layer_keep: float = 0.0) -> Tensor:
    """(G,) bool `keep`, less the weakest channels of cells whose width a carrier took off a multiple of `divisor`; where that
    would leave a layer with less than it keeps, plus the best of its removed ones.

    staying: (G,) bool, keep and carriers; scores: (G,) as they were before in_blocks.
    """
    keep = keep.clone()
    outputs = {i: torch.from_numpy(graph.outputs[i]) for i in graph.prunable}
    for cell in cells(graph):
        width, kept = int(staying[cell].sum()), cell[keep[cell]]
        over = width % divisor
        if not over or width == len(cell) or not len(kept):
            continue
        room = min(int(keep[groups.unique()].sum()) - least_kept(graph, i, layer_keep) for i, groups in outputs.items() if torch.isin(cell[0], groups))
        if over < len(kept) and over <= room:
            keep[kept[scores[kept].argsort(stable=True)[:over]]] = False
        else:
            gone = cell[~keep[cell]]
            keep[gone[scores[gone].argsort(descending=True, stable=True)[:divisor - over]]] = True
    return keep
