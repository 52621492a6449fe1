"""Mixed precision in training: where it is asked for, and whether a processor gains by it."""

from typing import Callable

import torch
from torch import nn

from utils.compare import measured_alternately
from utils.training.args import StepOptions


def half_precision(options: StepOptions, device: torch.device) -> torch.autocast:
    """The context of a forward pass: mixed precision where --amp or --bf16 asks for it."""
    dtype = torch.bfloat16 if options.bf16 else torch.float16
    return torch.autocast(device.type, dtype, enabled=is_half(options, device))


def is_half(options: StepOptions, device: torch.device) -> bool:
    """Whether forward passes are in mixed precision."""
    return options.bf16 or options.amp and device.type == "cuda"


def bf16_words(options: StepOptions, device: torch.device) -> list[str]:
    """A line where --bf16 makes a run slower: on processors without bfloat16, and on Intel's with AVX-512 BF16 but
    without AMX, which sum bfloat16 products at half the speed of float32's."""
    if not options.bf16 or device.type != "cpu" or (gain := bf16_gain()) >= 1:
        return []
    return [f"note: --bf16 is slower here: in bfloat16 this processor trains a convolution at {gain:.2f} times the "
            "speed of float32; a run without --bf16 takes less time"]


def bf16_gain(repeats: int = 5) -> float:
    """How many times faster this processor trains a convolution in bfloat16 than in float32; takes a tenth of a
    second, and no number of the global generator."""
    with torch.random.fork_rng(devices=[]):
        images = torch.rand(4, 64, 32, 32).contiguous(memory_format=torch.channels_last)
        steps = [_training_step(images, dtype) for dtype in (torch.float32, torch.bfloat16)]
        float32, bfloat16 = measured_alternately(steps, images, repeats)
    return float32.median / bfloat16.median


def _training_step(images: torch.Tensor, dtype: torch.dtype) -> Callable:
    """A function that runs a convolution forwards and backwards."""
    layer = nn.Conv2d(64, 64, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)
    maps = images.to(dtype, copy=True).requires_grad_()

    def run(_) -> None:
        with torch.inference_mode(False):
            layer(maps).sum().backward()
    return run
