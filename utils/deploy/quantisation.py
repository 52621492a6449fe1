"""Files in 8-bit numbers: calibrated on training images, scored in their runtime on validation images, refused when
they lose or gain nothing.

NNCF's `quantize` makes them, OpenVINO and ONNX (QDQ) alike. Layers stay in float where measuring says so: those that
move the boxes most (utils.deploy.sensitivity), as many as the score on training images that were not calibrated with
asks for.
"""

import contextlib
import io
import logging
import re
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from utils.data.datasets import evaluation_loader
from utils.deploy.metadata import Metadata
from utils.deploy.onnx_export import require_packages, with_short_names
from utils.deploy.processor import int8_words
from utils.deploy.runtimes import Exported, open_exported
from utils.deploy.sensitivity import layer_errors
from utils.evaluation.evaluate import evaluate
from utils.letterbox import to_input
from utils.parse_config import section_of

KEPT = (0, 1, 3, 6, 12, 24)  # how many of the worst layers stay in float, tried in turn
MEASURED = 8  # images for the errors of layers
HELD_OUT = 96  # training images for the choice of layers
NOISE = 1.05  # how much slower counts as slower: repeated runs of one file differ by that
RUNS = 40  # of each file, alternately


class QuantisationError(ValueError):
    """An 8-bit file that is not worth having: it loses too much, or is no faster."""


@dataclass(frozen=True)
class Limits:
    """What an 8-bit file may cost."""

    max_drop: float = 0.01  # of AP@.5 and of AP@[.5:.95], absolute
    allow_slower: bool = False


