"""Whether a batch fits in memory, said before the first one: a system without memory kills the program, or crawls."""

import torch

from utils import torchrun
from utils.data.datasets import TrainSampler
from utils.doctor import gigabytes
from utils.memory import at_least, machine_memory
from utils.training.args import TrainOptions
from utils.training.half import is_half


def require_room(options: TrainOptions, defs: list[dict], sampler: TrainSampler, device: torch.device) -> None:
    """Raise ValueError where a training batch surely does not fit: where the least that it takes is more than there is
    at all, free or not, swap included. What may fit, or what nobody can tell, is tried."""
    images, size = sampler.least
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
