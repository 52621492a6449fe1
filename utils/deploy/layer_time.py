"""Seconds that single convolutions take in a runtime: measured once per processor, remembered, looked up by width.

A convolution is timed inside a net of a few of its kind side by side, each with its activation and an addition, since
runtimes fuse both into it. The difference between many and few of them, over their count, is free of what is paid once
per call: the call itself, and the conversion of the image and the result to the runtime's layout.
"""

import importlib.metadata
import json
import math
import re
import time
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import torch
from torch import nn

from utils.deploy.onnx_runtimes import FROM_ONNX, run_onnx
from utils.layers import activation_name, activation_of
from utils.output import environment, user_cache, write_json
from utils.parse_config import integer, layer_inputs
from utils.shapes import conv_window, layer_shapes

RUNTIMES = (*FROM_ONNX, "torch")  # of --latency-backend, the fastest first
STEM = 4  # channels of the image that a convolution of more reads through another one
BRANCHES = 6  # convolutions side by side in the larger net; fewer where one takes longer than LONG
METHOD = 2  # of measuring: times of another one are not taken for its own
LONG, ENOUGH = 2e-3, 0.05  # seconds: of one run; of all runs of one net
UNITS = (1, 2, 4, 8, 16, 32)  # blocks of channels that runtimes are known to compute in
SWEEP = range(17, 81, 3)  # widths that tell which of them
SHARES = (0.25, 0.5, 1.0)  # of the dense width, at which tables are measured; and the least width there is
SAVED_EVERY = 50  # measurements
MOST_FINE = 128  # widths that a table tells apart, per side

_ONNX_ACTIVATIONS = {"relu": "Relu", "logistic": "Sigmoid", "mish": "Mish", "leaky": "LeakyRelu"}


