"""How much each group of channels matters: the scores that a cut is made by, lowest first.

Every score is (G,) float64, one value a group of utils.prune_graph. Score 0 is kept for groups whose gammas are all exactly 0: they
go whatever the threshold, and whatever else a score says.
"""

from typing import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from utils.prune_graph import ChannelGraph

SCORES = ("gamma", "gamma-norm", "gamma-cost", "taylor", "l1", "l2", "random")
NORMS = ("max", "mean", "l2")
TINY = 1e-30  # the least score of a channel that is not dead


def member_count(graph: ChannelGraph) -> Tensor:
    """(G,) long: in how many channels of convolutions with batch norm a group is present."""
    members = torch.zeros(len(graph.frozen), dtype=torch.long)
    for layer_i in graph.normalised:
        group = torch.from_numpy(graph.outputs[layer_i])
        members.index_add_(0, group, torch.ones_like(group))
    return members


def reduce_members(graph: ChannelGraph, values: dict[int, Tensor], norm: str = "max") -> Tensor:
    """(G,) one value a group from layer -> (C_i,) non-negative values of its members, by "max", "mean" or "l2" (root mean square).

    The largest is the default: a tied channel may go only when no member needs it. Means, not sums, so that groups of many
    members and of few can be ranked together.
    """
    if norm not in NORMS:
        raise ValueError(f"found norm {norm!r}, expected one of {', '.join(NORMS)}")
    reduced = torch.zeros(len(graph.frozen), dtype=torch.float64)
    for layer_i in graph.normalised:
        group = torch.from_numpy(graph.outputs[layer_i])
        own = values[layer_i].detach().double().cpu()
        if norm == "max":
            reduced.scatter_reduce_(0, group, own, "amax")
        else:
            reduced.index_add_(0, group, own.square() if norm == "l2" else own)
    if norm != "max":
        reduced /= member_count(graph).clamp(min=1)
    return reduced.sqrt() if norm == "l2" else reduced


def cells(graph: ChannelGraph) -> list[Tensor]:
    """The groups that may be cut, split by the layers they are present in: two groups of a cell are interchangeable for every
    width in the net. A list of (n,) long index tensors; a plain layer is one cell, the layers of a residual stage are one."""
    layers: dict[int, list[int]] = {}
    for layer_i in graph.normalised:
        for group in graph.outputs[layer_i].tolist():
            layers.setdefault(group, []).append(layer_i)
    found: dict[tuple, list[int]] = {}
    for group, present in sorted(layers.items()):
        if not graph.frozen[group]:
            found.setdefault(tuple(present), []).append(group)
    return [torch.tensor(groups) for groups in found.values()]


def taylor(model: nn.Module, graph: ChannelGraph, batches: Iterable, loss_of: Callable) -> Tensor:
    """(G,) first-order estimate of what the loss changes when a group's gammas go to 0 (Molchanov et al. 2019, eq. 8, at the batch
    norms): root mean square over batches of the sum over members of gamma x gradient. The members go together, so they are summed first.

    batches: of (images, targets); loss_of(model, images, targets) -> scalar. The model is left as it was, without gradients.
    """
    norms = {layer_i: bn for layer_i, _, bn in model.convolutions() if bn is not None}
    total, count = torch.zeros(len(graph.frozen), dtype=torch.float64), 0
    for images, targets in batches:
        model.zero_grad(set_to_none=True)
        loss_of(model, images, targets).backward()
        change = torch.zeros_like(total)
        for layer_i in graph.normalised:
            gamma = norms[layer_i].weight
            if gamma.grad is None:  # no head depends on this layer
                continue
            change.index_add_(0, torch.from_numpy(graph.outputs[layer_i]), (gamma * gamma.grad).detach().double().cpu())
        total, count = total + change.square(), count + 1
    model.zero_grad(set_to_none=True)
    return (total / max(count, 1)).sqrt()


def gammas_by_layer(model: nn.Module) -> dict[int, Tensor]:
    """layer -> (C_i,) |gamma| of every convolution with batch norm."""
    return {layer_i: bn.weight.detach().abs() for layer_i, _, bn in model.convolutions() if bn is not None}


def group_scores(kind: str, model: nn.Module, graph: ChannelGraph, norm: str = "max", cost: Tensor | None = None,
                 first_order: Tensor | None = None, seed: int = 0) -> Tensor:
    """(G,) score of every group.

    "gamma": |gamma| (Liu et al. 2017); "gamma-norm": over the mean of its cell, so that no layer is emptied for its scale;
    "gamma-cost": |gamma| / sqrt(cost), since the loss rises with the square of what is removed and a cut should buy as much as it
    can for it (needs cost, (G,)); "taylor": see there (needs first_order, (G,)); "l1", "l2": norm of the kernel (Li et al. 2017) over
    the root of its size; "random": a baseline. norm: how members are reduced, see reduce_members. Raises ValueError on another kind.
    """
    gamma = reduce_members(graph, gammas_by_layer(model), norm)
    if kind == "gamma":
        score = gamma.clone()
    elif kind == "gamma-norm":
        score = gamma.clone()
        for cell in cells(graph):
            score[cell] /= gamma[cell].mean().clamp(min=TINY)
    elif kind == "gamma-cost":
        score = gamma / (cost / cost[cost > 0].mean()).sqrt().clamp(min=1e-6)
    elif kind == "taylor":
        score = first_order.clone()
    elif kind in ("l1", "l2"):
        order = 1 if kind == "l1" else 2
        sizes = {i: conv.weight.detach().double().flatten(1) for i, conv, bn in model.convolutions() if bn is not None}
        score = reduce_members(graph, {i: w.norm(order, dim=1) / w.shape[1] ** (1 / order) for i, w in sizes.items()}, norm)
    elif kind == "random":
        score = torch.from_numpy(np.random.default_rng(seed).random(len(graph.frozen)))
    else:
        raise ValueError(f"found score {kind!r}, expected one of {', '.join(SCORES)}")
    dead = reduce_members(graph, gammas_by_layer(model)) == 0
    return score.clamp(min=TINY).masked_fill(dead, 0.0)
