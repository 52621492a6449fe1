"""What pruning could take from a net that is still in training: the channels, their cost, and how ready they are."""

from torch import Tensor, nn

from utils.batch_norm import gammas_by_layer, gammas_of
from utils.pruning.channel_graph import channel_graph
from utils.pruning.importance import member_count, reduce_members, saved_macs
from utils.pruning.selection import (
    candidates,
    describe_cut,
    describe_sparsity,
    mildest,
    obtain_filters_mask,
    thresholds,
)
from utils.pruning.surgery import narrow_defs, staying_groups
from utils.shapes import LayerCost, total_cost
from utils.training.strength import Aim, PlannedCut


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

    def planned(self, model: nn.Module, size: tuple[int, int], aim: Aim) -> PlannedCut:
        """The mildest cut by |gamma| with which this net meets the aim, carriers counted, as test_prune.py would find
        it. Raises ValueError where no cut gets there."""
        graph, dense = self.graph, total_cost(self.module_defs, *size)
        members, scores = member_count(graph), reduce_members(graph, gammas_by_layer(model))
        state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
        most = LayerCost(int(aim.params.of(dense.parameters)) if aim.params else dense.parameters,
                         int(aim.flops.of(2 * dense.macs) / 2) if aim.flops else dense.macs)
        keep_at = lambda level: obtain_filters_mask(graph, scores, members, level).keep

        def cost(level: float) -> LayerCost:
            """Of the compact net; nothing is built."""
            staying = staying_groups(self.module_defs, state, graph, keep_at(level))
            return total_cost(narrow_defs(self.module_defs, graph, staying), *size)

        fits = lambda level: (found := cost(level)).parameters <= most.parameters and found.macs <= most.macs
        levels = thresholds(scores, candidates(graph, members))
        if (threshold := mildest(levels, fits)) is None:
            least = cost(levels[-1])
            raise ValueError(f"{aim.words}: no cut gets there; the strongest leaves {least.parameters:,} parameters "
                             f"and {2 * least.macs / 1e9:.3g} GFLOPs; ask for less")
        gone = ~keep_at(threshold)
        by_layer = dict(zip(graph.normalised, gammas_of(model, graph.normalised)))
        energy, left = describe_cut(graph, by_layer, gone, aim.words)[0], cost(threshold)
        used = max(aim.params is not None and left.parameters / most.parameters,
                   aim.flops is not None and left.macs / most.macs)
        stay = scores[candidates(graph, members) & ~gone]
        return PlannedCut({i: gone[graph.outputs[i]] for i in graph.prunable}, energy, threshold,
                          stay.median().item() if len(stay) else 0.0, 1 - used if threshold == levels[0] else 0.0,
                          _what_stays(aim, left, dense))


def _what_stays(aim: Aim, left: LayerCost, dense: LayerCost) -> str:
    """In words, of what the aim names."""
    shares = [(aim.flops, left.macs / dense.macs, "FLOPs"),
              (aim.params, left.parameters / dense.parameters, "parameters")]
    return " and ".join(f"{share:.1%} of the {name}" for target, share, name in shares if target)
