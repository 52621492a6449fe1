"""Time and size of networks, both sides of a comparison measured alike."""

import statistics
import time
from dataclasses import dataclass
from typing import Callable, Iterable

import torch
from torch import nn

# largest deviation in float32, relative to the largest value of a raw map, of nets that should be equal
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Latency:
    """Seconds per forward pass: median and quartiles of n runs, and the conditions."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    protocol: str

    def __str__(self) -> str:
        return f"{self.median * 1e3:.1f} ms ({self.low * 1e3:.1f}-{self.high * 1e3:.1f})"


def _run(model: Callable, images: torch.Tensor, clock: Callable[[], float]) -> float:
    started = clock()
    model(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)  # which need not be the current one
    return clock() - started


def compare_latency(models: list[nn.Module], size: tuple[int, int], repeats: int = 20, warmup: int = 3,
                    batch: int = 1) -> list[Latency]:
    """Latency of each Darknet on a (width, height) image by torch: batch norms folded. Decoding is included, NMS is
    not."""
    images = random_images(models[0], size, batch).contiguous(memory_format=torch.channels_last)
    return measured_alternately([model.optimize() for model in models], images, repeats, warmup)


def random_images(model: nn.Module, size: tuple[int, int], batch: int = 1) -> torch.Tensor:
    """(batch, channels, height, width) such as a Darknet takes, on its device."""
    return torch.rand(batch, model.channels, size[1], size[0], device=next(model.parameters()).device)


@torch.inference_mode()
def measured_alternately(runs: list[Callable], images: torch.Tensor, repeats: int = 20, warmup: int = 3,
                         where: str = "", clock: Callable[[], float] = time.perf_counter) -> list[Latency]:
    """Latency of each of `runs` on images (B, C, H, W), measured alternately (A B A B ...), so that a machine whose
    speed drifts treats all alike. where: what runs them, for the protocol (default: the device of the images);
    clock: what tells seconds."""
    for _ in range(warmup):
        for run in runs:
            _run(run, images, clock)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, times):
            own.append(_run(run, images, clock))
    batch, _, height, width = images.shape
    protocol = (f"batch {batch}, {width}x{height}, {where or images.device}, {torch.get_num_threads()} threads, median "
                f"of {repeats} after {warmup} warm-up, measured alternately, batch norm folded")
    return [Latency(median, first, third, protocol) for first, median, third in map(quartiles, times)]


def latencies_beside(beside: Callable[[nn.Module], list[Latency]],
                     nets: Iterable[nn.Module]) -> tuple[float, list[float], str]:
    """(seconds of the dense net, seconds of each net, protocol): each net alternately with the dense one alone,
    since among many all would run from cold caches. The machine's pace drifts from pair to pair, so what counts is the
    ratio: a net's seconds are its share of the dense net's in its pair, of the median dense seconds.

    beside: net -> latencies of the dense net and of it, measured alternately.
    """
    pairs = [beside(net) for net in nets]
    whole = statistics.median(own.median for own, _ in pairs)
    return whole, [whole * net.median / own.median for own, net in pairs], pairs[0][0].protocol


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile) of one value or more."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def probe_image(model: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    """(1, channels, height, width) a fixed random image of the net's type, on its device."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, model.channels, size[1], size[0], generator=generator).to(next(model.parameters()))


@torch.inference_mode()
def deviation(one: nn.Module, other: nn.Module, size: tuple[int, int]) -> float:
    """Largest difference between two nets' raw maps on a random image, over all heads and places, relative to the
    largest value; NaN when either net gives one."""
    image = probe_image(one, size)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a GPU shortens float32 to 10 bits else
        pairs = list(zip(one.raw_maps(image), other.raw_maps(image)))
    return torch.stack([(a - b).abs().max() / a.abs().max().clamp(min=1e-12) for a, b in pairs]).max().item()