@dataclass(frozen=True)
class ConvSpec:
    """What the time of a convolution depends on. stride: (down, right); rows, columns: of its input; padding: pixels
    per side."""

    inputs: int
    outputs: int
    size: int
    stride: tuple[int, int]
    padding: int
    dilation: int
    groups: int
    rows: int
    columns: int
    activation: str

    @property
    def key(self) -> str:
        """The same as text, for a file."""
        return json.dumps(list(asdict(self).values()))

    def of_widths(self, inputs: int, outputs: int) -> "ConvSpec":
        """The same with other widths; a depthwise convolution keeps its outputs per input."""
        fields = asdict(self) | {"inputs": inputs, "outputs": outputs}
        if self.depthwise:
            fields |= {"groups": inputs, "outputs": inputs * self.outputs // self.inputs}
        return ConvSpec(**fields)

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads one input channel."""
        return self.groups > 1 and self.groups == self.inputs


def conv_specs(defs: list[dict], size: tuple[int, int]) -> dict[int, ConvSpec]:
    """layer -> spec of every convolution, for an image of (width, height) `size`."""
    shapes, found = layer_shapes(defs, *size), {}
    image = (integer(defs[0], "channels", 3), size[1], size[0])
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] == "convolutional":
            (source,) = layer_inputs(layer_i, section)
            channels, rows, columns = shapes[source] if source >= 0 else image
            window = conv_window(section)
            found[layer_i] = ConvSpec(channels, shapes[layer_i][0], window.size, window.stride, window.padding,
                                      window.dilation, integer(section, "groups", 1), rows, columns,
                                      activation_name(section))
    return found


class LayerClock:
    """Measured seconds of convolutions in one runtime, remembered in a file.

    measure: spec -> seconds; path: of the file, None to remember within this process alone.
    """

    def __init__(self, measure: Callable[[ConvSpec], float], path: Path | None = None):
        self.measure, self.path = measure, path
        self.known: dict[str, float] = _read(path)
        self.new = 0

    @classmethod
    def of(cls, runtime: str, device: torch.device) -> "LayerClock":
        """The clock of a runtime with torch's number of threads; torch: on `device`, the others: on the CPU. One file
        for each processor and version."""
        device = device if runtime == "torch" else torch.device("cpu")
        about = environment()
        place = (torch.cuda.get_device_name(device) if device.type == "cuda" else
                 f"{about['processor']} {about['threads']} threads")
        name = f"{place} {runtime} {importlib.metadata.version(runtime)} v{METHOD}"
        path = user_cache() / "layer-times" / (re.sub(r"[^A-Za-z0-9.]+", "-", name) + ".json")
        return cls(lambda spec: convolution_seconds(spec, runtime, device), path)

    def seconds(self, specs: Sequence[ConvSpec]) -> list[float]:
        """Of each; those that are not known are measured now."""
        for spec in specs:
            if spec.key not in self.known:
                self.known[spec.key] = self.measure(spec)
                self.new += 1
                if self.new % SAVED_EVERY == 0:
                    self.save()
        self.save()
        return [self.known[spec.key] for spec in specs]

    def save(self) -> None:
        """Add what was measured to the file; without a place to write, it is measured again next time."""
        if self.path is None or not self.new:
            return
        try:
            write_json(self.path, _read(self.path) | self.known)
            self.new = 0
        except OSError as error:
            warnings.warn(f"{self.path}: measured times are not remembered ({error})", stacklevel=2)
            self.path = None

    def unit(self) -> int:
        """How many channels the runtime computes at a time: widths in between take the time of the next multiple."""
        shape = ConvSpec(64, 64, 3, (1, 1), 1, 1, 1, 16, 16, "leaky")
        widths = np.array(SWEEP)
        seconds = np.array(self.seconds([shape.of_widths(64, int(width)) for width in widths]))
        return stairs(widths, seconds)


def stairs(widths: np.ndarray, seconds: np.ndarray) -> int:
    """The unit of UNITS for which seconds (n,) are closest to a line over widths (n,) that are rounded up to its
    multiples, by least squares."""
    def error(unit: int) -> float:
        steps = np.ceil(widths / unit) * unit
        slope, offset = np.polyfit(steps, seconds, 1)
        return float(np.square(seconds - slope * steps - offset).sum())
    return min(UNITS, key=error)


def _read(path: Path | None) -> dict[str, float]:
    """The times in a file; none where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return {str(key): float(value) for key, value in content.items() if 0 <= float(value) < math.inf}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@dataclass(frozen=True)
class WidthTable:
    """Seconds of a convolution by its widths. inputs (I,), outputs (O,): ascending, measured; seconds: (I, O); unit:
    widths are rounded up to its multiples."""

    inputs: np.ndarray
    outputs: np.ndarray
    seconds: np.ndarray
    unit: int

    @classmethod
    def of(cls, spec: ConvSpec, free: tuple[bool, bool], unit: int, clock: LayerClock) -> "WidthTable":
        """Of a convolution up to its dense widths; free: whether inputs and outputs can be cut."""
        unit, inputs, outputs = grid(spec, free, unit)
        found = clock.seconds([spec.of_widths(some, other) for some in inputs for other in outputs])
        return cls(np.array(inputs), np.array(outputs), np.reshape(found, (len(inputs), len(outputs))), unit)

    def at(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """(n,) seconds for widths (n,) and (n,): bilinear between what was measured; 0 where nothing is left."""
        (rows, row_step), (columns, column_step) = (_fine(own, self.unit) for own in (self.inputs, self.outputs))
        return self._between[_index(inputs, row_step, len(rows)), _index(outputs, column_step, len(columns))]

    @cached_property
    def _between(self) -> np.ndarray:
        """Seconds at every width that `at` tells apart, worked out once: a search asks a hundred thousand times."""
        rows, _ = _fine(self.inputs, self.unit)
        columns, _ = _fine(self.outputs, self.unit)
        along = np.stack([np.interp(columns, self.outputs, own) for own in self.seconds])
        both = np.stack([np.interp(rows, self.inputs, own) for own in along.T], axis=1)
        both[0], both[:, 0] = 0.0, 0.0
        return both


def _fine(known: np.ndarray, unit: int) -> tuple[np.ndarray, int]:
    """(0 and the multiples of a step up to the widest that is known, the step: `unit`, more where those are many)."""
    step = unit * math.ceil(known[-1] / unit / MOST_FINE)
    return np.arange(math.ceil(known[-1] / step) + 1) * step, step


def _index(widths: np.ndarray, step: int, count: int) -> np.ndarray:
    return np.minimum(-(-np.asarray(widths) // step), count - 1)


def grid(spec: ConvSpec, free: tuple[bool, bool], unit: int) -> tuple[int, list[int], list[int]]:
    """(unit of the widths, inputs, outputs) at which the table of a convolution is measured, see WidthTable.of."""
    unit = math.lcm(unit, spec.groups) if spec.groups > 1 and not spec.depthwise else unit
    inputs = levels(spec.inputs, unit) if free[0] else [spec.inputs]
    outputs = levels(spec.outputs, unit) if free[1] and not spec.depthwise else [spec.outputs]
    return unit, inputs, outputs


def levels(width: int, unit: int) -> list[int]:
    """Widths at which a table is measured: multiples of `unit`, and the dense width."""
    return sorted({min(math.ceil(width * share / unit) * unit, width) for share in SHARES} | {min(unit, width)})


def convolution_seconds(spec: ConvSpec, runtime: str, device: torch.device) -> float:
    """Measured seconds of one convolution with its activation and an addition, on one image of random numbers. device:
    where the runtime works."""
    channels = spec.inputs if runtime == "torch" else min(spec.inputs, STEM)
    image = np.random.default_rng(0).random((1, channels, spec.rows, spec.columns), dtype=np.float32)
    # of a single thread its own seconds count, not those that others take in between
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    one = _runs(_side_by_side(spec, 1, runtime, device), image, clock)
    branches = BRANCHES if one < LONG else 2
    many = _runs(_side_by_side(spec, branches, runtime, device), image, clock)
    return max(many - one, 0.0) / (branches - 1)


def _runs(run: Callable[[np.ndarray], object], image: np.ndarray, clock: Callable[[], float]) -> float:
    """The shortest of some runs: what disturbs a run only adds to it."""
    run(image), run(image)
    times: list[float] = []
    while len(times) < 5 or (sum(times) < ENOUGH and len(times) < 40):
        started = clock()
        run(image)
        times.append(clock() - started)
    return min(times)


def _side_by_side(spec: ConvSpec, count: int, runtime: str, device: torch.device) -> Callable[[np.ndarray], object]:
    """A net of `count` such convolutions that read one image and are added up, ready to run."""
    if runtime == "torch":
        return _torch_net(spec, count, device)
    return run_onnx(runtime, _onnx_net(spec, count).SerializeToString())


@torch.inference_mode()
def _torch_net(spec: ConvSpec, count: int, device: torch.device) -> Callable[[np.ndarray], object]:
    layers = [nn.Conv2d(spec.inputs, spec.outputs, spec.size, spec.stride, spec.padding, spec.dilation, spec.groups)
              .to(device, memory_format=torch.channels_last) for _ in range(count)]
    activation = activation_of({"type": "convolutional", "activation": spec.activation})

    @torch.inference_mode()
    def run(image: np.ndarray) -> torch.Tensor:
        fed = torch.from_numpy(image).to(device).contiguous(memory_format=torch.channels_last)
        total = activation(layers[0](fed))
        for layer in layers[1:]:
            total += activation(layer(fed))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return total
    return run


def _onnx_net(spec: ConvSpec, count: int):
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, constants, total, read = np.random.default_rng(0), [], [], "", "x"
    if spec.inputs > STEM:  # what the branches read lies as the runtime lays it out, not as an image does
        stem = rng.standard_normal((spec.inputs, STEM, 1, 1), dtype=np.float32)
        constants.append(numpy_helper.from_array(stem, "stem"))
        nodes.append(helper.make_node("Conv", ["x", "stem"], ["read"]))
        read = "read"
    shape = (spec.outputs, spec.inputs // spec.groups, spec.size, spec.size)
    for i in range(count):  # weights differ, or a runtime computes one branch for all
        constants += [numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), f"w{i}"),
                      numpy_helper.from_array(rng.standard_normal(spec.outputs, dtype=np.float32), f"b{i}")]
        nodes.append(helper.make_node("Conv", [read, f"w{i}", f"b{i}"], [f"c{i}"], strides=spec.stride,
                                      pads=[spec.padding] * 4, dilations=[spec.dilation] * 2, group=spec.groups))
        branch, more = _onnx_activation(spec.activation, f"c{i}")
        nodes += more
        if total:
            nodes.append(helper.make_node("Add", [total, branch], [f"s{i}"]))
        total = f"s{i}" if total else branch
    nodes.append(helper.make_node("GlobalAveragePool", [total], ["y"]))
    value = lambda name, sides: helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
    image = value("x", [1, min(spec.inputs, STEM), spec.rows, spec.columns])
    graph = helper.make_graph(nodes, "convolutions", [image], [value("y", [1, spec.outputs, 1, 1])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _onnx_activation(activation: str, source: str) -> tuple[str, list]:
    """(name of the result, nodes) of an activation; one that ONNX lacks is taken for leaky."""
    from onnx import helper

    if activation == "linear":
        return source, []
    if activation == "swish":
        return f"{source}a", [helper.make_node("Sigmoid", [source], [f"{source}g"]),
                              helper.make_node("Mul", [source, f"{source}g"], [f"{source}a"])]
    kind = _ONNX_ACTIVATIONS.get(activation, "LeakyRelu")
    return f"{source}a", [helper.make_node(kind, [source], [f"{source}a"])]
