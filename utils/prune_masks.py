"""From gammas to the channels that stay: group scores, a global threshold, masks. Pure functions, no model.

G groups of channels (utils.prune_graph), C_i channels of layer i. A group counts once per member channel everywhere, so that
a percentage means channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.prune_graph import ChannelGraph


@dataclass(frozen=True)
class Cut:
    """What a threshold leaves. keep: (G,) bool; rescued: layers that the threshold alone would have emptied."""

    keep: Tensor
    threshold: float
    rescued: list[int]

    def masks(self, graph: ChannelGraph) -> dict[int, Tensor]:
        """(C_i,) bool of every convolution with batch norm: True for the channels that stay."""
        return {i: self.keep[torch.from_numpy(graph.outputs[i])] for i in graph.normalised}


def group_scores(graph: ChannelGraph, gammas: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """(score, members) of every group, (G,) each: the largest |gamma| of its members, and how many there are.

    The largest, because a tied channel may go only when no member needs it. gammas: layer -> (C_i,) for graph.normalised.
    """
    scores = torch.zeros(len(graph.frozen), dtype=torch.float64)
    members = torch.zeros(len(graph.frozen), dtype=torch.long)
    for layer_i in graph.normalised:
        group = torch.from_numpy(graph.outputs[layer_i])
        scores.scatter_reduce_(0, group, gammas[layer_i].detach().abs().double().cpu(), "amax")
        members.index_add_(0, group, torch.ones_like(group))
    return scores, members


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


def obtain_bn_mask(gamma: Tensor, threshold: float) -> Tensor:
    """(C,) bool: |gamma| >= threshold, and not exactly 0."""
    return (gamma.abs() >= threshold) & (gamma != 0)


def obtain_filters_mask(graph: ChannelGraph, scores: Tensor, members: Tensor, threshold: float) -> Cut:
    """Keep the groups that reach the threshold; a group of score 0 always goes, and every layer keeps its best channel."""
    keep = obtain_bn_mask(scores, threshold) | ~candidates(graph, members)
    rescued = []
    for layer_i in graph.prunable:
        group = torch.from_numpy(graph.outputs[layer_i])
        if not keep[group].any():
            keep[group[scores[group].argmax()]] = True
            rescued.append(layer_i)
    return Cut(keep, threshold, rescued)
