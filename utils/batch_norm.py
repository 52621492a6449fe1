"""Shrink all gammas of a net without changing its function (gamma-W rescaling: Ye et al. 2018, section 4.3).

Convolution, leaky ReLU, ReLU, shortcut, route, upsample and pooling are positively homogeneous: if every layer's output
is multiplied by a > 0, the next layer sees its input multiplied by a. So gamma and beta of every batch norm take the
factor a, the running statistics behind it follow their input, and the heads divide by a. From gammas near 1 an L1
penalty makes all of them fall together, because the next batch norm absorbs a common scale; from small ones selection
starts at once.
"""

import copy
from typing import Iterable

import torch
from torch import Tensor, nn

from utils.layers import ACTIVATIONS, LAYER_TYPES, activation_name
from utils.letterbox import input_channels, to_input
from utils.parse_config import head_indices, integer, layer_inputs, section_of

SMALL = 0.01  # gammas under this share of the largest count as gone
FREE = 1e-4  # share of the squared gammas up to which a cut goes unnoticed
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)


class RescaleError(ValueError):
    """The net has layers through which a common factor does not pass."""


def rescale_obstacles(defs: list[dict]) -> list[str]:
    """Why module_defs cannot be rescaled, a line a layer; empty when they can."""
    obstacles = []
    for layer_i, section in enumerate(defs[1:]):
        name = activation_name(section)
        if section["type"] not in LAYER_TYPES:
            obstacles.append(f"layer {layer_i} [{section['type']}] is not known to pass a common factor on")
        elif not LAYER_TYPES[section["type"]].homogeneous:
            obstacles.append(f"layer {layer_i} [{section['type']}] multiplies two maps")
        elif not ACTIVATIONS[name].homogeneous:
            obstacles.append(f"layer {layer_i} [{section['type']}] has activation {name}")
    for head_i in head_indices(defs):
        before, head = section_of(defs, head_i - 1), section_of(defs, head_i)
        if before["type"] != "convolutional" or integer(before, "batch_normalize"):
            obstacles.append(f"layer {head_i} [{head['type']}] does not follow a convolution without batch norm")
    if not obstacles:
        _input_factors(defs, 0.5, obstacles)
    return obstacles


def _input_factors(defs: list[dict], factor: float, obstacles: list[str]) -> list[float]:
    """Factor that each layer's input takes when every batch norm takes `factor`; disagreements go to `obstacles`."""
    outputs, inputs, heads = [], [], {i - 1 for i in head_indices(defs)}
    for layer_i, section in enumerate(defs[1:]):
        sources = {1.0 if j < 0 else outputs[j] for j in layer_inputs(layer_i, section)}
        if len(sources) > 1:
            obstacles.append(f"layer {layer_i} [{section['type']}] joins rescaled and unscaled maps")
        inputs.append(sources.pop())
        if layer_i in heads:
            # its kernel divides by what its input takes: whoever else reads the raw map sees it unscaled
            outputs.append(1.0)
        elif section["type"] == "convolutional" and integer(section, "batch_normalize"):
            outputs.append(factor)
        else:
            outputs.append(inputs[-1])
    return inputs


def restoring_factor(model: nn.Module) -> float:
    """Factor that brings the gammas of a rescaled net back to where networks train well: root mean square 1 over those
    not 0.

    Not simply 1 / ALPHA: under L1 the survivors grow several times over, and a net restored by 1 / ALPHA has
    activations so large that its heads diverge in fine-tuning at learning rates which suit the dense one.
    """
    gammas = torch.cat([bn.weight.detach() for _, _, bn in model.convolutions() if bn is not None])
    alive = gammas[gammas != 0]
    return 1.0 if not len(alive) else 1 / alive.square().mean().sqrt().item()


@torch.no_grad()
def rescale_gammas(model: nn.Module, factor: float) -> None:
    """Multiply every gamma of a Darknet by `factor`, in place, its function in eval mode unchanged.

    Raises RescaleError, naming the layers, when a common factor does not pass through the net; ValueError on a factor
    <= 0.
    """
    if not factor > 0:
        raise ValueError(f"found rescaling factor {factor}, expected one over 0")
    defs = model.module_defs
    if obstacles := rescale_obstacles(defs):
        raise RescaleError(f"gammas cannot be rescaled: {'; '.join(obstacles[:3])}"
                           f"{f'; and {len(obstacles) - 3} more' if len(obstacles) > 3 else ''}; use --rescale none")
    inputs = _input_factors(defs, factor, [])
    heads = {i - 1 for i in head_indices(defs)}
    for layer_i, conv, bn in model.convolutions():
        if bn is not None:
            bn.running_mean.mul_(inputs[layer_i])
            bn.running_var.copy_(inputs[layer_i] ** 2 * (bn.running_var.double() + bn.eps) - bn.eps)
            bn.weight.mul_(factor)
            bn.bias.mul_(factor)
        elif layer_i in heads:
            conv.weight.div_(inputs[layer_i])
        else:
            conv.bias.mul_(inputs[layer_i])


def usual_scale(model: nn.Module, rescale: float) -> nn.Module:
    """A copy whose gammas are at their usual scale, same function: a Darknet file has no place to note the factor
    `rescale` that they carry."""
    plain = copy.deepcopy(model)
    if rescale != 1.0:
        rescale_gammas(plain, restoring_factor(plain))
    return plain


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable) -> nn.Module:
    """Replace the running statistics of `model` by plain averages over `batches` of (images (B, 3, H, W) uint8,
    targets), in place. Weights stay; the model is left in eval mode. Without a batch nothing changes."""
    device = next(model.parameters()).device
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, begun = [bn.momentum for bn in norms], False
    model.eval()
    for images, _ in batches:
        if not begun:
            begun = True
            for bn in norms:
                bn.reset_running_stats()
                bn.momentum = None  # a plain average over all batches
                bn.train()
        model.raw_maps(to_input(images, device, input_channels(model)))
    for bn, momentum in zip(norms, momenta):
        bn.momentum = momentum
    return model.eval()


def gammas_of(model: nn.Module, layers: list[int]) -> list[nn.Parameter]:
    """Batch-norm gammas, (C_i,) each, of the given layers of a Darknet."""
    norms = {layer_i: bn for layer_i, _, bn in model.convolutions()}
    return [norms[layer_i].weight for layer_i in layers]


def gamma_quantiles(gammas: list[Tensor]) -> list[float]:
    """QUANTILES of |gamma| over all channels; zeros of a net without any."""
    if not gammas:
        return [0.0] * len(QUANTILES)
    values = torch.cat([gamma.detach().abs().float().cpu() for gamma in gammas])
    return torch.quantile(values, torch.tensor(QUANTILES)).tolist()


def zero_share(gammas: list[Tensor]) -> float:
    """Share of the gammas that are exactly 0; 0 of none."""
    return 0.0 if not gammas else torch.cat([gamma.detach() == 0 for gamma in gammas]).float().mean().item()


def gammas_by_layer(model: nn.Module) -> dict[int, Tensor]:
    """layer -> (C_i,) |gamma| of every convolution with batch norm."""
    return {layer_i: bn.weight.detach().abs() for layer_i, _, bn in model.convolutions() if bn is not None}
