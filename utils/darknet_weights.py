"""Darknet's binary .weights: the one place that knows the order of its floats.

A header (major, minor, revision: int32; images seen: int64, or int32 in files older than 0.2), then float32s, layer by
layer: with batch norm beta, gamma, running mean, running variance, else the bias; then the kernel (out, in, height, width).
Source: darknet parser.c, load_weights_upto and load_convolutional_weights.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.parse_config import class_count, head_anchors, head_indices
from utils.writing import replacing

HEADER = np.dtype([("version", "<i4", 3), ("seen", "<i8")])  # what we write; read the same way from 0.2 on


class WeightsError(ValueError):
    """A weights file does not fit the net; the message says how many floats are over or missing."""


@dataclass(frozen=True)
class LoadReport:
    """What a weights file held for the net: "full", "backbone" (ends on a layer boundary) or "no heads" (other classes)."""

    kind: str
    layers: int  # layers with weights that were loaded
    detail: str


def conv_tensors(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> list[Tensor]:
    """Tensors of one convolution in file order."""
    if bn is None:
        return [conv.bias, conv.weight]
    return [bn.bias, bn.weight, bn.running_mean, bn.running_var, conv.weight]


def darknet_bytes(model: nn.Module) -> int:
    """Size of the model's .weights file."""
    return HEADER.itemsize + 4 * sum(tensor.numel() for _, conv, bn in model.convolutions() for tensor in conv_tensors(conv, bn))


def read_darknet_weights(model: nn.Module, path: str | os.PathLike) -> LoadReport:
    """Load `path` into `model` (a Darknet), all or nothing. Raises WeightsError or FileNotFoundError."""
    path = Path(path)
    floats, model_seen = _read_floats(path)
    layers = {i: conv_tensors(conv, bn) for i, conv, bn in model.convolutions()}
    sizes = {i: sum(tensor.numel() for tensor in tensors) for i, tensors in layers.items()}
    total = sum(sizes.values())
    if len(floats) == total:
        report = LoadReport("full", len(layers), f"all {len(layers)} layers with weights")
    elif (classes := _file_classes(model, sizes, len(floats))) is not None:
        heads = _head_convolutions(model)
        for i in heads:
            sizes[i] = _head_floats(model, i, sizes[i], classes)
            layers[i] = []
        report = LoadReport("no heads", len(layers) - len(heads), f"all but the {len(heads)} heads, which were made for "
                            f"{classes} classes and start from scratch for {class_count(model.module_defs)}")
    elif (count := _boundary(sizes, len(floats))) is not None:
        layers = dict(list(layers.items())[:count])
        report = LoadReport("backbone", count, f"the first {count} of {len(sizes)} layers with weights; the others start from scratch")
    else:
        difference = len(floats) - total
        raise WeightsError(f"{path}: found {len(floats):,} floats, expected {total:,}: {abs(difference):,} "
                           f"{'over' if difference > 0 else 'missing'}; is this the cfg these weights were trained with?")
    _copy(layers, sizes, floats)
    model.seen = model_seen
    return report


def write_darknet_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Save `model` (a Darknet) with header 0.2.5 and a 64-bit count of images seen."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.array(((0, 2, 5), model.seen), HEADER).tofile(file)
        for _, conv, bn in model.convolutions():
            for tensor in conv_tensors(conv, bn):
                tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False).tofile(file)


def _read_floats(path: Path) -> tuple[np.ndarray, int]:
    """(floats after the header, images seen)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    data = path.read_bytes()
    version = np.frombuffer(data[:12], "<i4") if len(data) >= 16 else None
    if version is None or not (0 <= version[0] < 1000 and 0 <= version[1] < 1000):
        raise WeightsError(f"{path}: found no Darknet header, expected major, minor, revision and a count of images")
    wide = version[0] * 10 + version[1] >= 2  # darknet reads a 32-bit count in older files
    header = 20 if wide else 16
    if len(data) < header or (len(data) - header) % 4:
        raise WeightsError(f"{path}: found {len(data):,} bytes, expected {header} and a multiple of 4: the file is cut off")
    return np.frombuffer(data, "<f4", offset=header), int(np.frombuffer(data[12:header], "<i8" if wide else "<i4")[0])


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


def _head_convolutions(model: nn.Module) -> list[int]:
    return [i - 1 for i in head_indices(model.module_defs)]


def _head_floats(model: nn.Module, conv_i: int, floats: int, classes: int) -> int:
    """Floats of head convolution `conv_i` if it were made for `classes` classes."""
    filters = int(model.module_defs[1 + conv_i]["filters"])
    return floats // filters * len(head_anchors(model.module_defs[2 + conv_i])) * (5 + classes)


def _file_classes(model: nn.Module, sizes: dict[int, int], found: int) -> int | None:
    """The class count for which this net would need exactly `found` floats, or None. The total is linear in it."""
    heads = [i for i in _head_convolutions(model) if i in sizes]
    if not heads or len(heads) != len(head_indices(model.module_defs)):
        return None
    total = lambda classes: sum(sizes.values()) + sum(_head_floats(model, i, sizes[i], classes) - sizes[i] for i in heads)
    per_class = total(1) - total(0)
    classes, rest = divmod(found - total(0), per_class)
    return classes if rest == 0 and classes >= 1 else None


def _boundary(sizes: dict[int, int], found: int) -> int | None:
    """How many whole layers `found` floats fill exactly, or None."""
    ends = np.cumsum(list(sizes.values()))
    match = np.flatnonzero(ends == found)
    return int(match[0]) + 1 if len(match) else None
