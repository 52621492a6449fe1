"""Files in 8-bit numbers: calibrated on training images, scored in their runtime on validation images, refused when
they lose or gain nothing.

NNCF's `quantize` makes them, OpenVINO and ONNX (QDQ) alike. Every convolution is put in 8 bits first; only where the
file then scores too little on the validation images do layers stay in float: those that move the boxes most
(utils.deploy.sensitivity), as few as bring the score back; and in any case those that a constant of removed channels
would leave too few of the 255 steps (utils.deploy.equalisation). Validation decides whether a file is accepted, so it
is also what chooses among the candidates.
"""

import contextlib
import functools
import io
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from utils.compare import measured_alternately
from utils.data.datasets import evaluation_loader
from utils.deploy.equalisation import costly_layers
from utils.deploy.metadata import Metadata
from utils.deploy.onnx_export import with_short_names
from utils.deploy.packages import require_packages
from utils.deploy.processor import int8_words
from utils.deploy.runtimes import Exported, open_exported
from utils.deploy.sensitivity import layer_errors
from utils.evaluation.args import ScoreOptions
from utils.evaluation.evaluate import evaluate
from utils.evaluation.metrics import EvalResult
from utils.letterbox import to_input
from utils.parse_config import section_of

KEPT = (1, 2, 3, 5, 8, 13, 21)  # how many of the worst layers stay in float, tried in turn where none does not do
MEASURED = 8  # images for the errors of layers
NOISE = 1.05  # how much slower counts as slower: repeated runs of one file differ by that
RUNS = 40  # of each file, alternately


class QuantisationError(ValueError):
    """An 8-bit file that is not worth having: it loses too much, or is no faster."""


class LosesTooMuch(QuantisationError):
    """An 8-bit file that loses more than it may. finding: what was found, in words; scores: of the float32 file and of
    the best 8-bit one."""

    def __init__(self, finding: str, scores: Sequence[EvalResult]):
        super().__init__(f"{finding}; it was not written: calibrate on more images like those it will see (--data, "
                         "--calibration), or accept it with --max-drop")
        self.finding, self.scores = finding, scores


@dataclass(frozen=True)
class Limits:
    """What an 8-bit file may cost. dense: a score from which AP@.5 counts, in place of the float32 file's: that of the
    net before it was pruned."""

    max_drop: float = 0.01  # of AP@.5 and of AP@[.5:.95], absolute
    allow_slower: bool = False
    dense: EvalResult | None = None

    def drops(self, scores: Sequence[EvalResult]) -> dict[str, float]:
        """What is lost, by its name; scores: of the float32 file and of the 8-bit one."""
        start = self.dense or scores[0]
        return {"AP@.5": start.map50 - scores[1].map50, "AP@[.5:.95]": scores[0].map - scores[1].map}

    def keeps(self, scores: Sequence[EvalResult]) -> bool:
        """Whether that is little enough; NaN is not."""
        return all(drop <= self.max_drop for drop in self.drops(scores).values())


