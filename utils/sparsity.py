"""Sparsity on batch-norm gammas (Liu et al. 2017, section 3; Ye et al. 2018, section 4), and how far it has come."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.prune_graph import ChannelGraph
from utils.prune_masks import candidates
from utils.prune_scores import member_count, reduce_members

COSTLY = 1e-2  # share of the squared gammas from which a cut has been seen to cost mAP before fine-tuning
SMALL = 0.01  # gammas under this share of the largest count as gone
POLARIZE_T = 1.2  # weight of L1 against the spread; the paper tunes it between 1.0 and 1.4
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)


def gammas_of(model: nn.Module, layers: list[int]) -> list[nn.Parameter]:
    """Batch-norm gammas, (C_i,) each, of the given layers of a Darknet."""
    norms = {layer_i: bn for layer_i, _, bn in model.convolutions()}
    return [norms[layer_i].weight for layer_i in layers]


@dataclass(frozen=True)
class Penalty:
    """The sparsity term of a run. kind, s, schedule and weight are train.py's --sparsity, --s, --s-schedule, --sparsity-weight.

    "l1": s x sign(gamma) is added to the gradients, once an optimiser step, after unscaling and clipping. "prox": the same drift
    as a soft threshold after the step, which gives exact zeros. "polarize" (Zhuang et al. 2020, eq. 3): POLARIZE_T x L1 minus the
    spread round the mean, which lets the large gammas go and pushes the small ones all the harder; also as a soft threshold.
    weights: one factor a channel for all layers in a row, (C,), mean 1; None: all alike.
    """

    kind: str
    s: float
    schedule: str = "constant"
    weights: Tensor | None = None

    def pull(self, gammas: Tensor, progress: float) -> Tensor:
        """(C,) force that moves each |gamma| towards 0, in units of the loss. gammas: (C,); progress: share of the run, 0 to 1."""
        size = gammas.abs()
        pull = torch.full_like(size, self.s)
        if self.kind == "polarize":
            side = (size - size.mean()).sign()
            pull = pull * (POLARIZE_T - side + side.mean())
        if self.weights is not None:
            pull = pull * self.weights
        if self.schedule == "decay":
            pull = pull * (1 - progress)
        elif self.schedule == "ease":  # whoever is down by half-time stays down; the survivors recover
            pull = torch.where(size > SMALL * size.max(), pull * min(1.0, 2 * (1 - progress)), pull)
        return pull

    @torch.no_grad()
    def add_gradient(self, gammas: list[nn.Parameter], progress: float) -> None:
        """"l1" only: add the sub-gradient; call between clipping and the optimiser's step."""
        if self.kind != "l1" or not gammas:
            return
        for gamma, pull in _by_layer(gammas, self.pull(_flat(gammas), progress)):
            if gamma.grad is None:
                gamma.grad = torch.zeros_like(gamma)
            gamma.grad.add_(gamma.sign() * pull)

    @torch.no_grad()
    def shrink(self, gammas: list[nn.Parameter], progress: float, learning_rate: float, momentum: float) -> None:
        """"prox" and "polarize": the proximal step; call after the optimiser's."""
        if self.kind == "l1" or not gammas:
            return
        for gamma, pull in _by_layer(gammas, self.pull(_flat(gammas), progress)):
            gamma.copy_(soft_threshold(gamma, proximal_amount(pull, learning_rate, momentum)))


def _flat(gammas: list[Tensor]) -> Tensor:
    return torch.cat([gamma.detach() for gamma in gammas])


def _by_layer(gammas: list[nn.Parameter], values: Tensor):
    return zip(gammas, values.split([len(gamma) for gamma in gammas]))


def soft_threshold(gamma: Tensor, amount: Tensor | float) -> Tensor:
    """The proximal operator of L1: gamma moved towards 0 by `amount`, and no further than 0."""
    return gamma.sign() * (gamma.abs() - amount).clamp(min=0)


def proximal_amount(s: Tensor | float, learning_rate: float, momentum: float) -> Tensor | float:
    """Threshold a step that drifts as far as the sub-gradient does: momentum sums a constant gradient to 1 / (1 - momentum)."""
    return learning_rate * s / (1 - momentum)


def drift(s: float, rates: list[float], momentum: float, schedule: str = "constant") -> float:
    """How far L1 alone moves a gamma of average cost that keeps its size, in a run with these learning rates (one a step)."""
    penalty, alone = Penalty("prox", s, schedule), torch.ones(1)  # alone it is the largest, so that "ease" lets go of it
    return sum(proximal_amount(penalty.pull(alone, step / len(rates)).item(), rate, momentum) for step, rate in enumerate(rates))


