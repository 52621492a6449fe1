"""The cut that test_prune.py would find for a target, planned again and again while a net is in training: by size
(--target-flops, --target-params) and by measured time (--target-latency)."""

from dataclasses import replace
from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn

from utils import processes
from utils.batch_norm import gammas_by_layer
from utils.deploy.layer_time import LayerClock, WidthTable
from utils.deploy.net_time import Stopwatch, named_runtime
from utils.pruning.blocks import residual_blocks
from utils.pruning.channel_graph import ChannelGraph
from utils.pruning.importance import group_scores, member_count, reduce_members, summed_over_blocks, summed_over_groups
from utils.pruning.latency_choices import Offer, Solution, choose, chosen_blocks, defs_of, with_tables
from utils.pruning.latency_search import NEAR, OutOfReach, calibrate
from utils.pruning.pace import Pace
from utils.pruning.selection import candidates, obtain_filters_mask, thresholds, without_ties
from utils.pruning.sizes import NoCutError, mildest_within, most_allowed
from utils.pruning.surgery import narrow_defs, staying_groups, vectors_of
from utils.shapes import LayerCost, total_cost
from utils.training.strength import Aim, PlannedCut

PROBES = 3  # nets near the time asked for that are measured before training
REPEATS = 5  # forward passes per measurement, at least
HIGH = 0.9  # quantile of what goes that stands for a threshold, where there is none


class SizePlanner:
    """The mildest cut that leaves at most the sizes of an aim: by |gamma|, for FLOPs alone by "gamma-norm", which pulls
    at all layers alike and leaves more parameters at the same FLOPs.

    kind: of its importance. (Half-width yolov3 sparse for 10 % of its FLOPs and tuned: mAP 0.872, by |gamma| 0.852:
    results/2026-11-27_deep_cuts.)
    """

    measured: dict = {}

    def __init__(self, defs: list[dict], graph: ChannelGraph, size: tuple[int, int], aim: Aim):
        """size: (width, height) of the image."""
        self.defs, self.graph, self.size, self.aim = defs, graph, size, aim
        self.members, self.dense = member_count(graph), total_cost(defs, *size)
        self.most = most_allowed(aim.params, aim.flops, self.dense)
        self.kind = "gamma-norm" if aim.flops and not aim.params and not aim.latency else "gamma"

    def threshold(self, scores: Tensor, staying: Callable[[Tensor], Tensor]) -> tuple[float, bool]:
        """(score under which a group goes, whether that is the mildest cut there is). scores: (G,); staying: see
        carried. Where no cut gets there, the strongest: carriers come and go while a net is trained."""
        levels = self._levels(scores)
        try:
            threshold = self._mildest(scores, staying)
        except NoCutError:
            return levels[-1], False
        return threshold, threshold == levels[0]

    def require_reachable(self, model: nn.Module) -> None:
        """Raise ValueError where no cut of this net meets the aim."""
        try:
            self._mildest(self.scores(model), carried(model, self.graph))
        except NoCutError as error:
            raise ValueError(f"{self.aim.words}: {error}; ask for less") from None

    def _levels(self, scores: Tensor) -> list[float]:
        return thresholds(scores, candidates(self.graph, self.members))

    def _mildest(self, scores: Tensor, staying: Callable[[Tensor], Tensor]) -> float:
        cost = lambda level: self._cost(staying(self.keep_at(scores, level)))
        return mildest_within(self._levels(scores), cost, self.most)

    def scores(self, model: nn.Module) -> Tensor:
        """(G,) importance of every group."""
        return without_ties(self.graph, group_scores(self.kind, model, self.graph))

    def keep_at(self, scores: Tensor, threshold: float) -> Tensor:
        """(G,) bool: groups that a threshold leaves; scores: (G,)."""
        return obtain_filters_mask(self.graph, scores, self.members, threshold).keep

    def planned(self, model: nn.Module) -> PlannedCut:
        """See utils.training.strength.Planner."""
        scores, staying = self.scores(model), carried(model, self.graph)
        threshold, mildest_of_all = self.threshold(scores, staying)
        keep = self.keep_at(scores, threshold)
        left = self._cost(staying(keep))
        of_params, of_flops = left.parameters / self.most.parameters, left.macs / self.most.macs
        used = max(share for target, share in ((self.aim.params, of_params), (self.aim.flops, of_flops)) if target)
        gone = {i: ~keep[self.graph.outputs[i]] for i in self.graph.prunable}
        if self.kind == "gamma":
            sizes = threshold, median(scores[candidates(self.graph, self.members) & keep])
        else:
            sizes = sizes_of(model, gone)
        return PlannedCut(gone, energy_of(model, self.graph, gone), *sizes, 1 - used if mildest_of_all else 0.0,
                          self._what_stays(left))

    def _cost(self, staying: Tensor) -> LayerCost:
        """Of the compact net; nothing is built."""
        return total_cost(narrow_defs(self.defs, self.graph, staying), *self.size)

    def _what_stays(self, left: LayerCost) -> str:
        shares = [(self.aim.flops, left.macs / self.dense.macs, "FLOPs"),
                  (self.aim.params, left.parameters / self.dense.parameters, "parameters")]
        return " and ".join(f"{share:.1%} of the {name}" for target, share, name in shares if target)


