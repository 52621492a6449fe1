"""How much each group of channels matters: the scores that a cut is made by, lowest first.

Every score is (G,) float64, one value a group of utils.pruning.channel_graph. Score 0 is kept for groups whose gammas
are all exactly 0: they go whatever the threshold, and whatever else a score says.
"""

from typing import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from utils.batch_norm import gammas_by_layer
from utils.parse_config import integer
from utils.pruning.blocks import Block
from utils.pruning.channel_graph import ChannelGraph
from utils.shapes import layer_costs

SCORES = ("gamma", "gamma-norm", "taylor", "l1", "l2", "random")
NORMS = ("max", "mean", "l2")
TINY = 1e-30  # the least score of a channel that is not dead


def member_count(graph: ChannelGraph) -> Tensor:
    """(G,) long: in how many channels of convolutions with batch norm a group is present."""
    members = torch.zeros(len(graph.frozen), dtype=torch.long)
    for layer_i in graph.normalised:
        group = graph.outputs[layer_i]
        members.index_add_(0, group, torch.ones_like(group))
    return members


def reduce_members(graph: ChannelGraph, values: dict[int, Tensor], norm: str = "max") -> Tensor:
    """(G,) one value a group from layer -> (C_i,) non-negative values of its members, by "max", "mean" or "l2" (root
    mean square).

    The largest is the default: a tied channel may go only when no member needs it. Means, not sums, so that groups of
    many members and of few can be ranked together.
    """
    if norm not in NORMS:
        raise ValueError(f"found norm {norm!r}, expected one of {', '.join(NORMS)}")
    reduced = torch.zeros(len(graph.frozen), dtype=torch.float64)
    for layer_i in graph.normalised:
        group = graph.outputs[layer_i]
        own = values[layer_i].detach().double().cpu()
        if norm == "max":
            reduced.scatter_reduce_(0, group, own, "amax")
        else:
            reduced.index_add_(0, group, own.square() if norm == "l2" else own)
    if norm != "max":
        reduced /= member_count(graph).clamp(min=1)
    return reduced.sqrt() if norm == "l2" else reduced


def axes(graph: ChannelGraph) -> list[Tensor]:
    """The groups that may be cut, split by the layers they are present in: two groups of an axis are interchangeable
    for every width in the net. A list of (n,) long index tensors; a plain layer has one axis, the layers of a residual
    stage have one together."""
    layers: dict[int, list[int]] = {}
    for layer_i in graph.normalised:
        for group in graph.outputs[layer_i].tolist():
            layers.setdefault(group, []).append(layer_i)
    found: dict[tuple, list[int]] = {}
    frozen = graph.frozen.tolist()
    for group, present in sorted(layers.items()):
        if not frozen[group]:
            found.setdefault(tuple(present), []).append(group)
    return [torch.tensor(groups) for groups in found.values()]


def taylor(model: nn.Module, graph: ChannelGraph, batches: Iterable, loss_of: Callable) -> Tensor:
    """(G,) first-order estimate of what the loss changes when a group's gammas go to 0 (Molchanov et al. 2019, eq. 8,
    at the batch norms): root mean square over batches of the sum over members of gamma x gradient. The members go
    together, so they are summed first.

    batches: of (images, targets); loss_of(model, images, targets) -> scalar. The model is left as it was, without
    gradients.
    """
    def changes(norms: dict[int, nn.BatchNorm2d]) -> Tensor:
        """(G,) of one batch."""
        change = torch.zeros(len(graph.frozen), dtype=torch.float64)
        for layer_i in graph.normalised:
            change.index_add_(0, graph.outputs[layer_i], _first_order(norms[layer_i].weight))
        return change

    return _root_mean_square(model, batches, loss_of, changes)


def taylor_of_blocks(model: nn.Module, blocks: list[Block], batches: Iterable, loss_of: Callable) -> Tensor:
    """(blocks,) the same for what goes with a residual block: gamma and beta of its last batch norm, all channels
    together."""
    def changes(norms: dict[int, nn.BatchNorm2d]) -> Tensor:
        """(blocks,) of one batch."""
        return torch.stack(
            [(_first_order(norms[block.last].weight) + _first_order(norms[block.last].bias)).sum() for block in blocks]
        )

    return _root_mean_square(model, batches, loss_of, changes)


def _first_order(parameter: nn.Parameter) -> Tensor:
    """(C,) parameter x gradient; zeros where no head depends on the layer."""
    return (parameter * (0 if parameter.grad is None else parameter.grad)).detach().double().cpu()


def _root_mean_square(model: nn.Module, batches: Iterable, loss_of: Callable, changes: Callable) -> Tensor:
    """Over batches, of what `changes` makes of the batch norms (layer -> module) after a backward pass."""
    norms = {layer_i: bn for layer_i, _, bn in model.convolutions() if bn is not None}
    squares = []
    for images, targets in batches:
        model.zero_grad(set_to_none=True)
        loss_of(model, images, targets).backward()
        squares.append(changes(norms).square())
    model.zero_grad(set_to_none=True)
    if not squares:
        raise ValueError("--score taylor: found no training batch, expected some to take gradients on")
    return torch.stack(squares).mean(0).sqrt()