@dataclass(frozen=True)
class Pictures:
    """Datasets (utils.data.datasets.ListDataset) of one input size, and how files are scored on them."""

    train: Dataset
    valid: Dataset
    calibration: int = 192  # training images, evenly spaced
    scoring: ScoreOptions = ScoreOptions()

    def sample(self, channels: int) -> Tensor:
        """(B, channels, H, W) a few of the calibrating images."""
        return torch.cat(replace(self, calibration=min(self.calibration, MEASURED)).inputs(channels))

    def inputs(self, channels: int) -> list[Tensor]:
        """The calibrating images as the net sees them, (1, channels, H, W) each."""
        count = min(self.calibration, len(self.train))
        images = (self.train[i * len(self.train) // count][0][None] for i in range(count))
        return [to_input(image, torch.device("cpu"), channels).contiguous() for image in images]

    def score(self, file: Exported) -> EvalResult:
        """Of a file, by its runtime, on the validation images."""
        loader = evaluation_loader(self.valid, 8, 0)
        return evaluate(file, loader, file.metadata.names, self.scoring, quiet=True, predict=file.predict)

    def one_image(self, file: Exported) -> Tensor:
        """A validation image as a file sees it."""
        return to_input(self.valid[0][0][None], file.device, file.channels)


@dataclass(frozen=True)
class Quantised:
    """What is known of an 8-bit file, beside the float32 one: scores and median seconds of both, by their runtime."""

    scores: tuple[EvalResult, EvalResult]
    seconds: tuple[float, float]
    in_float: tuple[int, ...]  # layers that stayed
    calibrated: int  # training images that set its ranges

    def words(self) -> str:
        """What it loses and gains, and how it was made."""
        kept = ", ".join(map(str, self.in_float))
        return (f"{compared(self.scores)}, {timed(self.seconds)}; {self.calibrated} images calibrated it, "
                f"{f'layers {kept} in float' if kept else 'every convolution in 8 bits'}; {int8_words()}")


def compared(scores: Sequence[EvalResult]) -> str:
    """Scores of a float32 file and of its 8-bit twin, in words."""
    return (f"AP@.5 {scores[0].map50:.4f} -> {scores[1].map50:.4f}, AP@[.5:.95] {scores[0].map:.4f} -> "
            f"{scores[1].map:.4f}")


def timed(seconds: Sequence[float]) -> str:
    """Their times, in words."""
    return (f"{seconds[0] * 1e3:.1f} -> {seconds[1] * 1e3:.1f} ms per image ({torch.get_num_threads()} threads, median "
            f"of {RUNS}, alternately)")


def require_score(path: Path, scores: Sequence[EvalResult], limits: Limits,
                  worst_layers: Callable[[], str] = str) -> None:
    """Raise LosesTooMuch where AP@.5 or AP@[.5:.95] of the 8-bit file `path` is lower by more than limits.max_drop.
    scores: of float32 and int8; worst_layers: names those that lose most, asked in that case."""
    if limits.keeps(scores):
        return
    drops = limits.drops(scores)
    name = max(drops, key=lambda key: (drops[key] != drops[key], drops[key]))
    start = f" against the dense net's {limits.dense.map50:.4f}" if limits.dense and name == "AP@.5" else ""
    raise LosesTooMuch(f"{path}: int8 loses {drops[name]:.4f} {name}{start}, --max-drop is {limits.max_drop:g} "
                       f"({compared(scores)}){worst_layers()}", scores)


def require_speed(path: Path, seconds: Sequence[float], limits: Limits) -> None:
    """Raise QuantisationError where the 8-bit file `path` is slower and limits do not allow that. seconds: of float32
    and int8."""
    if is_slower(seconds) and not limits.allow_slower:
        raise QuantisationError(f"{path}: int8 is slower than float32 here ({timed(seconds)}; {int8_words()}); it "
                                "was not written: --allow-slower writes it for another processor, or for its size")


def is_slower(seconds: Sequence[float]) -> bool:
    """Whether the second time is longer by more than repeated runs differ."""
    return seconds[1] > NOISE * seconds[0]


def alternate_seconds(predicts: Sequence[Callable], image: Tensor, runs: int = RUNS, warmup: int = 3) -> list[float]:
    """Median seconds of each function on one image (1, C, H, W), run alternately."""
    return [latency.median for latency in measured_alternately(list(predicts), image, runs, warmup)]


def quantise(
    model: nn.Module, reference: Exported, path: Path, pictures: Pictures, limits: Limits, called: Path
) -> Quantised:
    """Write the 8-bit twin of an exported float32 file (.onnx, .xml) of a Darknet (eval mode, CPU, as
    utils.deploy.equalisation makes it) as `path`, `called` so in errors. One that is slower than float32, where limits
    allow it, is nothing for --backend auto. Raises QuantisationError (see `require_score`, `require_speed`),
    ValueError, naming the pip command, where a package is missing."""
    inputs, sample = pictures.inputs(reference.channels), pictures.sample(reference.channels)
    errors = functools.cache(lambda: layer_errors(model, sample))
    metadata, full = replace(reference.metadata, precision="int8"), pictures.score(reference)
    make = _maker(reference, inputs, metadata)

    def scored(in_float: list[int]) -> tuple[EvalResult, EvalResult]:
        make(path, in_float)
        return full, pictures.score(open_exported(path, size=reference.size))

    in_float, scores = _fewest_in_float(scored, _choices(costly_layers(model, sample), errors), limits)
    require_score(called, scores, limits, lambda: _worst(model, errors()))
    predicts = [reference.predict, open_exported(path, size=reference.size).predict]
    seconds = alternate_seconds(predicts, pictures.one_image(reference))
    require_speed(called, seconds, limits)
    if is_slower(seconds):
        _hide_from_auto(path, metadata)
    return Quantised(scores, tuple(seconds), tuple(sorted(in_float)), len(inputs))


def quantise_unscored(reference: Exported, path: Path, inputs: list[Tensor]) -> None:
    """Write the 8-bit twin of an exported float32 file with every convolution in 8 bits and no score, for its time
    alone: nothing that --backend auto would take. inputs: (1, channels, H, W) each, which calibrate it."""
    _maker(reference, inputs, replace(reference.metadata, precision="int8", made_from=""))(path, [])


def _worst(model: nn.Module, errors: dict[int, float], count: int = 3) -> str:
    names = [f"{i} [{section_of(model.module_defs, i)['type']}] ({errors[i]:.3f})" for i in list(errors)[:count]]
    return f"; the layers that alone move the boxes most (1 - IoU + score difference): {', '.join(names)}"


def _choices(always: list[int], errors: Callable[[], dict[int, float]]) -> Iterator[list[int]]:
    """Layers to keep in float, from `always` alone to many of the worst; errors: measured only where that is not
    enough."""
    yield always
    layers = list(errors())
    for count in sorted({min(count, len(layers)) for count in KEPT}):
        yield [*always, *(layer for layer in layers[:count] if layer not in always)]


def _fewest_in_float(
    scored: Callable[[list[int]], Sequence[EvalResult]], choices: Iterator[list[int]], limits: Limits
) -> tuple[list[int], Sequence[EvalResult]]:
    """(layers in float, scores) of the first choice that keeps the limits, or of the one that loses least. scored:
    writes the 8-bit file with these layers in float, and scores it beside the float32 one."""
    tried = []
    for in_float in choices:
        tried.append((in_float, scored(in_float)))
        if limits.keeps(tried[-1][1]):
            return tried[-1]
    return max(tried, key=lambda item: (item[1][1].map50 == item[1][1].map50, item[1][1].map50))  # NaN is the worst


def _maker(reference: Exported, inputs: list[Tensor], metadata: Metadata) -> Callable[[Path, list[int]], None]:
    """A function (path, layers that stay in float) that writes the 8-bit file."""
    arrays = [image.numpy() for image in inputs]
    make = _quantised_openvino if reference.path.suffix == ".xml" else _quantised_onnx
    return lambda path, in_float: make(reference.path, path, arrays, in_float, metadata)


def _hide_from_auto(path: Path, metadata: Metadata) -> None:
    """Let an 8-bit file no longer say of which net it is: --backend auto is to find no slower file."""
    if path.suffix == ".xml":
        path.write_text(path.read_text(encoding="utf-8").replace(metadata.made_from, ""), encoding="utf-8")
        return
    import onnx

    net = onnx.load(path)
    del net.metadata_props[:]
    onnx.helper.set_model_props(net, replace(metadata, made_from="").to_text())
    onnx.save(net, path)


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
    inputs = [{"images": array} for array in arrays]
    made = _with_unsigned_maps(_quantised(net, inputs, excluded, _one_range_per_map()))
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, metadata.to_text())
    onnx.save(with_short_names(made), path)


def _with_unsigned_maps(net):
    """A QDQ onnx.ModelProto with its maps in uint8 in place of int8 and every zero point 128 higher, which are the same
    numbers: OpenVINO computes signed maps that have a zero point inexactly, and more slowly."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    made = {node.output[0]: node for node in net.graph.node if node.op_type == "QuantizeLinear"}
    readers = [node for node in net.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in made]
    zero_points = {node.input[2] for node in (*made.values(), *readers)}
    for tensor in net.graph.initializer:
        if tensor.name in zero_points and tensor.data_type == TensorProto.INT8:
            unsigned = (numpy_helper.to_array(tensor).astype(np.int16) + 128).astype(np.uint8)
            tensor.CopyFrom(numpy_helper.from_array(unsigned, tensor.name))
    for known in net.graph.value_info:
        if known.name in made:
            known.type.tensor_type.elem_type = TensorProto.UINT8
    return net


def _one_range_per_map():
    """NNCF's parameters for maps that have one range each, those before a depthwise convolution included: NNCF gives
    the latter one per channel. ONNX Runtime does not run such a map behind a convolution without an activation, and
    computes the rest in float, several times slower."""
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    return AdvancedQuantizationParameters(activations_quantization_params=QuantizationParameters(per_channel=False))


def _quantised(net, inputs: list, in_float: list[str], advanced=None):
    """The twin in 8 bits of an openvino.Model or onnx.ModelProto: weights per channel, maps per tensor (before a
    depthwise convolution per channel, unless `advanced`, parameters of NNCF, say otherwise), the shift of every
    convolution's mean corrected, as NNCF does it. in_float: names of convolutions that stay as they are."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(net, nncf.Dataset(inputs), preset=nncf.QuantizationPreset.MIXED,
                             subset_size=len(inputs), ignored_scope=nncf.IgnoredScope(names=in_float),
                             advanced_parameters=advanced)