class LatencyPlanner:
    """The widths and residual blocks of most squared |gamma| whose time is at most that of an aim, by what was measured
    before training: tables of single convolutions and the times of a few whole nets. Where the aim has sizes as well,
    what they take is gone first."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, size: tuple[int, int], aim: Aim, measured: dict | None):
        """size: (width, height) of the image; measured: what an earlier part of this run measured; None: it is measured
        now, by one of the processes. Raises ValueError where no cut is that fast, or the runtime cannot be used."""
        self.graph, self.aim, self.members = graph, aim, member_count(graph)
        self.by_size = SizePlanner(model.module_defs, graph, size, aim) if aim.flops or aim.params else None
        if self.by_size and measured is None:
            self.by_size.require_reachable(model)
        self.blocks = tuple(residual_blocks(model.module_defs))
        offer = self._weighed(Offer(model.module_defs, graph, torch.empty(0), size, blocks=self.blocks), model)
        if measured is None:
            device = next(model.parameters()).device
            net_of = lambda defs: type(model)(defs).eval().to(device)  # of any weights
            measured = processes.from_first(measure(offer, aim, net_of, device) if processes.rank() == 0 else None)
        self.measured = measured
        self.offer = replace(offer, tables=tuple(
            WidthTable(*(np.array(table[name]) for name in ("inputs", "outputs", "seconds")), table["unit"])
            for table in measured["tables"]))
        self.pace = Pace(None, None, aim.latency, 0, list(map(tuple, measured["points"])), list(measured["dense"]))

    def _weighed(self, offer: Offer, model: nn.Module) -> Offer:
        """The offer with the importance that groups and blocks have now."""
        scores = reduce_members(self.graph, gammas_by_layer(model))
        groups = summed_over_groups("gamma", self.graph, scores)
        if self.by_size:
            scores = self.by_size.scores(model)
            threshold, _ = self.by_size.threshold(scores, carried(model, self.graph))
            groups = groups * self.by_size.keep_at(scores, threshold)
        blocks = summed_over_blocks("gamma", model, self.graph, self.blocks)
        return replace(offer, importance=groups, block_importance=blocks.numpy())

    def planned(self, model: nn.Module) -> PlannedCut:
        """See utils.training.strength.Planner."""
        graph, offer = self.graph, self._weighed(self.offer, model)
        budget = self.pace.budget(NEAR * self.pace.most)  # what is cut after training is measured anew
        found = choose(offer, budget, carried(model, graph))
        gone = {i: ~found.keep[graph.outputs[i]] for i in graph.prunable}
        for block in chosen_blocks(offer, found.choice):
            for i in set(gone) & set(range(block.stream + 1, block.shortcut)):
                gone[i] = torch.ones_like(gone[i])
        energy = energy_of(model, graph, gone)
        unused = max(0.0, 1 - found.seconds / budget) if energy == 0 else 0.0
        return PlannedCut(gone, energy, *sizes_of(model, gone), unused, self._what_stays(found))

    def _what_stays(self, found: Solution) -> str:
        return f"{self.pace.share(found.seconds):.1%} of the time in {self.measured['runtime']}"


def measure(offer: Offer, aim: Aim, net_of: Callable[[list[dict]], nn.Module], device: torch.device) -> dict:
    """What plans need of the runtime, of plain values: "tables" of the convolutions, "points" and "dense" of
    utils.pruning.pace.Pace, "runtime". net_of: module_defs -> a net of any weights."""
    runtime, dense = named_runtime(aim.runtime, device), net_of(offer.defs)
    pace = Pace(LayerClock.of(runtime, device), Stopwatch(runtime, dense, offer.size), aim.latency, REPEATS)
    offer = with_tables(offer, pace.clock)
    try:
        calibrate(pace, offer, dense, net_of)
    except OutOfReach as error:
        raise ValueError(f"{aim.words}: {error}; ask for less") from None
    for _ in range(PROBES):
        found = choose(offer, pace.budget(NEAR * pace.most), lambda keep: keep)
        pace.measure(net_of(defs_of(offer, found.choice)), found.seconds)
    tables = [{"inputs": table.inputs.tolist(), "outputs": table.outputs.tolist(), "seconds": table.seconds.tolist(),
               "unit": int(table.unit)} for table in offer.tables]
    return {"tables": tables, "points": [list(point) for point in pace.points], "dense": pace.dense, "runtime": runtime}


def carried(model: nn.Module, graph: ChannelGraph) -> Callable[[Tensor], Tensor]:
    """(G,) bool of kept groups -> (G,) bool, those and the carriers they need."""
    state = vectors_of(model)
    return lambda keep: staying_groups(model.module_defs, state, graph, keep)


def energy_of(model: nn.Module, graph: ChannelGraph, gone: dict[int, Tensor]) -> float:
    """Share of the squared prunable gammas that go; gone: layer -> (C_i,) bool."""
    gammas = gammas_by_layer(model)
    squared = {i: gammas[i].double().cpu().square() * ~graph.frozen[graph.outputs[i]] for i in graph.prunable}
    total = sum(own.sum().item() for own in squared.values())
    return sum(squared[i][gone[i]].sum().item() for i in squared) / max(total, 1e-30)


def sizes_of(model: nn.Module, gone: dict[int, Tensor]) -> tuple[float, float]:
    """(|gamma| that HIGH of the channels that go do not exceed, median |gamma| of those that stay); 0 of none. gone:
    layer -> (C_i,) bool."""
    gammas = gammas_by_layer(model)
    taken = torch.cat([gammas[i].cpu()[own] for i, own in gone.items()])
    kept = torch.cat([gammas[i].cpu()[~own] for i, own in gone.items()])
    return taken.quantile(HIGH).item() if len(taken) else 0.0, median(kept)


def median(values: Tensor) -> float:
    """0 of none."""
    return values.median().item() if len(values) else 0.0
