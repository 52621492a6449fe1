"""Sparsity on batch-norm gammas (Liu et al. 2017, section 3; Ye et al. 2018, section 4), and how far it has come."""

from dataclasses import dataclass, replace
from typing import Callable, Protocol

import torch
from torch import Tensor, nn

from utils.batch_norm import SMALL, gammas_of
from utils.output import counted
from utils.training.args import SparsityOptions, StepOptions
from utils.training.schedule import Schedule
from utils.training.strength import Aim, Planner, Strength, verdict
from utils.training.summary import describe_gammas

POLARIZE_T = 1.2  # weight of L1 against the spread; the paper tunes it between 1.0 and 1.4


@dataclass(frozen=True)
class Penalty:
    """The sparsity term of a run. kind, s, schedule and weight are train.py's --sparsity, --s, --s-schedule,
    --sparsity-weight.

    "l1": s x sign(gamma) is added to the gradients, once an optimiser step, after unscaling and clipping. "prox": the
    same drift as a soft threshold after the step, which gives exact zeros. "polarize" (Zhuang et al. 2020, eq. 3):
    POLARIZE_T x L1 minus the spread round the mean, which lets the large gammas go and pushes the small ones all the
    harder; also as a soft threshold.
    weights: one factor a channel for all layers in a row, (C,), mean 1; None: all alike.
    """

    kind: str
    s: float
    schedule: str = "constant"
    weights: Tensor | None = None

    def pull(self, gammas: Tensor, progress: float) -> Tensor:
        """(C,) force that moves each |gamma| towards 0, in units of the loss. gammas: (C,); progress: share of the run,
        0 to 1."""
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
        flat = _flat(gammas)
        moved = soft_threshold(flat, proximal_amount(self.pull(flat, progress), learning_rate, momentum))
        torch._foreach_copy_(gammas, [own for _, own in _by_layer(gammas, moved)])


def _flat(gammas: list[Tensor]) -> Tensor:
    return torch.cat([gamma.detach() for gamma in gammas])


def _by_layer(gammas: list[nn.Parameter], values: Tensor):
    return zip(gammas, values.split([len(gamma) for gamma in gammas]))


def soft_threshold(gamma: Tensor, amount: Tensor | float) -> Tensor:
    """The proximal operator of L1: gamma moved towards 0 by `amount`, and no further than 0."""
    return gamma.sign() * (gamma.abs() - amount).clamp(min=0)


def proximal_amount(s: Tensor | float, learning_rate: float, momentum: float) -> Tensor | float:
    """Threshold a step that drifts as far as the sub-gradient does: momentum sums a constant gradient to 1 / (1 -
    momentum)."""
    return learning_rate * s / (1 - momentum)


def drift(s: float, rates: list[float], momentum: float, schedule: str = "constant") -> float:
    """How far L1 alone moves a gamma of average cost that keeps its size, in a run with these learning rates (one a
    step)."""
    # alone it is the largest, so that "ease" lets go of it
    penalty, alone = Penalty("prox", s, schedule), torch.ones(1)
    return sum(
        proximal_amount(penalty.pull(alone, step / len(rates)).item(), rate, momentum)
        for step, rate in enumerate(rates)
    )


class Prospect(Protocol):
    """What pruning could take from a net in training (utils.pruning.prospect)."""

    layers: list[int]  # convolutions with channels that can be cut

    def macs(self, size: tuple[int, int]) -> dict[int, Tensor]:
        """layer -> (C_i,) multiply-adds that go with each of its channels, for an image of (width, height) `size`."""

    def describe(self, model: nn.Module, percent: float) -> str:
        """In words, what a cut of `percent` of the channels would cost now."""

    def planner(self, model: nn.Module, size: tuple[int, int], aim: Aim, measured: dict | None = None) -> Planner:
        """Who plans the cut for an aim; measured: see Planner, None: not yet."""


