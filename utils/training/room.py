"""Whether a batch can be trained on, said before the first one: a system without memory kills the program, or crawls,
and a batch norm of one value has no variance."""

import torch

from utils import torchrun
from utils.data.datasets import TrainSampler
from utils.memory import at_least, machine_memory
from utils.parse_config import integer
from utils.shapes import layer_shapes
from utils.text import gigabytes
from utils.training.args import TrainOptions
from utils.training.half import is_half


def require_room(options: TrainOptions, defs: list[dict], sampler: TrainSampler, device: torch.device) -> None:
    """Raise ValueError where a training batch surely does not fit: where the least that it takes is more than there is
    at all, free or not, swap included; and where it is too small for its batch norms. What may fit, or what nobody can
    tell, is tried."""
    images, size = sampler.least
    _require_statistics(defs, images, size, options)
    own = at_least(defs, images, size, is_half(options.steps, device), options.steps.freeze)
    if device.type == "cuda":
        what, there, needed = device, torch.cuda.get_device_properties(device).total_memory, own
    else:
        count = torchrun.local_world_size()
        what = "this machine with its swap" + f", for {count} processes," * (count > 1)
        there, needed = machine_memory().most, own * count
    if there is not None and needed > there:
        raise ValueError(
            f"--batch_size {options.source.batch_size}: training on {images} images of {size[0]}x{size[1]} takes at "
            f"least {gigabytes(needed)} of memory, {what} has {gigabytes(there)}: take a smaller --batch_size (with "
            "--accumulate for the same step) or --img_size")


def _require_statistics(defs: list[dict], images: int, size: tuple[int, int], options: TrainOptions) -> None:
    """Raise ValueError where a batch norm would see a single value a channel, which has no variance."""
    if images > 1 or torchrun.world_size() > 1:
        return
    for layer_i, (section, shape) in enumerate(zip(defs[1:], layer_shapes(defs, *size))):
        normed = section["type"] == "convolutional" and integer(section, "batch_normalize")
        if normed and shape[1:] == (1, 1) and layer_i >= options.steps.freeze:
            raise ValueError(
                f"--batch_size {options.source.batch_size}: a batch of one image of {size[0]}x{size[1]} leaves the "
                f"batch norm of layer {layer_i} one value a channel, expected two or more: take a larger --batch_size "
                "or --img_size")
