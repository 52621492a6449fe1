"""Darknet's binary .weights: the one place that knows the order of its floats.

A header (major, minor, revision: int32; images seen: int64, or int32 in files older than 0.2), then float32s, layer by
layer: with batch norm beta, gamma, running mean, running variance, else the bias; then the kernel (out, in, height,
width).
Source: darknet parser.c, load_weights_upto and load_convolutional_weights. PyTorch ports
(eriklindernoren/PyTorch-YOLOv3 and its forks) write version 0.0.0 with five int32s all the same, the last two being a
count and 0.

What a file holds is worked out from its size before its floats are read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.file_kinds import kind_of
from utils.origin import missing
from utils.output import replacing
from utils.parse_config import class_count, head_anchors, head_entries, head_indices, integer, section_of
from utils.shapes import layer_costs

HEADER = np.dtype([("version", "<i4", 3), ("seen", "<i8")])  # what we write; read the same way from 0.2 on
OLD_HEADER = np.dtype([("version", "<i4", 3), ("seen", "<i4")])  # before 0.2
LEAST_VARIANCE = -1e-5  # of a batch norm, less what undone rescaling rounds; Darknet adds 1e-6 before the root
MOST_GUESSED_CLASSES = 10_000  # of a file with other heads: YOLO9000 has 9,418; more is a file that fits by chance


class WeightsError(ValueError):
    """A weights file does not fit the net, or holds no weights; the message says how many floats are over or
    missing."""


@dataclass(frozen=True)
class LoadReport:
    """What a weights file or a checkpoint held for the net: "full", "backbone" (ends on a layer boundary) or "no heads"
    (other classes). As text it says so in a printed line."""

    kind: str
    layers: int  # layers with weights that were loaded
    detail: str

    @property
    def complete(self) -> bool:
        """Whether nothing starts from scratch."""
        return self.kind == "full"

    def __str__(self) -> str:
        return "all layers" if self.complete else self.detail


def conv_tensors(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> list[Tensor]:
    """Tensors of one convolution in file order."""
    if bn is None:
        return [conv.bias, conv.weight]
    return [bn.bias, bn.weight, bn.running_mean, bn.running_var, conv.weight]


def darknet_bytes(model: nn.Module) -> int:
    """Size of the model's .weights file."""
    return HEADER.itemsize + 4 * sum(
        tensor.numel() for _, conv, bn in model.convolutions() for tensor in conv_tensors(conv, bn)
    )


def file_bytes(defs: list[dict]) -> int:
    """Size of a .weights file of the net `defs`."""
    return HEADER.itemsize + 4 * sum(_layer_floats(defs).values())


@dataclass(frozen=True)
class _Contents:
    """What a file of a certain size holds: "full", "backbone" or "no heads", behind a header of that type."""

    kind: str
    header: np.dtype
    sizes: dict[int, int]  # floats of each layer in the file, by layer index, in file order
    classes: int | None  # of other heads than the net's


def read_darknet_weights(model: nn.Module, path: str | os.PathLike) -> LoadReport:
    """Load `path` into `model` (a Darknet), all or nothing. Raises WeightsError or FileNotFoundError."""
    path, defs = Path(path), model.module_defs
    contents = _contents(path, defs)
    floats = np.fromfile(path, "<f4", offset=contents.header.itemsize)
    _check_finite(path, floats, contents.sizes)
    layers = {i: conv_tensors(conv, bn) for i, conv, bn in model.convolutions() if i in contents.sizes}
    _check_variances(path, floats, layers, contents.sizes)
    if contents.kind == "full":
        report = LoadReport("full", len(layers), f"all {len(layers)} layers with weights")
    elif contents.kind == "backbone":
        count = len(list(model.convolutions()))
        report = LoadReport("backbone", len(layers), f"the first {len(layers)} of {count} layers with weights; the "
                            "others start from scratch")
    else:
        heads = _head_convolutions(defs)
        layers |= {i: [] for i in heads}
        report = LoadReport("no heads", len(layers) - len(heads), f"all but the {len(heads)} heads, which were made "
                            f"for {contents.classes} classes and start from scratch for {class_count(defs)}")
    _copy(layers, contents.sizes, floats)
    model.seen = int(np.fromfile(path, contents.header, 1)["seen"][0])
    return report


def file_classes(path: str | os.PathLike, defs: list[dict]) -> int | None:
    """The class count of the heads in a .weights file of the net `defs`; None where it holds none (a backbone).

    Worked out from the file's size. Raises WeightsError or FileNotFoundError where the file does not fit, whatever the
    class count.
    """
    contents = _contents(Path(path), defs)
    return class_count(defs) if contents.kind == "full" else contents.classes


def write_darknet_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Save `model` (a Darknet) with header 0.2.5 and a 64-bit count of images seen."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        # not tofile: on a full disk it says how many numbers are missing, and not why
        file.write(np.array(((0, 2, 5), model.seen), HEADER).tobytes())
        for _, conv, bn in model.convolutions():
            for tensor in conv_tensors(conv, bn):
                file.write(tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False).tobytes())


