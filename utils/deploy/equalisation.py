"""Channels scaled against each other so that 8-bit numbers lose least (cross-layer equalisation: Nagel et al. 2019,
section 4.1).

8-bit numbers have 255 steps for all channels of a map, and 255 for all kernels of an output channel, so the largest
sets the steps of the rest. Where a factor passes through (utils.deploy.scales), f times a channel and 1 / f times the
kernels that read it are the same net. Each set of channels gets the f, a power of two so that nothing is rounded, that
leaves the least rounding noise in the outputs of the convolutions that read it, against the variance of those outputs.
Constant channels (utils.pruning.surgery: carriers), whose kernels are sums of many and may be far larger than the
others, are such sets as well; what a constant's own rounding shifts, the quantiser corrects.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from utils.deploy.scales import Channels, scalable_channels, scaled_bias
from utils.parse_config import section_of

FACTORS = (1.0, 2.0, 0.5, 4.0, 0.25)  # by which a set is scaled at a time
PASSES = 8
ENOUGH = 0.99  # a pass that leaves more of the noise is the last
MOST_BITS = 1.0  # that constants may cost a layer's other kernels and channels


@dataclass(frozen=True)
class Heard:
    """What a convolution hears of some of its input channels. low, high: least and largest value, 0 included; peak:
    (C_out,) largest kernel value; energy: (C_out,) sum of squares of kernels, and power: sum of variances of the
    channels, times kernel places; both of channels that are not constant."""

    low: float
    high: float
    peak: np.ndarray
    energy: np.ndarray
    power: float

    def scaled(self, factor: float) -> "Heard":
        """The same, the channels being `factor` times as large."""
        return Heard(self.low * factor, self.high * factor, self.peak / factor, self.energy / factor**2,
                     self.power * factor**2)

    def joined(self, other: "Heard") -> "Heard":
        """Of both."""
        return Heard(min(self.low, other.low), max(self.high, other.high), np.maximum(self.peak, other.peak),
                     self.energy + other.energy, self.power + other.power)


class Reader:
    """A convolution beside the channels that it reads. numbers: (C_in,) the set of each; weight: (C_out, C_in, k, k);
    spans: (2, C_in) least and largest values; spread, signal: (C_in,) and (C_out,) variances of inputs and outputs."""

    def __init__(self, numbers: list[int], weight: Tensor, spans: Tensor, spread: Tensor, signal: Tensor):
        self.numbers = np.array(numbers)
        self.spans = torch.stack([spans[0].clamp(max=0), spans[1].clamp(min=0)]).numpy()
        self.peak = weight.abs().amax((2, 3)).numpy()
        self.energy = (weight.square().sum((2, 3)) * (spread > 0)).numpy()
        self.power = (spread * weight[0, 0].numel()).numpy()
        self.signal = signal.numpy()
        self._sum_up()

    def _sum_up(self) -> None:
        """What `but` needs: sums, and which channel has the largest kernel of each output."""
        self.whole = self.heard(np.ones(len(self.numbers), bool))
        self.first = self.peak.argmax(1)

    def heard(self, chosen: np.ndarray) -> Heard:
        """Of the channels `chosen`, (C_in,) bool."""
        low, high = self.spans[:, chosen]
        return Heard(float(low.min(initial=0)), float(high.max(initial=0)), self.peak[:, chosen].max(1, initial=0),
                     self.energy[:, chosen].sum(1), float(self.power[chosen].sum()))

    def but(self, chosen: np.ndarray, own: Heard) -> Heard:
        """Of all channels but those `chosen`, of which `own` is heard: looked for only where they are the largest."""
        low, high = self.spans[:, ~chosen]
        peak, rows = self.whole.peak.copy(), np.flatnonzero(chosen[self.first])
        peak[rows] = np.where(chosen, 0, self.peak[rows]).max(1, initial=0)
        return Heard(float(low.min(initial=0)), float(high.max(initial=0)), peak,
                     (self.whole.energy - own.energy).clip(min=0), max(self.whole.power - own.power, 0.0))

    def noise(self, heard: Heard) -> np.ndarray:
        """(n,) rounding noise of the map and of the kernels in each output that varies, against its variance: that of a
        step is a twelfth of its square."""
        of_map = ((heard.high - heard.low) / 255) ** 2 * heard.energy
        of_kernels = (heard.peak / 127) ** 2 * heard.power
        varies = self.signal > 0
        return (of_map + of_kernels)[varies] / (12 * self.signal[varies])

    def scale(self, chosen: np.ndarray, factor: float) -> None:
        """Take the channels `chosen` as `factor` times as large from now on."""
        self.spans[:, chosen] *= factor
        self.peak[:, chosen] /= factor
        self.energy[:, chosen] /= factor**2
        self.power[chosen] *= factor**2
        self._sum_up()


@torch.inference_mode()
def equalised(model: nn.Module, images: Tensor) -> nn.Module:
    """A Darknet's equal, batch norms folded (CPU, float32), that loses least in 8-bit numbers. images: (B, channels,
    H, W), by which ranges and variances are judged."""
    net = model.optimize().to(memory_format=torch.contiguous_format)
    channels = scalable_channels(net, (images.shape[3], images.shape[2]))
    readers = readers_of(net, channels, images)
    factors = _factors(net, channels, list(readers.values()))
    for number, factor in factors.items():
        for layer_i, channel in channels.makers_of(number):
            conv = net.module_list[layer_i][0]
            conv.bias[channel] = _bias(net, layer_i, channel, factor)
            conv.weight[channel] *= factor
    for layer_i, reader in readers.items():
        read = torch.tensor([factors.get(number, 1.0) for number in reader.numbers.tolist()])
        net.module_list[layer_i][0].weight /= read[:, None, None]
    return net


def readers_of(net: nn.Module, channels: Channels, images: Tensor) -> dict[int, Reader]:
    """Layer of a convolution -> how it reads the channels of a net whose batch norms are folded."""
    seen = {}

    def note(layer_i: int, x: Tensor, y: Tensor) -> None:
        spans = torch.stack([x.amin((0, 2, 3)), x.amax((0, 2, 3))])
        spread = torch.where(spans[0] == spans[1], 0.0, x.var((0, 2, 3), correction=0))
        seen[layer_i] = spans, spread, y.var((0, 2, 3), correction=0)

    hooks = [conv.register_forward_hook(lambda module, inputs, y, i=i: note(i, inputs[0], y))
             for i, conv, _ in net.convolutions()]
    net.raw_maps(images)
    for hook in hooks:
        hook.remove()
    return {layer_i: Reader([channels.root(number) for number in numbers], net.module_list[layer_i][0].weight,
                            *seen[layer_i]) for layer_i, numbers in channels.readers.items()}


def _factors(net: nn.Module, channels: Channels, readers: list[Reader]) -> dict[int, float]:
    """Set of channels -> its factor, each set in turn given the best, until that gains little. Readers are scaled."""
    hearers: dict[int, list[Reader]] = {}
    for reader in readers:
        for number in set(reader.numbers.tolist()) - channels.fixed:
            hearers.setdefault(number, []).append(reader)
    factors, left = dict.fromkeys(hearers, 1.0), _total(readers)
    for _ in range(PASSES):
        for number, own in hearers.items():
            step = _best(net, channels, number, own, factors[number])
            factors[number] *= step
            for reader in own if step != 1 else ():
                reader.scale(reader.numbers == number, step)
        before, left = left, _total(readers)
        if left > ENOUGH * before:
            break
    return {number: factor for number, factor in factors.items() if factor != 1}


def _total(readers: list[Reader]) -> float:
    return sum(_mean(reader.noise(reader.whole)) for reader in readers)


def _mean(noise: np.ndarray) -> float:
    return float(noise.mean()) if len(noise) else 0.0


def _best(net: nn.Module, channels: Channels, number: int, readers: list[Reader], factor: float) -> float:
    """The one of FACTORS by which a set of channels, `factor` times as large already, leaves the least noise."""
    noise = dict.fromkeys(FACTORS, 0.0)
    for reader in readers:
        chosen = reader.numbers == number
        own = reader.heard(chosen)
        rest = reader.but(chosen, own)
        for step in FACTORS:
            noise[step] += _mean(reader.noise(rest.joined(own.scaled(step))))
    possible = lambda step: step == 1 or all(
        _bias(net, *place, factor * step) is not None for place in channels.makers_of(number))
    return next(step for step in sorted(FACTORS, key=noise.get) if possible(step))


def _bias(net: nn.Module, layer_i: int, channel: int, factor: float) -> float | None:
    return scaled_bias(section_of(net.module_defs, layer_i), net.module_list[layer_i][0].bias[channel].item(), factor)


@torch.inference_mode()
def costly_layers(net: nn.Module, images: Tensor) -> list[int]:
    """Layers of an `equalised` net in which constants still cost the other kernels and channels more than MOST_BITS of
    the eight: they are to stay in float."""
    channels = scalable_channels(net, (images.shape[3], images.shape[2]))
    found = []
    for layer_i, reader in readers_of(net, channels, images).items():
        constant = (reader.power == 0) & (reader.spans != 0).any(0)
        rest = reader.noise(reader.heard(~constant))
        lost = np.log2(reader.noise(reader.whole)[rest > 0] / rest[rest > 0]) / 2
        if _mean(lost) > MOST_BITS:
            found.append(layer_i)
    return found
