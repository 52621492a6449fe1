"""Small tensors on a GPU, made without waiting for it."""

from typing import Sequence

import torch
from torch import Tensor


def values(numbers: Sequence[float], like: Tensor) -> Tensor:
    """(n,) tensor of `numbers`, of the type of `like`, where that is."""
    return sent(torch.tensor(numbers, dtype=like.dtype), like.device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`. new_tensor and a plain copy wait until a GPU has done all that it was asked for;
    a copy from pinned memory takes its turn."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