class Sparsifier:
    """The gammas that -sr penalises, and by what. Without -sr there is none, and its steps change nothing. With an aim
    (--target-flops, --target-params, --target-latency) s is found on the way (utils.training.strength)."""

    def __init__(self, model: nn.Module, prospect: type[Prospect], options: SparsityOptions, size: tuple[int, int],
                 schedule: Schedule, checkpoint: dict | None = None):
        """size: (width, height) of the image that multiply-adds are counted for; checkpoint: of an earlier part of the
        run. Raises ValueError where -sr finds no gamma that is trained, or an aim that no cut reaches."""
        self.model, self.options, self.schedule = model, options, schedule
        self.prospect = prospect(model.module_defs, options.strategy)
        prunable = zip(self.prospect.layers, self.gammas_of(model))
        self.layers = [i for i, gamma in prunable if gamma.requires_grad]  # those that --freeze leaves free
        self.gammas = gammas_of(model, self.layers) if options.sr else []
        if options.sr and not self.gammas:
            raise ValueError("-sr: found no batch norm to penalise (of prunable layers that --freeze leaves free), "
                             "expected one or more")
        weights = None
        if self.gammas and options.sparsity_weight == "flops":
            macs = self.prospect.macs(size)
            weights = torch.cat([macs[i] for i in self.layers]).sqrt()
            weights = (weights / weights.mean()).float().to(self.gammas[0].device)
        self.penalty = Penalty(options.sparsity, options.s, options.s_schedule, weights)
        self.aim = Aim.of(options)
        if self.aim and self.layers != self.prospect.layers:
            raise ValueError(f"{self.aim.words}: found --freeze {schedule.options.freeze} beside it, which holds "
                             "channels that the cut would take, expected a net that is trained as a whole; leave "
                             "--freeze out")
        self.strength = None
        if self.aim:
            earlier = (checkpoint or {}).get("strength", {})
            self.planner = self.prospect.planner(model, size, self.aim, earlier.get("measured"))
            self.strength = Strength(self.planner.planned(model), schedule.rates(), schedule.options.momentum,
                                     self.planner.measured)

    def before_step(self, progress: float, mean_loss: Callable[[], float]) -> None:
        """Between clipping and the optimiser's step. progress: share of the run that is done, 0 to 1; mean_loss: of the
        epoch so far, asked for now and then."""
        if self.strength and self.strength.due(progress):
            self.strength.look(self.planner.planned(self.model), progress, mean_loss())
        self._penalty_now().add_gradient(self.gammas, progress)

    def _penalty_now(self) -> Penalty:
        """The penalty of the options, or with an aim the one that `strength` asks for."""
        if not self.strength:
            return self.penalty
        weights = self.strength.factors(self.layers, self.gammas[0].device)
        weights = weights if self.penalty.weights is None else weights * self.penalty.weights
        return replace(self.penalty, s=self.strength.course.s, weights=weights)

    def after_step(self, progress: float, learning_rate: float, momentum: float) -> None:
        """After the optimiser's step."""
        self._penalty_now().shrink(self.gammas, progress, learning_rate, momentum)

    def gammas_of(self, model: nn.Module) -> list[nn.Parameter]:
        """All gammas that can be pruned, of this net or of its average."""
        return gammas_of(model, self.prospect.layers)

    def describe(self, model: nn.Module, row: dict) -> list[str]:
        """Lines on the gammas of this net, or of its average, after the epoch of `row`, and what the cut that is
        planned would cost now; at the end whether s did what was asked for. None without -sr."""
        if not self.gammas:
            return []
        lines = [describe_gammas(row)]
        if not self.strength:
            return [*lines, f"  {self.prospect.describe(model, self.options.percent)}"]
        cut, epochs = self.planner.planned(model), self.schedule.options.epochs
        lines.append(f"  {self.strength.describe(cut)}")
        return [*lines, f"  {verdict(self.strength.course, cut, epochs)}"] if row["epoch"] == epochs else lines

    def describe_budget(self) -> list[str]:
        """What -sr needs in this run, see describe_budget; nothing without -sr."""
        if not self.gammas:
            return []
        if self.strength:
            return [f"sparsity: {self.options.sparsity} on {counted(len(self.gammas), 'layer')} "
                    f"({self.options.strategy}) for {self.aim.words}; s begins at {self.strength.course.first:.3g}"]
        return describe_budget(self.gammas, self.options, self.schedule.options, self.schedule.rates())


def describe_budget(gammas: list[Tensor], options: SparsityOptions, steps: StepOptions,
                    rates: list[float]) -> list[str]:
    """Lines that say how many epochs -sr needs to take these gammas to 0, which s would fit the run, and what gammas
    near 1 do. rates: learning rate of every step of the run."""
    sizes = torch.cat([gamma.detach().abs().flatten() for gamma in gammas])
    start = sizes[sizes > 0].median().item() if sizes.any() else 0.0  # of those that have a way to go
    epochs = start / (proximal_amount(options.s, steps.lr, steps.momentum) * len(rates) / steps.epochs)
    moved = drift(options.s, rates, steps.momentum, options.s_schedule)
    line = (f"sparsity: {options.sparsity} with s = {options.s:g} on {counted(len(gammas), 'layer')} "
            f"({options.strategy}); at lr {steps.lr:g} it moves a gamma from {start:.3g} to 0 in {epochs:.1f} epochs "
            "of full learning rate")
    if moved < start:
        line += (f"; {counted(steps.epochs, 'epoch')} {'is' if steps.epochs == 1 else 'are'} too few with this run's "
                 f"schedules: s = {options.s * start / moved:.2g} would fit")
    lines = [line]
    if start > 0.3:
        advice = " (--rescale auto shrinks them without changing the function)" * (options.rescale == "none")
        lines.append("sparsity: gammas start near 1 and will all fall together at first; a short run selects nothing"
                     + advice)
    return lines


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimiser groups: kernels decay; gammas, betas and biases do not (decay on a gamma would be a second penalty)."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
