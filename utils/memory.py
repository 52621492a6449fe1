"""How much memory a net needs, worked out from its cfg alone, and how much this machine has.

A forward pass holds the maps that a later layer still reads (utils.shapes.live_values). A training step keeps, from the
forward pass to the backward pass, what the gradients of each layer are computed from: `kept_values`. Weights take four
times their size in training: themselves, their gradients, the momentum of SGD, and the moving average that is scored.
And whether memory that was freed stays with the process: `keep_freed`.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from utils.layers import ACTIVATIONS, activation_name
from utils.parse_config import input_size, integer, layer_inputs
from utils.shapes import layer_shapes, live_values, pool_window, total_cost

FLOAT = 4  # bytes
COPIES_IN_TRAINING = 4  # of the weights; see above
COPIES_ON_DISK = 7  # of a run: last.pth holds three (weights, average, momentum), then best.pth and three published
PROGRAM_BYTES = 700 << 20  # Python, torch and OpenCV, once the first batch has run
SURE = 0.95  # of the maps that are counted; torch keeps within 2 % of them
WORKSPACE_MAPS = 3  # copies of the largest map that a convolution and its gradients work in


@dataclass(frozen=True)
class Needs:
    """Bytes, for a batch of a net at an input size."""

    weights: int
    inference: int
    training: int
    disk: int


def needs(defs: list[dict], batch: int, size: tuple[int, int] | None = None) -> Needs:
    """What the net `defs` needs for `batch` images of (width, height) `size` (default: the cfg's), in float32. Raises
    CfgError."""
    width, height = size or input_size(defs)
    shapes = layer_shapes(defs, width, height)
    image = (integer(defs[0], "channels", 3), height, width)
    weights = FLOAT * total_cost(defs, width, height).parameters
    largest = FLOAT * batch * max(channels * rows * columns for channels, rows, columns in shapes)
    live = FLOAT * batch * max(live_values(defs, shapes, image))
    kept = FLOAT * batch * sum(kept_values(defs, shapes, image))
    return Needs(weights, PROGRAM_BYTES + 2 * weights + live + largest,
                 PROGRAM_BYTES + COPIES_IN_TRAINING * weights + kept + WORKSPACE_MAPS * largest,
                 COPIES_ON_DISK * weights)


def at_least(defs: list[dict], batch: int, size: tuple[int, int], half: bool = False, frozen: int = 0) -> int:
    """Bytes that a training step takes for sure, of `batch` images of (width, height) `size`: the weights and the maps
    that the backward pass needs, nothing else. half: of 16 bits; frozen: how many layers are not trained."""
    width, height = size
    image = (integer(defs[0], "channels", 3), height, width)
    by_layer = kept_values(defs, layer_shapes(defs, width, height), image)
    # behind frozen layers, one without weights may need no gradient either
    kept = sum(values for layer_i, (values, section) in enumerate(zip(by_layer, defs[1:]))
               if not frozen or layer_i >= frozen and section["type"] == "convolutional")
    return FLOAT * total_cost(defs, width, height).parameters + int(SURE * FLOAT * batch * kept) // (1 + half)


def kept_values(defs: list[dict], shapes: list[tuple[int, int, int]], image: tuple[int, int, int]) -> list[int]:
    """float32 values that each layer's gradients need of one image, beyond what an earlier layer keeps already.

    A convolution keeps its input, a batch norm its own, an activation its output where it works in place and its input
    otherwise, max pooling its input and 64-bit indices; sums, routes and upsampling keep nothing. shapes: of
    layer_shapes; image: (channels, height, width).
    """
    kept: set[int] = set()  # layers whose output is kept
    maker: dict[int, int] = {-1: -1}  # layer -> the one that made its output: a route of one map hands it on
    found = []
    for layer_i, section in enumerate(defs[1:]):
        inputs = [maker[j] for j in layer_inputs(layer_i, section)]
        maker[layer_i] = inputs[0] if section["type"] == "route" and len(inputs) == 1 else layer_i
        own = _values(shapes[layer_i])
        values = 0
        if section["type"] in ("convolutional", "maxpool", "local_avgpool", "scale_channels", "sam"):
            fresh = set(inputs) - kept
            values += sum(_values(image if j < 0 else shapes[j]) for j in fresh)
            kept |= fresh
        if section["type"] == "convolutional":
            values += own if integer(section, "batch_normalize") else 0  # the batch norm's input
            values += _kept_by_activation(section, own, layer_i, kept)
        elif section["type"] == "maxpool":
            values += 2 * own + _padded(section, shapes[inputs[0]] if inputs[0] >= 0 else image, shapes[layer_i])
        elif section["type"] == "dropout":
            values += own
        elif activation_name(section) != "linear" and section["type"] in ("shortcut", "scale_channels", "sam"):
            values += _kept_by_activation(section, own, layer_i, kept)
        found.append(values)
    return found


def _kept_by_activation(section: dict, own: int, layer_i: int, kept: set[int]) -> int:
    """Values that an activation keeps: its output (which may serve the next layer too) or its input."""
    name = activation_name(section)
    if name == "linear":
        return 0
    module = ACTIVATIONS[name].module
    if module is not None and (getattr(module(), "inplace", False) or name in ("logistic", "tanh")):
        kept.add(layer_i)
    return own


def _padded(section: dict, shape: tuple[int, int, int], pooled: tuple[int, int, int]) -> int:
    """Values of a max pooling's input once it is padded, where its windows reach beyond the map and that is a copy."""
    window = pool_window(section)
    if window.padding % 2 == 0:
        return 0
    reached = [(count - 1) * step + window.size for count, step in zip(pooled[1:], window.stride)]
    beyond = any(side > given for side, given in zip(reached, shape[1:]))
    return shape[0] * reached[0] * reached[1] if beyond else 0


def _values(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


@dataclass(frozen=True)
class Memory:
    """Bytes of this machine, or of the container that the process runs in; None where the system does not say."""

    total: int | None
    available: int | None
    swap: int = 0

    @property
    def most(self) -> int | None:
        """What all programs together can have."""
        return None if self.total is None else self.total + self.swap


def machine_memory(root: Path = Path("/")) -> Memory:
    """Of Linux' /proc/meminfo, bounded by the limit of the control group; of other systems the total alone. root: of
    the file system, for tests."""
    try:
        text = (root / "proc/meminfo").read_text()
        lines = {"SwapTotal": "0 kB"} | dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        total, available, swap = (
            1024 * int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable", "SwapTotal"))
    except (OSError, KeyError, ValueError, IndexError):
        return Memory(_total_by_sysconf(), None)
    limit, used, most_swap = (_number(root / "sys/fs/cgroup" / name)
                              for name in ("memory.max", "memory.current", "memory.swap.max"))
    if limit is not None:
        total, available = min(total, limit), min(available, max(limit - (used or 0), 0))
    return Memory(total, available, swap if most_swap is None else min(swap, most_swap))


def keep_freed(keep: bool = True) -> bool:
    """Keep memory that is freed for what is reserved next, instead of handing it back to the system; returns whether
    the C library could be told (glibc can: mallopt(3)).

    A training step frees and reserves gigabytes of maps. glibc gives each large one back at once, and the system clears
    every page of it anew when it is touched again. keep: False sets glibc's defaults again.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function: macOS, musl, Windows
        return False
    wanted = {trim_threshold: -1, mmap_max: 0} if keep else {trim_threshold: 128 << 10, mmap_max: 65536}
    return all([mallopt(parameter, value) for parameter, value in wanted.items()])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None


def _total_by_sysconf() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
