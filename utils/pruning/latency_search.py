"""The search of --target-latency: a knapsack over measured tables, its budget corrected by the time of the whole nets
that it leads to."""

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor, nn

from utils.pruning.latency_choices import Offer, Solution, choose, defs_of, dense_choice, least_choice, profile
from utils.pruning.pace import Pace

ROUNDS = 8  # nets that are made and measured, at most
NEAR = 0.97  # share of the time asked for from which a net that meets it is not widened any more


class OutOfReach(ValueError):
    """Even the narrowest net takes longer than was asked for."""


@dataclass(frozen=True)
class LatencySearch:
    """offer: with tables; staying: see utils.pruning.latency_choices.choose; compact: (G,) bool of kept groups -> the
    compact net, where they are the offer's."""

    pace: Pace
    offer: Offer
    staying: Callable[[Tensor], Tensor]
    compact: Callable[[Tensor], nn.Module]

    def at(self, share: float) -> Solution:
        """The choice of most importance that is expected to take at most `share` of the dense net's time."""
        return choose(self.offer, self.pace.budget(share), self.staying)

    def meet(self) -> tuple[Solution, float]:
        """(the choice of most importance, of those tried, that is measured to take at most --target-latency; the share
        that was expected of it before). Every net that is measured corrects what is expected of the next; where none of
        them keeps to it the narrowest one is tried. Raises OutOfReach where that takes longer, too."""
        pace, best, tried = self.pace, None, []
        while len(tried) < ROUNDS:
            found = self.at(pace.most)
            if any(torch.equal(found.keep, other) for other in tried):
                break
            tried.append(found.keep)
            expected, measured = self.probe(found)
            if measured <= pace.most and (best is None or found.importance > best[0].importance):
                best = found, expected
            if NEAR * pace.most <= measured <= pace.most:
                break
        if best is None:
            least = choose(self.offer, 0.0, self.staying)
            expected, measured = self.probe(least)
            if measured > pace.most:
                raise OutOfReach(f"found no cut that is measured to take {pace.words(pace.most)}; the narrowest net "
                                 f"takes {pace.words(measured)}")
            best = least, expected
        return best

    def probe(self, found: Solution) -> tuple[float, float]:
        """(expected, measured) share of the dense net's time that a choice takes."""
        expected = self.pace.share(found.seconds)
        measured = self.pace.measure(self.compact(found.keep), found.seconds)
        print(f"  probe: expected {self.pace.words(expected)}, measured {measured:.3f}", flush=True)
        return expected, measured


def calibrate(pace: Pace, offer: Offer, dense: nn.Module, net_of: Callable[[list[dict]], nn.Module]) -> None:
    """Measure the widest and the narrowest net there is, between which all others lie. dense: the net of `offer`;
    net_of: module_defs -> a net of any weights. Raises OutOfReach, naming the floor and what it is made of."""
    whole, least = dense_choice(offer), least_choice(offer)
    pace.measure(dense, whole.seconds)
    floor = pace.measure(net_of(defs_of(offer, least.choice)), least.seconds)
    print(f"{pace.watch.runtime}: the dense net takes {1e3 * pace.dense_seconds:.2f} ms, the narrowest that may be "
          f"chosen {pace.words(floor)}", flush=True)
    if floor > pace.most:
        raise OutOfReach(f"found no cut that takes {pace.words(pace.most)} in {pace.watch.runtime}; the narrowest net"
                         f"{', without its residual blocks,' if offer.blocks else ''} takes {pace.words(floor)}, most "
                         f"of it in {profile(offer, least)}")
