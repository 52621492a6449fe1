"""OpenVINO's entrance, opened once per process, and nets that are compiled for the shapes that they meet."""

import functools
from typing import Callable

import numpy as np
import torch

KEPT = 3  # compiled nets per model: a batch, the smaller one at the end, a single image


@functools.cache
def openvino_core():
    """The one openvino.Core of this process, never closed.

    Each Core of its own gives the thread a stack for signal handlers, and puts back the one before when it is closed.
    Cores that are not closed in reverse order leave the thread with a stack that is gone: the next signal that Python
    handles, such as that of a loader's process that ends, is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def run_openvino(net, image: tuple[int, int, int], precision: str = "f32") -> Callable[[np.ndarray], object]:
    """What runs an openvino.Model of one input on the CPU, in `precision`, with torch's number of threads: images
    (B, *image) -> its results, in buffers that a next call overwrites. Raises what OpenVINO raises.

    Each B is compiled for by itself: where the shape is open, OpenVINO works out that of every layer anew in each call,
    up to a fifth of the time of a narrow net. That of one image is compiled at once, so that what cannot be is known.
    """
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }

    @functools.lru_cache(maxsize=KEPT)
    def compiled(batch: int):
        fixed = net.clone()
        fixed.reshape([batch, *image])
        return openvino_core().compile_model(fixed, "CPU", options)

    compiled(1)
    return lambda images: compiled(len(images))(images)
