"""The formats that export.py writes, and how one is written: converted, run in its own runtime beside the net, then
given its name."""

import copy
import importlib.util
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from torch import nn

from utils.deploy.check import TOLERANCES, compare_boxes, compare_predictions, require_close, sample_images
from utils.deploy.equalisation import equalised
from utils.deploy.graph import takes_any_size
from utils.deploy.litert_export import write_litert
from utils.deploy.metadata import BuiltInNms, Metadata, metadata_of
from utils.deploy.ncnn_export import write_ncnn
from utils.deploy.onnx_export import write_onnx
from utils.deploy.openvino_export import write_openvino
from utils.deploy.packages import require_packages
from utils.deploy.quantisation import Limits, Pictures, quantise
from utils.deploy.runtimes import Exported, files_of, open_exported
from utils.deploy.torchscript_export import write_torchscript
from utils.letterbox import input_channels
from utils.output import replacing_all

DARKNET = "darknet"
FOREIGN = {
    ".bin",
    ".cfg",
    ".pt",
    ".pth",
    ".pb",
    ".engine",
    ".trt",
    ".mlmodel",
    ".mlpackage",
    ".json",
    ".names",
}


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    suffix: str
    runtime: str  # the package that runs it
    precisions: tuple[str, ...]
    write: Callable[[nn.Module, Path, Metadata], None] | None
    free_size: bool  # whether one file can take several input sizes
    packages: tuple[str, ...] = ()  # that write and run it

    @property
    def ending(self) -> str:
        """The last part of its suffix."""
        return "." + self.suffix.rpartition(".")[2]


