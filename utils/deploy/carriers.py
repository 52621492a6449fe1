"""Constant channels, made ready for 8-bit numbers.

What its removed channels held, a pruned net carries in channels of one value v (utils.pruning.surgery: carriers).
The kernel that reads such a channel is the sum of many, and may be far larger than the others: 8-bit numbers have 255
steps for all kernels of an output channel, and 255 for all channels of a map, so the largest sets the steps of the
rest. But f v and kernel / f make the same net for any f > 0. Each constant gets the f that costs the fewest bits.
"""

from dataclasses import dataclass, field

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from utils.layers import LAYER_TYPES, LayerType, activation_name, activation_of
from utils.parse_config import integer, layer_inputs
from utils.shapes import layer_shapes

HOMOGENEOUS = ("linear", "leaky", "relu")  # activations with act(f x) = f act(x)
FACTORS = [2.0**k for k in sorted(range(-10, 11), key=abs)]  # powers of two: nothing is rounded
MOST_BITS = 1.0
QUIET = 1e-6  # a constant this small against its map is none


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


def channels_of(defs: list[dict], size: tuple[int, int], constant: dict[int, Tensor]) -> Channels:
    """The channels of the net of module_defs. constant: layer of a convolution -> (C,) bool, those of kernel 0."""
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
            found.fix([number for number, holds in zip(own, constant[layer_i].tolist()) if not holds])
            found.makers |= {(layer_i, channel): number for channel, number in enumerate(own)}
        elif kind == "route":
            parts, part = integer(section, "groups", 1), integer(section, "group_id")
            own = [n for source in sources for n in source[len(source) // parts * part:][:len(source) // parts]]
        elif kind == "shortcut" and activation_name(section) in HOMOGENEOUS:
            own = list(sources[0])
            for source in sources[1:]:
                for one, other in zip(own, source):
                    found.join(one, other)
        elif LAYER_TYPES.get(kind, LayerType()).constant and len(sources) == 1:
            own = sources[0]
        else:
            for source in sources:
                found.fix(source)
            own = found.new(widths[layer_i])
        out.append(own)
    return found


@dataclass
class Reading:
    """How a convolution reads one constant. over: (C_out,) its kernel's largest value against that of all others;
    share: the constant against the range of the map's other channels."""

    layer_i: int
    column: int
    over: Tensor
    share: float

    def bits(self, factor: float) -> float:
        """Lost by the other kernels and the other channels of the map, the constant being `factor` times as large."""
        return (self.over / factor).clamp(min=1).log2().mean().item() + max(0.0, torch.tensor(
            self.share * factor).log2().item())


@torch.inference_mode()
def balanced(model: nn.Module, images: Tensor) -> nn.Module:
    """A Darknet's equal, batch norms folded (CPU, float32), whose constant channels cost 8-bit numbers as little as
    they can. images: (B, channels, H, W), by which the ranges of maps are judged."""
    net = model.optimize().to(memory_format=torch.contiguous_format)
    convs, channels = constant_channels(net, images)
    for root, readings in readings_of(net, convs, channels, images).items():
        factor = min(FACTORS, key=lambda f: sum(reading.bits(f) for reading in readings))
        makers = [place for place, number in channels.makers.items() if channels.root(number) == root]
        betas = [scaled_bias(net.module_defs[i + 1], convs[i].bias[c].item(), factor) for i, c in makers]
        if factor == 1 or None in betas:
            continue
        for (layer_i, channel), beta in zip(makers, betas):
            convs[layer_i].bias[channel] = beta
        for reading in readings:
            convs[reading.layer_i].weight[:, reading.column] /= factor
    return net


@torch.inference_mode()
def costly_layers(net: nn.Module, images: Tensor) -> list[int]:
    """Layers of a `balanced` net in which a constant still costs the other kernels and channels more than MOST_BITS of
    the eight: they are to stay in float."""
    convs, channels = constant_channels(net, images)
    lost: dict[int, float] = {}
    for readings in readings_of(net, convs, channels, images).values():
        for reading in readings:
            lost[reading.layer_i] = lost.get(reading.layer_i, 0.0) + reading.bits(1.0)
    return sorted(layer_i for layer_i, bits in lost.items() if bits > MOST_BITS)


def constant_channels(net: nn.Module, images: Tensor) -> tuple[dict[int, nn.Conv2d], Channels]:
    """(layer -> convolution, which channels are one) of a net whose batch norms are folded."""
    convs = {layer_i: conv for layer_i, conv, _ in net.convolutions()}
    constant = {i: (conv.weight == 0).flatten(1).all(1) for i, conv in convs.items()}
    return convs, channels_of(net.module_defs, (images.shape[3], images.shape[2]), constant)


def readings_of(net: nn.Module, convs: dict[int, nn.Conv2d], channels: Channels,
                images: Tensor) -> dict[int, list[Reading]]:
    """Set of constant channels whose scale is free -> how each convolution reads it."""
    found: dict[int, list[Reading]] = {}
    ranges = input_ranges(net, convs, images)
    for layer_i, numbers in channels.readers.items():
        roots = [channels.root(number) for number in numbers]
        free = torch.tensor([root not in channels.fixed for root in roots])
        if free.all() or not free.any():
            continue
        low, high = ranges[layer_i]
        span = (high[~free].max().clamp(min=0) - low[~free].min().clamp(max=0)).item()
        kernels = convs[layer_i].weight.abs().amax((2, 3))  # (C_out, C_in)
        rest = kernels[:, ~free].amax(1)
        for column in free.nonzero().flatten().tolist():
            share = high[column].abs().item() / max(span, 1e-12)
            over = torch.where(rest > 0, kernels[:, column] / rest, 0.0)  # an output that hears nothing else is free
            if share > QUIET and (over > 0).any():
                found.setdefault(roots[column], []).append(Reading(layer_i, column, over, share))
    return found


def input_ranges(net: nn.Module, convs: dict[int, nn.Conv2d], images: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Layer of a convolution -> (C_in,) least and largest value of each of its input channels."""
    found = {}
    hooks = [conv.register_forward_pre_hook(
        lambda module, inputs, i=i: found.__setitem__(i, (inputs[0].amin((0, 2, 3)), inputs[0].amax((0, 2, 3)))))
        for i, conv in convs.items()]
    net.raw_maps(images)
    for hook in hooks:
        hook.remove()
    return found


def scaled_bias(section: dict, bias: float, factor: float) -> float | None:
    """The bias that makes a convolution of kernel 0 give `factor` times what `bias` gives; None where none does."""
    if activation_name(section) in HOMOGENEOUS:
        return bias * factor
    act = lambda x: activation_of(section)(torch.tensor(x, dtype=torch.float64)).item()
    wanted = factor * act(bias)
    if wanted == 0:
        return bias
    most = 2 * wanted + 8  # mish and swish come close to x, and rise from 0 on
    if not 0 < wanted or act(0.0) != 0 or act(most) < wanted:
        return None
    return brentq(lambda x: act(x) - wanted, 0.0, most, xtol=1e-15)
