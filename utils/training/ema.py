"""Exponential moving average of a model's weights."""

import copy
import math

import torch
from torch import nn


class ModelEma:
    """A copy of `model` that follows it: weights by exponential average, running statistics copied.

    The decay ramps up, decay x (1 - exp(-updates / ramp)), so that early averages are not dominated by the start. A
    weight that is exactly 0 in the model (a gamma that soft-thresholding cut) is 0 here too: averaging would blur it.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, ramp: int = 500):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp, self.updates = decay, ramp, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards `model`, once per optimiser step."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        averages = dict(self.model.named_parameters())
        names, live = zip(*model.named_parameters())
        kept = [averages[name] for name in names]
        torch._foreach_lerp_(kept, [p.detach() for p in live], 1 - decay)
        for average, parameter in zip(kept, live):
            if parameter.ndim == 1:
                average.masked_fill_(parameter == 0, 0.0)
        for average, buffer in zip(self.model.buffers(), model.buffers()):
            average.copy_(buffer)
