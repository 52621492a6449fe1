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
        averages, live = list(self.model.parameters()), [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(averages, live, 1 - decay)
        vectors = [i for i, parameter in enumerate(live) if parameter.ndim == 1]
        not_zero = torch._foreach_abs(torch._foreach_sign([live[i] for i in vectors]))
        torch._foreach_mul_([averages[i] for i in vectors], not_zero)
        torch._foreach_copy_(list(self.model.buffers()), list(model.buffers()))
