"""Which channels of a net can be made f times as large, every kernel that reads them 1 / f times, for the same net.

Those of a convolution whose activation lets a factor through: act(f x) = f act(x) for f > 0; and those of kernel 0,
which hold one value, through any activation that reaches f times that value.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from utils.layers import ACTIVATIONS, LAYER_TYPES, LayerType, activation_name, activation_of
from utils.parse_config import integer, layer_inputs, section_of
from utils.shapes import layer_shapes


@dataclass
class Channels:
    """Which channels of a net are one: a shortcut adds channel 5 to channel 5, so both keep one scale.

    parent: of each number, one of its set; fixed: sets whose scale is not free, since something other than a
    convolution reads them; makers: (layer, channel) -> number; readers: layer of a convolution -> the numbers of its
    input channels.
    """

    parent: list[int] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)
    makers: dict[tuple[int, int], int] = field(default_factory=dict)
    readers: dict[int, list[int]] = field(default_factory=dict)

    def new(self, count: int, fixed: bool = True) -> list[int]:
        """Numbers of `count` more channels."""
        numbers = list(range(len(self.parent), len(self.parent) + count))
        self.parent += numbers
        self.fixed |= set(numbers) if fixed else set()
        return numbers

    def root(self, number: int) -> int:
        """Of the set that a channel is in."""
        while self.parent[number] != number:
            number = self.parent[number]
        return number

    def makers_of(self, root: int) -> list[tuple[int, int]]:
        """(layer, channel) of those in the set of `root` that convolutions make."""
        return self._sets[root]

    @cached_property
    def _sets(self) -> dict[int, list[tuple[int, int]]]:
        """Asked for once all are joined."""
        sets: dict[int, list[tuple[int, int]]] = {}
        for place, number in self.makers.items():
            sets.setdefault(self.root(number), []).append(place)
        return sets

    def join(self, one: int, other: int) -> None:
        """Make two sets one."""
        one, other = self.root(one), self.root(other)
        if one != other:
            self.parent[other] = one
            if other in self.fixed:
                self.fixed.add(one)

    def fix(self, numbers: list[int]) -> None:
        """Their scale stays."""
        self.fixed |= {self.root(number) for number in numbers}


def channels_of(defs: list[dict], size: tuple[int, int], free: dict[int, Tensor]) -> Channels:
    """The channels of the net of module_defs. free: layer of a convolution -> (C,) bool, those that it can scale."""
    found, out = Channels(), []
    widths = [shape[0] for shape in layer_shapes(defs, *size)]
    image = found.new(integer(defs[0], "channels", 3))
    for layer_i, section in enumerate(defs[1:]):
        kind = section["type"]
        sources = [out[j] if j >= 0 else image for j in layer_inputs(layer_i, section)]
        if kind == "convolutional":
            if integer(section, "groups", 1) > 1:
                found.fix(sources[0])
            else:
                found.readers[layer_i] = sources[0]
            own = found.new(widths[layer_i], fixed=False)
            found.fix([number for number, can in zip(own, free[layer_i].tolist()) if not can])
            found.makers |= {(layer_i, channel): number for channel, number in enumerate(own)}
        elif kind == "route":
            parts, part = integer(section, "groups", 1), integer(section, "group_id")
            own = [n for source in sources for n in source[len(source) // parts * part:][:len(source) // parts]]
        elif kind == "shortcut" and ACTIVATIONS[activation_name(section)].homogeneous:
            own = list(sources[0])
            for source in sources[1:]:
                for one, other in zip(own, source):
                    found.join(one, other)
        elif (known := LAYER_TYPES.get(kind, LayerType())).constant and known.homogeneous and len(sources) == 1:
            own = sources[0]
        else:
            for source in sources:
                found.fix(source)
            own = found.new(widths[layer_i])
        out.append(own)
    return found


def scalable_channels(net: nn.Module, size: tuple[int, int]) -> Channels:
    """The channels of a Darknet whose batch norms are folded."""
    free = {}
    for layer_i, conv, _ in net.convolutions():
        constant = (conv.weight == 0).flatten(1).all(1)
        any_of_it = ACTIVATIONS[activation_name(section_of(net.module_defs, layer_i))].homogeneous
        free[layer_i] = torch.ones_like(constant) if any_of_it else constant
    return channels_of(net.module_defs, size, free)


def scaled_bias(section: dict, bias: float, factor: float) -> float | None:
    """The bias that makes a convolution of kernel 0 give `factor` times what `bias` gives; None where none does."""
    if ACTIVATIONS[activation_name(section)].homogeneous:
        return bias * factor
    act = lambda x: activation_of(section)(torch.tensor(x, dtype=torch.float64)).item()
    wanted = factor * act(bias)
    if wanted == 0:
        return bias
    most = 2 * wanted + 8  # mish and swish come close to x, and rise from 0 on
    if not 0 < wanted or act(0.0) != 0 or act(most) < wanted:
        return None
    from scipy.optimize import brentq  # not above: test_prune.py loads this module for few nets that need it

    return brentq(lambda x: act(x) - wanted, 0.0, most, xtol=1e-15)