@dataclass(frozen=True)
class Pictures:
    """Datasets (utils.data.datasets.ListDataset) of one input size."""

    train: Dataset
    valid: Dataset
    calibration: int = 192  # training images, evenly spaced

    def calibrated(self) -> list[int]:
        """Indices of the training images that calibrate."""
        count = min(self.calibration, len(self.train))
        return [i * len(self.train) // count for i in range(count)]

    def held_out(self) -> Dataset:
        """Labelled training images that do not calibrate; all of them where there are too few."""
        others = sorted(set(range(len(self.train))) - set(self.calibrated())) or list(range(len(self.train)))
        step = max(len(others) // HELD_OUT, 1)
        return Subset(self.train, others[::step][:HELD_OUT])

    def inputs(self, channels: int) -> list[Tensor]:
        """The calibrating images as the net sees them, (1, channels, H, W) each."""
        images = (self.train[i][0][None] for i in self.calibrated())
        return [to_input(image, torch.device("cpu"), channels).contiguous() for image in images]


def judge(
    reference: Exported,
    candidate: Exported,
    valid: Dataset,
    limits: Limits = Limits(),
    worst_layers: Callable[[], str] = str,
) -> str:
    """In words what an 8-bit file loses and gains beside the float32 one, both scored and timed (alternately) in their
    runtimes.

    valid: labelled images of their size. worst_layers: names those that lose most, asked where the file is refused.
    Raises QuantisationError where AP@.5 or AP@[.5:.95] drops by more than limits.max_drop, or where it is slower and
    that is not allowed.
    """
    scores = [_score(file, valid) for file in (reference, candidate)]
    seconds = alternate_seconds([file.predict for file in (reference, candidate)], _one_image(reference, valid))
    return verdict(candidate.path, scores, seconds, limits, worst_layers)


def verdict(
    path: Path, scores: Sequence, seconds: Sequence[float], limits: Limits, worst_layers: Callable[[], str] = str
) -> str:
    """`judge`, given both EvalResults and both times (float32, int8)."""
    drops = {"AP@.5": scores[0].map50 - scores[1].map50, "AP@[.5:.95]": scores[0].map - scores[1].map}
    words = (f"AP@.5 {scores[0].map50:.4f} -> {scores[1].map50:.4f}, AP@[.5:.95] {scores[0].map:.4f} -> "
             f"{scores[1].map:.4f}, "
             f"{seconds[0] * 1e3:.1f} -> {seconds[1] * 1e3:.1f} ms per image ({torch.get_num_threads()} threads, "
             f"median of {RUNS}, alternately)")
    name, drop = max(drops.items(), key=lambda item: item[1])
    if not drop <= limits.max_drop:  # NaN as well
        raise QuantisationError(f"{path}: int8 loses {drop:.4f} {name}, --max-drop is {limits.max_drop:g} "
                                f"({words}){worst_layers()}; nothing was "
                                "written: calibrate on more images like those it will see (--data, --calibration), or "
                                "accept it with --max-drop")
    if seconds[1] > NOISE * seconds[0] and not limits.allow_slower:
        raise QuantisationError(f"{path}: int8 is slower than float32 here ({words}; {int8_words()}); nothing was "
                                "written: --allow-slower writes it for another processor, or for its size")
    return words


def _score(file: Exported, images: Dataset):
    return evaluate(file, evaluation_loader(images, 8, 0), file.metadata.names, quiet=True, predict=file.predict)


def _one_image(file: Exported, images: Dataset) -> Tensor:
    return to_input(images[0][0][None], file.device, file.channels)


def alternate_seconds(predicts: Sequence[Callable], image: Tensor, runs: int = RUNS, warmup: int = 3) -> list[float]:
    """Median seconds of each function on one image, run in turn (A B A B ...), so that a machine whose pace drifts
    treats all alike."""
    times: list[list[float]] = [[] for _ in predicts]
    for run_i in range(runs + warmup):
        for predict, own in zip(predicts, times):
            started = time.perf_counter()
            predict(image)
            own.append(time.perf_counter() - started)
    return [statistics.median(own[warmup:]) for own in times]


def quantise(
    model: nn.Module, reference: Exported, path: Path, pictures: Pictures, limits: Limits, called: Path
) -> str:
    """Write the 8-bit twin of an exported float32 file (.onnx, .xml) of a Darknet (eval mode, CPU) as `path`, `called`
    so in errors; returns in words what it loses and gains. Raises QuantisationError (see `judge`), ValueError, naming
    the pip command, where a package is missing."""
    inputs = pictures.inputs(reference.channels)
    errors = layer_errors(model, torch.cat(inputs[:MEASURED]))
    # one that may be slower is nothing for --backend auto
    made_from = "" if limits.allow_slower else reference.metadata.made_from
    make = _maker(reference, inputs, replace(reference.metadata, precision="int8", made_from=made_from))
    kept = _fewest_in_float(make, reference, path, pictures.held_out(), list(errors), limits.max_drop / 2)
    made = replace(open_exported(path, size=reference.size), path=called)
    words = judge(reference, made, pictures.valid, limits, lambda: _worst(model, errors))
    in_float = f"layers {', '.join(map(str, sorted(kept)))} in float" if kept else "every convolution in 8 bits"
    return f"{words}; {len(inputs)} images calibrated it, {in_float}; {int8_words()}"


def _worst(model: nn.Module, errors: dict[int, float], count: int = 3) -> str:
    names = [f"{i} [{section_of(model.module_defs, i)['type']}] ({errors[i]:.3f})" for i in list(errors)[:count]]
    return f"; the layers that alone move the boxes most (1 - IoU + score difference): {', '.join(names)}"


def _fewest_in_float(
    make: Callable[[Path, list[int]], None],
    reference: Exported,
    path: Path,
    images: Dataset,
    layers: list[int],
    drop: float,
) -> list[int]:
    """Write `path` with as few of `layers` (worst first) in float as keep the score on `images`, or with what loses
    least of all that was tried; returns those layers."""
    full = _score(reference, images)
    lost: dict[int, float] = {}
    for count in sorted({min(count, len(layers)) for count in KEPT}):
        make(path, layers[:count])
        found = _score(open_exported(path, size=reference.size), images)
        lost[count] = max(full.map50 - found.map50, full.map - found.map)
        if lost[count] <= drop:
            return layers[:count]
    best = min(lost, key=lost.get)
    make(path, layers[:best])
    return layers[:best]


def _maker(reference: Exported, inputs: list[Tensor], metadata: Metadata) -> Callable[[Path, list[int]], None]:
    """A function (path, layers that stay in float) that writes the 8-bit file."""
    arrays = [image.numpy() for image in inputs]
    make = _quantised_openvino if reference.path.suffix == ".xml" else _quantised_onnx
    return lambda path, in_float: make(reference.path, path, arrays, in_float, metadata)


def _layer_of(name: str) -> int:
    """The layer index that a node's or a weight's name holds, -1 without one."""
    found = re.search(r"module_list\.(\d+)\.conv_", name)
    return int(found[1]) if found else -1


def _quantised_openvino(source: Path, path: Path, arrays: list, in_float: list[int], metadata: Metadata) -> None:
    require_packages("nncf", what="--format openvino --precision int8")
    from utils.deploy.openvino_core import openvino_core
    from utils.deploy.openvino_export import save

    net = openvino_core().read_model(source)
    kinds = ("Convolution", "GroupConvolution")
    names = [node.get_friendly_name() for node in net.get_ops() if node.get_type_name() in kinds]
    save(_quantised(net, arrays, [name for name in names if _layer_of(name) in in_float]), path, metadata)


def _quantised_onnx(source: Path, path: Path, arrays: list, in_float: list[int], metadata: Metadata) -> None:
    require_packages("onnx", "onnxruntime", "nncf", what="--format onnx --precision int8")
    import onnx

    net = onnx.load(source)
    excluded = [node.name for node in net.graph.node if node.op_type == "Conv" and _layer_of(node.input[1]) in in_float]
    made = _quantised(net, [{"images": array} for array in arrays], excluded)
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, metadata.to_text())
    onnx.save(with_short_names(made), path)


def _quantised(net, inputs: list, in_float: list[str]):
    """The twin in 8 bits of an openvino.Model or onnx.ModelProto: weights per channel, maps per tensor, the shift of
    every convolution's mean corrected, as NNCF does it. in_float: names of convolutions that stay as they are."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(net, nncf.Dataset(inputs), preset=nncf.QuantizationPreset.MIXED,
                             subset_size=len(inputs), ignored_scope=nncf.IgnoredScope(names=in_float))
