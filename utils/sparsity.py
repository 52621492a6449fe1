"""Sparsity on batch-norm gammas (Liu et al. 2017, section 3; Ye et al. 2018, section 4), and how far it has come."""

import torch
from torch import Tensor, nn

from utils.prune_graph import ChannelGraph
from utils.prune_masks import candidates, group_scores

COSTLY = 1e-2  # share of the squared gammas from which a cut has been seen to cost mAP before fine-tuning
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)


def gammas_of(model: nn.Module, layers: list[int]) -> list[nn.Parameter]:
    """Batch-norm gammas, (C_i,) each, of the given layers of a Darknet."""
    norms = {layer_i: bn for layer_i, _, bn in model.convolutions()}
    return [norms[layer_i].weight for layer_i in layers]


@torch.no_grad()
def add_l1_subgradient(gammas: list[nn.Parameter], s: float) -> None:
    """Add s x sign(gamma) to the gradients: once an optimiser step, after unscaling and clipping."""
    for gamma in gammas:
        if gamma.grad is None:
            gamma.grad = torch.zeros_like(gamma)
        gamma.grad.add_(gamma.sign(), alpha=s)


@torch.no_grad()
def soft_threshold(gammas: list[nn.Parameter], amount: float) -> None:
    """The proximal step of L1, after the optimiser's: move every gamma towards 0 by `amount`, and stop there."""
    for gamma in gammas:
        gamma.copy_(gamma.sign() * (gamma.abs() - amount).clamp(min=0))


def proximal_amount(s: float, learning_rate: float, momentum: float) -> float:
    """Threshold a step that drifts as far as the sub-gradient does: momentum sums a constant gradient to 1 / (1 - momentum)."""
    return learning_rate * s / (1 - momentum)


def drift_epochs(s: float, learning_rate: float, momentum: float, steps_per_epoch: int, start: float) -> float:
    """Epochs in which L1 alone moves a gamma from `start` to 0 at a constant learning rate."""
    return start / (proximal_amount(s, learning_rate, momentum) * steps_per_epoch)


def gamma_quantiles(gammas: list[Tensor]) -> list[float]:
    """QUANTILES of |gamma| over all channels."""
    values = torch.cat([gamma.detach().abs().float().cpu() for gamma in gammas])
    return torch.quantile(values, torch.tensor(QUANTILES)).tolist()


def zero_share(gammas: list[Tensor]) -> float:
    """Share of the gammas that are exactly 0."""
    return torch.cat([gamma.detach() == 0 for gamma in gammas]).float().mean().item()


def describe_sparsity(graph: ChannelGraph, gammas: dict[int, Tensor], percent: float) -> tuple[float, str]:
    """What cutting `percent` of the channels would take, and a line that says in words whether it is likely to be free.

    gammas: layer -> (C_i,) for graph.normalised. The measure is the energy of the weakest channels, groups included: their squared
    gammas as a share of all prunable ones. Ties count as cut, so equal gammas are called what they are: not sparse. Below 1e-4 a
    cut goes unnoticed; see COSTLY.
    """
    gammas = {i: gamma.detach().double().cpu() for i, gamma in gammas.items()}
    scores, members = group_scores(graph, gammas)
    free = candidates(graph, members)
    groups = torch.cat([torch.from_numpy(graph.outputs[i]) for i in graph.normalised])
    values = torch.cat([gammas[i].abs() for i in graph.normalised])
    energies = torch.zeros_like(scores).index_add_(0, groups, values.square())[free]  # of each group that may be cut
    order = scores[free].argsort(stable=True)
    gone = order[members[free][order].cumsum(0) <= int(int(members[free].sum()) * percent)]
    energy = (energies[gone].sum() / energies.sum().clamp(min=1e-30)).item()
    values = values[free[groups]]
    small, zero = (values < 0.01 * values.max()).double().mean().item(), (values == 0).double().mean().item()
    verdict = "it should cost nothing" if energy < 1e-4 else "it may cost some mAP before fine-tuning" if energy < COSTLY else \
        "it would cost mAP: go on training with -sr"
    return energy, (f"{small:.0%} of prunable gammas are under 0.01 x the largest ({zero:.0%} exactly 0); percent {percent:g} cuts "
                    f"channels with {energy:.2g} of the squared gammas: {verdict}")


def describe_budget(gammas: list[Tensor], args, steps_per_epoch: int) -> list[str]:
    """Lines that say how many epochs -sr needs with these arguments, which s would fit, and what gammas near 1 do."""
    start = torch.cat([gamma.detach().abs().flatten() for gamma in gammas]).median().item()
    epochs = drift_epochs(args.s, args.lr, args.momentum, steps_per_epoch, start)
    line = (f"sparsity: {args.sparsity} with s = {args.s:g} on {len(gammas)} layers ({args.strategy}); at lr {args.lr:g} it moves a gamma "
            f"from {start:.3g} to 0 in {epochs:.1f} epochs of full learning rate")
    if epochs > args.epochs:
        line += f"; {args.epochs} epochs are too few: s = {args.s * epochs / args.epochs:.2g} would fit"
    lines = [line]
    if args.rescale == "none" and start > 0.3:
        lines.append("sparsity: gammas start near 1 and will all fall together at first; a short run selects nothing (--rescale auto shrinks "
                     "them without changing the function)")
    return lines


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimiser groups: kernels decay; gammas, betas and biases do not (decay on a gamma would be a second penalty)."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
