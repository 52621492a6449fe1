"""How far apart two nets are, by their raw maps on one fixed random image."""

import torch
from torch import nn

TOLERANCE = 1e-4  # largest deviation in float32, relative to the largest value of a raw map, of nets that should be equal


def probe_image(model: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, height, width) a fixed random image of the net's type, on its device."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, model.channels, size[1], size[0], generator=generator).to(next(model.parameters()))


@torch.inference_mode()
def deviation(one: nn.Module, other: nn.Module, size: tuple[int, int]) -> float:
    """Largest difference between two nets' raw maps on a random image, over all heads and places, relative to the largest value;
    NaN when either net gives one."""
    image = probe_image(one, size)
    pairs = zip(one.raw_maps(image), other.raw_maps(image))
    return torch.stack([(a - b).abs().max() / a.abs().max().clamp(min=1e-12) for a, b in pairs]).max().item()