def _contents(path: Path, defs: list[dict]) -> _Contents:
    """What the file holds for the net `defs`, by its size."""
    headers = _headers(path)
    sizes, floats = _layer_floats(defs), {header: (path.stat().st_size - header.itemsize) // 4 for header in headers}
    for found in (_full, _other_heads, _backbone):
        for header in headers:
            if (contents := found(header, defs, sizes, floats[header])) is not None:
                return contents
    count, total = floats[headers[0]], sum(sizes.values())
    raise WeightsError(f"{path}: found {count:,} floats, expected {total:,}: {abs(count - total):,} "
                       f"{'over' if count > total else 'missing'}; is this the cfg these weights were trained with?")


def _headers(path: Path) -> list[np.dtype]:
    """The headers that the file can have, the likelier one first."""
    if not path.is_file():
        raise missing(path, "weights file")
    size, start = path.stat().st_size, np.fromfile(path, "<i4", 3)
    if size < OLD_HEADER.itemsize or not (0 <= start[0] < 1000 and 0 <= start[1] < 1000):
        found = kind_of(path) or "no Darknet header"
        raise WeightsError(f"{path}: found {found}; expected Darknet .weights (major, minor, revision and a count of "
                           "images first) or a checkpoint")
    if start[0] * 10 + start[1] >= 2:
        headers = [HEADER]
    else:
        headers = [OLD_HEADER] if start.any() else [HEADER, OLD_HEADER]
    if size < headers[0].itemsize or size % 4:
        raise WeightsError(f"{path}: found {size:,} bytes, expected {headers[0].itemsize} and a multiple of 4: the "
                           "file is cut off")
    return headers


def _layer_floats(defs: list[dict]) -> dict[int, int]:
    """Floats of each convolution in a file, by layer index."""
    statistics = lambda section: 2 * integer(section, "filters") if integer(section, "batch_normalize") else 0
    layers = enumerate(zip(defs[1:], layer_costs(defs)))
    return {i: cost.parameters + statistics(section) for i, (section, cost) in layers
            if section["type"] == "convolutional"}


def _full(header: np.dtype, defs: list[dict], sizes: dict[int, int], found: int) -> _Contents | None:
    return _Contents("full", header, sizes, None) if found == sum(sizes.values()) else None


def _other_heads(header: np.dtype, defs: list[dict], sizes: dict[int, int], found: int) -> _Contents | None:
    """The net with heads of the class count for which it needs exactly `found` floats. The total is linear in it."""
    heads = [i for i in _head_convolutions(defs) if i in sizes]
    if not heads or len(heads) != len(head_indices(defs)):
        return None
    changed = lambda classes: sizes | {i: _head_floats(defs, i, sizes[i], classes) for i in heads}
    total = lambda classes: sum(changed(classes).values())
    classes, rest = divmod(found - total(0), total(1) - total(0))
    fits = rest == 0 and 1 <= classes <= MOST_GUESSED_CLASSES
    return _Contents("no heads", header, changed(classes), classes) if fits else None


def _backbone(header: np.dtype, defs: list[dict], sizes: dict[int, int], found: int) -> _Contents | None:
    """The first layers that `found` floats fill exactly."""
    match = np.flatnonzero(np.cumsum(list(sizes.values())) == found)
    return _Contents("backbone", header, dict(list(sizes.items())[:int(match[0]) + 1]), None) if len(match) else None


def _check_finite(path: Path, floats: np.ndarray, sizes: dict[int, int]) -> None:
    if np.isfinite(floats.sum(dtype=np.float64)):  # a sum of float32s cannot leave the range of float64
        return
    ends = np.cumsum(list(sizes.values()))
    layer_i = list(sizes)[int(np.searchsorted(ends, np.flatnonzero(~np.isfinite(floats))[0], side="right"))]
    raise WeightsError(f"{path}: found a weight that is not a finite number in layer {layer_i}, expected finite ones: "
                       "these weights are damaged, or those of a training that diverged")


def _check_variances(path: Path, floats: np.ndarray, layers: dict[int, list[Tensor]], sizes: dict[int, int]) -> None:
    """Raise WeightsError where the floats cannot be this net's, although they are as many."""
    if not floats.any():
        raise WeightsError(f"{path}: found nothing but zeros behind the header, expected weights: the file was not "
                           "downloaded or written to its end")
    start = 0
    for i, tensors in layers.items():
        if len(tensors) > 2:  # with batch norm
            n = tensors[3].numel()
            least = floats[start + 3 * n:start + 4 * n].min()
            if least < LEAST_VARIANCE:
                raise WeightsError(f"{path}: found a variance of {least:.3g} in layer {i}, expected 0 or more: these "
                                   "weights are damaged, or those of another cfg with as many")
        start += sizes[i]


def _copy(layers: dict[int, list[Tensor]], sizes: dict[int, int], floats: np.ndarray) -> None:
    """Fill the tensors of `layers` from `floats`; a layer with no tensor is skipped over."""
    start = 0
    with torch.no_grad():
        for i, tensors in layers.items():
            offset = start
            for tensor in tensors:
                part = floats[offset:offset + tensor.numel()]
                tensor.copy_(torch.from_numpy(part.copy()).view(tensor.shape))
                offset += tensor.numel()
            start += sizes[i]


def _head_convolutions(defs: list[dict]) -> list[int]:
    return [i - 1 for i in head_indices(defs)]


def _head_floats(defs: list[dict], conv_i: int, floats: int, classes: int) -> int:
    """Floats of head convolution `conv_i` if it were made for `classes` classes."""
    filters = integer(section_of(defs, conv_i), "filters")
    return (
        floats // filters * len(head_anchors(defs[2 + conv_i])) * head_entries({**defs[2 + conv_i], "classes": classes})
    )
