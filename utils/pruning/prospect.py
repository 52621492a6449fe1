"""What pruning could take from a net that is still in training: the channels, their cost, and how ready they are."""

from torch import Tensor, nn

from utils.batch_norm import gammas_of
from utils.pruning.channel_graph import channel_graph
from utils.pruning.importance import saved_macs
from utils.pruning.planned import LatencyPlanner, SizePlanner
from utils.pruning.selection import describe_sparsity
from utils.training.strength import Aim, Planner


class Prospect:
    """The view of test_prune.py on a net of module_defs, for those who train it (utils.training.sparsity)."""

    def __init__(self, module_defs: list[dict], strategy: str):
        """strategy: see utils.pruning.channel_graph."""
        self.module_defs, self.graph = module_defs, channel_graph(module_defs, strategy)

    @property
    def layers(self) -> list[int]:
        """The convolutions with channels that can be cut."""
        return self.graph.prunable

    def macs(self, size: tuple[int, int]) -> dict[int, Tensor]:
        """layer -> (C_i,) multiply-adds that go with each of its channels and what that is coupled with, for an image
        of (width, height) `size`."""
        saved = saved_macs(self.module_defs, self.graph, size)
        return {i: saved[self.graph.outputs[i]] for i in self.layers}

    def describe(self, model: nn.Module, percent: float) -> str:
        """In words, what a cut of `percent` of the channels by |gamma| would cost now."""
        by_layer = dict(zip(self.graph.normalised, gammas_of(model, self.graph.normalised)))
        return describe_sparsity(self.graph, by_layer, percent)[1]

    def planner(self, model: nn.Module, size: tuple[int, int], aim: Aim, measured: dict | None = None) -> Planner:
        """Who plans the cut of this net for an image of (width, height) `size`; measured: see Planner, of an earlier
        part of the run, None: it begins. Raises ValueError where it begins and no cut gets there."""
        if aim.latency:
            return LatencyPlanner(model, self.graph, size, aim, measured)
        planner = SizePlanner(self.module_defs, self.graph, size, aim)
        if measured is None:
            planner.require_reachable(model)
        return planner