FORMATS = {
    DARKNET: Format(".weights", "torch", ("float32",), None, True),
    "onnx": Format(".onnx", "onnxruntime", ("float32", "float16", "int8"), write_onnx, True,
                   ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(".xml", "openvino", ("float32", "float16", "int8"), write_openvino, True,
                       ("openvino",)),
    "ncnn": Format(".ncnn.param", "ncnn", ("float32", "float16"), write_ncnn, False, ("pnnx", "ncnn")),
    "torchscript": Format(".torchscript", "torch", ("float32", "float16"), write_torchscript, True),
    "litert": Format(".tflite", "ai_edge_litert", ("float32",), write_litert, False,
                     ("litert_torch", "ai_edge_litert")),
}


def require_writer(name: str, precision: str) -> None:
    """Raise ValueError, naming the pip command, unless all that writes and runs format `name` in `precision` is
    installed."""
    needed = FORMATS[name].packages + ("nncf",) * (precision == "int8")
    require_packages(*needed, what=f"--format {name} --precision {precision}")


def format_of(path: Path) -> str | None:
    """The format of a file's name, in capitals or not; None for a name without one of the endings."""
    return next((name for name, kind in FORMATS.items() if path.suffix.lower() == kind.ending), None)


def bare(path: Path) -> Path:
    """A path without the suffix of its format: net.ncnn.param -> net."""
    kind = FORMATS.get(format_of(path))
    if kind is None:
        return path
    suffix = kind.suffix if path.name.lower().endswith(kind.suffix) else kind.ending
    return path.with_name(path.name[:-len(suffix)])


def out_name(out: str | None, cfg: Path) -> Path:
    """What the files of a net are named after: --out; NAME, the cfg's, in it where it is a folder or ends in a slash;
    else output/NAME."""
    folder = "output" if out is None else out
    return Path(folder) / cfg.stem if out is None or out.endswith(("/", os.sep)) or Path(out).is_dir() else Path(out)


def out_paths(out: Path, formats: list[str] | None, precision: str) -> dict[str, Path]:
    """Format -> file, for --out and --format: `out` itself where it names a format and that is the only one; else its
    name, with the precision where it is not float32, and each format's suffix. Endings become lower-case: by them the
    files are told. Raises ValueError where they do not fit."""
    named = format_of(out)
    if not named and out.suffix.lower() in FOREIGN:
        raise ValueError(f"--out {out}: found a name that ends in {out.suffix}, expected one that ends in "
                         f"{', '.join(kind.suffix for kind in FORMATS.values())}, or in none of the kind")
    formats = list(dict.fromkeys(formats or [named or "onnx"]))
    for name in formats:
        _require_precision(name, precision)
    if named and named not in formats:
        raise ValueError(f"--out {out}: found a name of format {named} with --format {' '.join(formats)}; leave the "
                         "suffix out, or --format")
    stem = bare(out)
    if named and len(formats) == 1:
        return {named: stem.with_name(stem.name + out.name[len(stem.name):].lower())}
    ending = "" if precision == "float32" else f"-{precision}"
    return {name: stem.with_name(stem.name + ending + FORMATS[name].suffix) for name in formats}


def _require_precision(name: str, precision: str) -> None:
    """Raise ValueError unless format `name` is written in that precision."""
    if precision not in FORMATS[name].precisions:
        able = [other for other, kind in FORMATS.items() if precision in kind.precisions]
        raise ValueError(f"--format {name} --precision {precision}: found a precision that this format is not "
                         f"written in here, expected {' or '.join(FORMATS[name].precisions)}; {precision} is written "
                         f"as {' or '.join(able)}")


@dataclass(frozen=True)
class Order:
    """What is to be exported of a net, and how."""

    names: tuple[str, ...] | None
    size: tuple[int, int]
    precision: str
    nms: BuiltInNms | None


def describe(model: nn.Module, name: str, order: Order) -> Metadata:
    """The metadata of a Darknet as format `name`."""
    free = FORMATS[name].free_size and takes_any_size(model, order.size)
    plain = metadata_of(model, order.names, order.size, order.precision)
    return replace(plain, free_size=free, nms=order.nms)


def export_format(model: nn.Module, name: str, path: Path, order: Order) -> str:
    """Write a Darknet (any device, any mode; not changed) as format `name`; returns in words what it takes and how far
    it is from the net.

    Raises ExportError when the file does not do what the net does, ValueError when a package is missing; nothing is
    written then.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    metadata = describe(model, name, order)
    with replacing_all(path) as folder:
        FORMATS[name].write(model, folder / path.name, metadata)
        words = check_file(model, folder / path.name, metadata, str(path))
    return f"{path}: {sum(file.stat().st_size for file in files_of(path)) / 1e6:.2f} MB; {takes(metadata)}; {words}"


def export_int8(model: nn.Module, name: str, path: Path, order: Order, pictures: Pictures, limits: Limits) -> str:
    """Write a Darknet as format `name` in 8-bit numbers, beside a checked float32 file of the same format that only
    measures it; returns in words what it takes, loses and gains.

    Raises QuantisationError when it loses too much or is slower, ExportError, ValueError; nothing is written then.
    """
    if order.nms:
        raise ValueError("--nms --precision int8: found both, expected one: a file that is cut at --conf_thres cannot "
                         "be scored")
    model = copy.deepcopy(model).cpu().float().eval()
    with tempfile.TemporaryDirectory() as measured, replacing_all(path) as folder:
        even = equalised(model, pictures.sample(input_channels(model)))
        reference = float32_file(model, name, Path(measured) / path.name, order, str(path), even)
        made = quantise(even, reference, folder / path.name, pictures, limits, path)
        whole = reference.bytes()
    small = open_exported(path).bytes()
    return f"{path}: {small / 1e6:.2f} MB (float32 {whole / 1e6:.2f}); {takes(reference.metadata)}; {made.words()}"


def float32_file(model: nn.Module, name: str, path: Path, order: Order, where: str,
                 twin: nn.Module | None = None) -> Exported:
    """Write a Darknet (eval mode, CPU) as format `name` in float32, whatever the order's precision, to measure others
    by; checked beside the net, `where` names it in errors. twin: an equal net, to be written in its place."""
    metadata = replace(describe(model, name, order), precision="float32")
    FORMATS[name].write(model if twin is None else twin, path, metadata)
    check_file(model, path, metadata, where)
    return open_exported(path, size=order.size)


def takes(metadata: Metadata) -> str:
    """Input and output of a file, in words."""
    width, height = metadata.size
    pixels = "RGB" if metadata.channels == 3 else "brightness"
    size = f"height, width: multiples of {metadata.stride}" if metadata.free_size else f"{height}, {width}"
    found = (f"boxes x1, y1, x2, y2 in input pixels, scores, classes, count: per image the best {metadata.nms.max_det} "
             "of objectness "
             f"{metadata.nms.conf_thres:g} or more, IoU up to {metadata.nms.nms_thres:g}" if metadata.nms else
             f"predictions (batch, boxes, {5 + len(metadata.names)}) cx, cy, w, h in input pixels, objectness, class "
             "probabilities")
    return f"images (batch, {metadata.channels}, {size}) {pixels} 0..1 -> {found}"


def check_file(model: nn.Module, path: Path, metadata: Metadata, where: str) -> str:
    """Run a file beside its net (eval mode, CPU) at its size, and at another where it takes one; returns in words how
    far it is.

    Raises ExportError (utils.deploy.check.TOLERANCES). A file whose runtime is not installed is not run, and the words
    say so.
    """
    runtime = FORMATS[format_of(path)].runtime
    if importlib.util.find_spec(runtime) is None:
        return f"converted, NOT run (pip install {runtime}, and it is)"
    tolerance = TOLERANCES[metadata.precision]
    opened = [open_exported(path)]
    if metadata.free_size:
        opened.append(
            open_exported(path, size=(metadata.size[0] + metadata.stride, metadata.size[1] + 2 * metadata.stride))
        )
    worst = 0.0 if metadata.nms else max(_deviation(model, file, tolerance.predictions, where) for file in opened)
    boxes = sum(
        compare_boxes(model, file.predict, sample_images(file.size, file.channels), metadata.nms, tolerance, where)
        for file in opened
    )
    close = "" if metadata.nms else f"is within {worst:.1e} of the network's largest output, "
    return f"checked: {runtime} {close}finds the same {boxes} boxes in the sample pictures"


def _deviation(model: nn.Module, file: Exported, limit: float, where: str) -> float:
    batches = (1, 3) if file.size == file.metadata.size else (2,)
    worst = compare_predictions(model, file.predict, file.size, batches, where)
    require_close(worst, limit, where)
    return worst