def channel_values(kind: str, model: nn.Module) -> dict[int, Tensor]:
    """layer -> (C_i,) of every convolution with batch norm: the norm of each channel's kernel over the root of its size
    for "l1" and "l2" (Li et al. 2017), |gamma| for the scores made from gammas."""
    if kind not in ("l1", "l2"):
        return gammas_by_layer(model)
    order = int(kind[1])
    kernels = {i: conv.weight.detach().double().flatten(1) for i, conv, bn in model.convolutions() if bn is not None}
    return {i: kernel.norm(order, dim=1) / kernel.shape[1] ** (1 / order) for i, kernel in kernels.items()}


def group_scores(kind: str, model: nn.Module, graph: ChannelGraph, norm: str = "max",
                 first_order: Tensor | None = None, seed: int = 0) -> Tensor:
    """(G,) score of every group.

    "gamma": |gamma| (Liu et al. 2017); "gamma-norm": over the mean of its axis, so that no layer is emptied for its
    scale; "taylor": see there (needs first_order, (G,)); "l1", "l2": see channel_values; "random": a baseline.
    norm: how members are reduced, see reduce_members. Raises ValueError on another kind.
    """
    if kind not in SCORES:
        raise ValueError(f"found score {kind!r}, expected one of {', '.join(SCORES)}")
    score = reduce_members(graph, channel_values(kind, model), norm)
    if kind == "gamma-norm":
        for axis in axes(graph):
            score[axis] /= score[axis].mean().clamp(min=TINY)
    elif kind == "taylor":
        score = first_order.clone()
    elif kind == "random":
        score = torch.from_numpy(np.random.default_rng(seed).random(len(graph.frozen)))
    dead = reduce_members(graph, gammas_by_layer(model)) == 0
    return score.clamp(min=TINY).masked_fill(dead, 0.0)


def block_scores(kind: str, model: nn.Module, graph: ChannelGraph, blocks: list[Block],
                 first_order: Tensor | None = None, seed: int = 0) -> Tensor:
    """(blocks,) the same scores for whole residual blocks: the mean over the channels that a block adds to its stream,
    as the last batch norm of its branch or its kernels give them; "gamma-norm": over the mean of the blocks of that
    stream; "taylor": see taylor_of_blocks (needs first_order)."""
    values = channel_values(kind, model)
    score = torch.stack([values[block.last].double().mean().cpu() for block in blocks])
    if kind == "gamma-norm":
        streams = [tuple(graph.outputs[block.last].tolist()) for block in blocks]
        means = {stream: score[[own == stream for own in streams]].mean() for stream in streams}
        score = score / torch.stack([means[stream] for stream in streams]).clamp(min=TINY)
    elif kind == "taylor":
        score = first_order
    elif kind == "random":
        score = torch.from_numpy(np.random.default_rng(seed).random(len(blocks)))
    return score


def summed_over_groups(kind: str, graph: ChannelGraph, scores: Tensor) -> Tensor:
    """(G,) the squares of group_scores `scores` (G,), summed over members: squared gammas, or squared changes of the
    loss (Molchanov et al. 2019), of which a "taylor" score holds all members already. What a cut is said to take
    (utils.pruning.selection.describe_cut)."""
    return scores.square() * (1 if kind == "taylor" else member_count(graph))


def summed_over_blocks(kind: str, model: nn.Module, graph: ChannelGraph, blocks: list[Block],
                       first_order: Tensor | None = None) -> Tensor:
    """(blocks,) float64, the same for residual blocks: over the channels that each adds to its stream. first_order: of
    taylor_of_blocks, for "taylor"."""
    if not blocks:
        return torch.zeros(0, dtype=torch.float64)
    if kind in ("gamma", "l1", "l2"):
        values = channel_values(kind, model)
        return torch.stack([values[block.last].double().square().sum().cpu() for block in blocks])
    squared = block_scores(kind, model, graph, blocks, first_order).double().square()
    return squared if kind == "taylor" else squared * torch.tensor([len(graph.outputs[b.last]) for b in blocks])


def saved_macs(defs: list[dict], graph: ChannelGraph, size: tuple[int, int]) -> Tensor:
    """(G,) float64 multiply-adds that go with each group of channels: its rows in its own convolutions, its columns in
    those that read it. First order: a row and a column that go together share a weight, which is counted twice.

    size: (width, height) of the image.
    """
    saved = torch.zeros(len(graph.frozen), dtype=torch.float64)
    for layer_i, (section, cost) in enumerate(zip(defs[1:], layer_costs(defs, *size))):
        if section["type"] != "convolutional":
            continue
        outputs, inputs = graph.outputs[layer_i], graph.inputs(layer_i, section)
        read = [inputs] if integer(section, "groups", 1) < len(inputs) else []  # depthwise: the row is the column
        for groups in [outputs, *read]:
            saved.index_add_(0, groups, torch.full(groups.shape, cost.macs / len(groups), dtype=torch.float64))
    return saved