def gamma_quantiles(gammas: list[Tensor]) -> list[float]:
    """QUANTILES of |gamma| over all channels; zeros of a net without any."""
    if not gammas:
        return [0.0] * len(QUANTILES)
    values = torch.cat([gamma.detach().abs().float().cpu() for gamma in gammas])
    return torch.quantile(values, torch.tensor(QUANTILES)).tolist()


def zero_share(gammas: list[Tensor]) -> float:
    """Share of the gammas that are exactly 0; 0 of none."""
    return 0.0 if not gammas else torch.cat([gamma.detach() == 0 for gamma in gammas]).float().mean().item()


def describe_sparsity(graph: ChannelGraph, gammas: dict[int, Tensor], percent: float) -> tuple[float, str]:
    """What cutting `percent` of the channels by |gamma| would take, see describe_cut. Ties count as cut, so equal gammas are called
    what they are: not sparse. gammas: layer -> (C_i,) for graph.normalised."""
    scores = reduce_members(graph, {i: gamma.detach().abs() for i, gamma in gammas.items()})
    members = member_count(graph)
    free = candidates(graph, members).nonzero().flatten()
    order = free[scores[free].argsort(stable=True)]
    gone = torch.zeros(len(graph.frozen), dtype=torch.bool)
    gone[order[members[order].cumsum(0) <= int(int(members[free].sum()) * percent)]] = True
    return describe_cut(graph, gammas, gone, f"percent {percent:g}")


def describe_cut(graph: ChannelGraph, gammas: dict[int, Tensor], gone: Tensor, name: str) -> tuple[float, str]:
    """The energy that a cut takes, and a line that says in words whether it is likely to be free.

    The energy: the squared gammas of the groups `gone` (G,) bool as a share of all prunable ones. Below 1e-4 a cut goes
    unnoticed; see COSTLY. gammas: layer -> (C_i,) for graph.normalised.
    """
    groups = torch.cat([torch.from_numpy(graph.outputs[i]) for i in graph.normalised])
    values = torch.cat([gammas[i].detach().double().abs().cpu() for i in graph.normalised])
    free = ~torch.from_numpy(graph.frozen)[groups]
    groups, values = groups[free], values[free]
    energy = (values[gone[groups]].square().sum() / values.square().sum().clamp(min=1e-30)).item()
    small, zero = (values < SMALL * values.max()).double().mean().item(), (values == 0).double().mean().item()
    verdict = "it should cost nothing" if energy < 1e-4 else "it may cost some mAP before fine-tuning" if energy < COSTLY else \
        "it would cost mAP: go on training with -sr"
    return energy, (f"{small:.0%} of prunable gammas are under {SMALL:g} x the largest ({zero:.0%} exactly 0); {name} cuts "
                    f"channels with {energy:.2g} of the squared gammas: {verdict}")


def describe_budget(gammas: list[Tensor], args, rates: list[float]) -> list[str]:
    """Lines that say how many epochs -sr needs with these arguments, which s would fit the run, and what gammas near 1 do.
    rates: learning rate of every step of the run."""
    sizes = torch.cat([gamma.detach().abs().flatten() for gamma in gammas])
    start = sizes[sizes > 0].median().item() if sizes.any() else 0.0  # of those that have a way to go
    epochs = start / (proximal_amount(args.s, args.lr, args.momentum) * len(rates) / args.epochs)
    moved = drift(args.s, rates, args.momentum, args.s_schedule)
    line = (f"sparsity: {args.sparsity} with s = {args.s:g} on {len(gammas)} layers ({args.strategy}); at lr {args.lr:g} it moves a gamma "
            f"from {start:.3g} to 0 in {epochs:.1f} epochs of full learning rate")
    if moved < start:
        line += f"; {args.epochs} epochs are too few with this run's schedules: s = {args.s * start / moved:.2g} would fit"
    lines = [line]
    if start > 0.3:
        lines.append("sparsity: gammas start near 1 and will all fall together at first; a short run selects nothing"
                     + (" (--rescale auto shrinks them without changing the function)" if args.rescale == "none" else ""))
    return lines


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimiser groups: kernels decay; gammas, betas and biases do not (decay on a gamma would be a second penalty)."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
