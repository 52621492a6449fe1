"""Seconds that whole nets take in a runtime, measured alternately with one of them, so that a machine whose pace drifts
treats all alike."""

import time
from typing import Callable

import torch
from torch import nn

from utils.compare import Latency, compare_latency, measured_alternately, random_images
from utils.deploy.layer_time import RUNTIMES
from utils.deploy.onnx_export import unchecked_onnx
from utils.deploy.onnx_runtimes import missing_packages, run_onnx


class Stopwatch:
    """Times nets in `runtime` (see RUNTIMES) beside a Darknet `dense`, on one image of (width, height) `size`. Makes
    nothing before it is needed; torch: on the net's device. clock: what tells seconds; of one thread on a machine that
    others use, time.process_time."""

    def __init__(self, runtime: str, dense: nn.Module, size: tuple[int, int]):
        self.runtime, self.dense, self.size = runtime, dense, size
        self.clock: Callable[[], float] = time.perf_counter
        self._run: Callable | None = None

    def beside(self, net: nn.Module, repeats: int) -> list[Latency]:
        """[of the dense net, of `net`], each the median of `repeats` forward passes, decoding included."""
        if self.runtime == "torch":
            return compare_latency([self.dense, net], self.size, repeats)
        if self._run is None:
            self._run = self._made(self.dense)
        own = self._run if net is self.dense else self._made(net)
        images = random_images(self.dense, self.size)
        return measured_alternately([self._run, own], images, repeats, where=self.runtime, clock=self.clock)

    def _made(self, net: nn.Module) -> Callable[[torch.Tensor], object]:
        run = run_onnx(self.runtime, unchecked_onnx(net, self.size))
        return lambda images: run(images.numpy())


def usual_runtime(on_cpu: bool) -> str:
    """The first of RUNTIMES that is installed, torch where the net does not lie on the CPU."""
    return next(name for name in RUNTIMES if name == "torch" or (on_cpu and not missing_packages(name)))
