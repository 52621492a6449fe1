"""Seconds that whole nets take in a runtime, measured alternately with one of them, so that a machine whose pace drifts
treats all alike."""

import copy
import time
from typing import Callable

import torch
from torch import nn

from utils.compare import Latency, compare_latency, measured_alternately, random_images
from utils.deploy.layer_time import RUNTIMES
from utils.deploy.onnx_export import unchecked_onnx
from utils.deploy.onnx_runtimes import missing_packages, run_onnx
from utils.deploy.packages import require_packages


class Stopwatch:
    """Times nets in `runtime` (see RUNTIMES) beside a Darknet `dense`, on one image of (width, height) `size`. Makes
    nothing before it is needed. torch: on the net's device; the others on the CPU, wherever the net lies. clock: what
    tells seconds; of one thread on a machine that others use, time.process_time."""

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
        images = random_images(self.dense, self.size).cpu()
        return measured_alternately([self._run, own], images, repeats, where=self.runtime, clock=self.clock)

    def _made(self, net: nn.Module) -> Callable[[torch.Tensor], object]:
        if next(net.parameters()).device.type != "cpu":
            net = copy.deepcopy(net).cpu()
        run = run_onnx(self.runtime, unchecked_onnx(net, self.size))
        return lambda images: run(images.numpy())


def usual_runtime(device: torch.device) -> str:
    """The first of RUNTIMES that is installed, torch where nets do not lie on the CPU."""
    on_cpu = device.type == "cpu"
    return next(name for name in RUNTIMES if name == "torch" or (on_cpu and not missing_packages(name)))


def named_runtime(name: str | None, device: torch.device) -> str:
    """The runtime that --latency-backend names, or the usual one. Raises ValueError where it lacks packages."""
    if name is None:
        return usual_runtime(device)
    require_packages(*missing_packages(name), what=f"--latency-backend {name}")
    return name
