"""Which layers suffer most from 8-bit numbers: measured, one layer at a time, by how far the boxes move."""

from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor, nn

from utils.boxes import box_iou, cxcywh_to_xyxy

BOXES = 200  # the surest boxes, over all images

# C_out output channels, C_in input channels of a conv group


def quantised_weight(weight: Tensor) -> Tensor:
    """(C_out, C_in, k, k) -> the same in 255 symmetric steps per output channel, as 8-bit runtimes store it."""
    step = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
    return (weight / step).round() * step


def quantised_map(x: Tensor) -> Tensor:
    """A map in 256 steps from its least value (or 0) to its largest (or 0): 0 stays exact, since padding is."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-12)
    return ((x / step).round()).clamp((low / step).round(), (low / step).round() + 255) * step


@contextmanager
def one_layer_quantised(conv: nn.Conv2d) -> Iterator[None]:
    """`conv` with its weights and its input in 8 bits."""
    weight = conv.weight.data
    hook = conv.register_forward_pre_hook(lambda module, inputs: tuple(quantised_map(x) for x in inputs))
    conv.weight.data = quantised_weight(weight)
    try:
        yield
    finally:
        hook.remove()
        conv.weight.data = weight


@torch.inference_mode()
def layer_errors(model: nn.Module, images: Tensor) -> dict[int, float]:
    """Layer index of each convolution of a Darknet (CPU, not changed) -> how far the surest boxes move when this layer
    alone is in 8 bits, largest first: the mean of 1 - IoU of a box with itself before, plus the difference of its
    scores. images: (B, channels, H, W)."""
    net, found = model.optimize(), {}
    expected = net(images).flatten(0, 1)
    surest = _score(expected).topk(min(BOXES, len(expected))).indices
    for layer_i, conv, _ in net.convolutions():
        with one_layer_quantised(conv):
            found[layer_i] = _distance(expected[surest], net(images).flatten(0, 1)[surest])
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _score(rows: Tensor) -> Tensor:
    return rows[:, 4] * rows[:, 5:].amax(dim=1)


def _distance(rows: Tensor, others: Tensor) -> float:
    """Of (n, 5 + K) predictions, each from its namesake; weighted by the score, since a sure box counts more."""
    iou = box_iou(cxcywh_to_xyxy(rows[:, :4]), cxcywh_to_xyxy(others[:, :4])).diagonal()
    weight = _score(rows)
    return float((weight * (1 - iou + (_score(rows) - _score(others)).abs())).sum() / weight.sum().clamp(min=1e-12))
