"""What a channel costs: the multiply-adds, or the measured time, that a net saves without it. Pure functions but for the timing."""

import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn

from utils.parse_config import integer
from utils.prune_graph import ChannelGraph
from utils.shapes import layer_costs


def saved_macs(defs: list[dict], graph: ChannelGraph, size: tuple[int, int], per_mac: list[float] | None = None) -> Tensor:
    """(G,) float64 multiply-adds that go with each group of channels: its rows in its own convolutions, its columns in those that
    read it. First order: a row and a column that go together share a weight, which is counted twice.

    size: (width, height) of the image; per_mac: a price a layer (such as seconds a multiply-add), for a cost in that unit.
    """
    saved = np.zeros(len(graph.frozen))
    for layer_i, (section, cost) in enumerate(zip(defs[1:], layer_costs(defs, *size))):
        if section["type"] != "convolutional":
            continue
        price = cost.macs * (per_mac[layer_i] if per_mac else 1.0)
        outputs, inputs = graph.outputs[layer_i], graph.inputs(layer_i, section)
        np.add.at(saved, outputs, price / len(outputs))
        if integer(section, "groups", 1) < len(inputs):  # depthwise: the row is the column
            np.add.at(saved, inputs, price / len(inputs))
    return torch.from_numpy(saved)


@torch.inference_mode()
def seconds_per_mac(model: nn.Module, size: tuple[int, int], repeats: int = 10) -> list[float]:
    """Seconds a multiply-add takes in each layer of a Darknet, batch 1, batch norms folded: median of `repeats` after one warm-up;
    0 for layers that are not convolutions."""
    fast = model.optimize()
    device = next(model.parameters()).device
    image = torch.rand(1, model.channels, size[1], size[0], device=device).contiguous(memory_format=torch.channels_last)
    convolutions = {layer_i: module for layer_i, module in enumerate(fast.module_list) if isinstance(module, nn.Sequential)}
    started, times = {}, {layer_i: [] for layer_i in convolutions}

    def now() -> float:
        """Seconds, once the device has finished what it was given."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for layer_i, module in convolutions.items():
        module.register_forward_pre_hook(lambda module, inputs, i=layer_i: started.__setitem__(i, now()))
        module.register_forward_hook(lambda module, inputs, output, i=layer_i: times[i].append(now() - started[i]))
    for _ in range(1 + repeats):
        fast.raw_maps(image)
    macs = [cost.macs for cost in layer_costs(model.module_defs, *size)]
    return [statistics.median(times[i][1:]) / macs[i] if i in times else 0.0 for i in range(len(macs))]
