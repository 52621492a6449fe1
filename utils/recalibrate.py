"""Batch-norm statistics of a net whose channels were cut, taken anew on training images (Li et al. 2020, "EagleEye", section 3.3)."""

from typing import Iterable

import torch
from torch import nn

from utils.letterbox import input_channels, to_input


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable) -> nn.Module:
    """Replace the running statistics of `model` by plain averages over `batches` of (images (B, 3, H, W) uint8, targets), in place.
    Weights stay; the model is left in eval mode. Without a batch nothing changes."""
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
