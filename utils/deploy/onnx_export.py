"""A network as an ONNX file: batch norms folded, decoding included, any batch, any input size where the net allows it.

Input "images" (B, 3, H, W) float32 RGB 0..1; (B, 1, H, W) brightness where the net takes that. Output "predictions"
(B, N, 5 + K) as Darknet's in eval mode; or, with a built-in non-maximum suppression, "boxes", "scores", "classes" and
"count" (utils.deploy.onnx_nms).
"""

import copy
import importlib.util
import logging
import os
import warnings
from pathlib import Path

import torch
from torch import nn

from utils.deploy.check import TOLERANCES, compare_predictions, require_close
from utils.deploy.graph import DeployGraph, takes_any_size
from utils.deploy.metadata import Metadata
from utils.deploy.packages import require_packages
from utils.output import replacing

OPSET = 18


def export_onnx(model: nn.Module, path: str | os.PathLike, size: tuple[int, int]) -> str:
    """Write a Darknet as ONNX for (width, height) `size` alone, what a backend needs; returns in words how far it is
    from the original.

    Where onnxruntime is installed the file is run beside the network first. Raises ExportError when they differ
    (nothing is written then), ValueError, naming the pip command, where the packages for the export are missing.
    """
    require_packages("onnx", "onnxscript")
    with replacing(path) as temporary:
        _program(model, size).save(temporary, external_data=False)
        return _compare(model, temporary, size)


def write_onnx(model: nn.Module, path: Path, metadata: Metadata) -> None:
    """Write a Darknet as ONNX in metadata.precision (float32, float16), without a check; its metadata become the file's
    metadata_props."""
    require_packages("onnx", "onnxscript")
    import onnx

    program = _program(model, metadata.size, metadata.free_size, metadata.precision == "float16")
    content = program.model_proto
    if metadata.nms:
        from utils.deploy.onnx_nms import with_nms

        content = with_nms(content, metadata.nms, len(metadata.names))
    without_traces(content)
    onnx.helper.set_model_props(content, metadata.to_text())
    onnx.checker.check_model(content)
    onnx.save(content, path)


def without_traces(content) -> None:
    """Drop from an onnx.ModelProto, in place, what the tracer noted for its own use: the lines of Python that made each
    node and the types of values in between, a third of a small net's file."""
    graph = content.graph
    del graph.value_info[:], graph.metadata_props[:]
    for part in [*graph.node, *graph.input, *graph.output, *graph.initializer]:
        del part.metadata_props[:]
        part.ClearField("doc_string")


def with_short_names(content):
    """An onnx.ModelProto without its tracer's notes, in which values have numbers for names, inputs and outputs keep
    theirs: a small net in 8 bits is half names otherwise."""
    without_traces(content)
    graph = content.graph
    names = {"": ""} | {value.name: value.name for value in [*graph.input, *graph.output]}
    short = lambda name: names.setdefault(name, str(len(names)))
    for constant in graph.initializer:
        constant.name = short(constant.name)
    for node in graph.node:
        node.ClearField("name")
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    return content


def unchecked_onnx(model: nn.Module, size: tuple[int, int]) -> bytes:
    """A Darknet as ONNX for (width, height) `size` alone, to be timed: nothing says that it computes the same."""
    return _program(model, size).model_proto.SerializeToString()


def _program(model: nn.Module, size: tuple[int, int], free_size: bool = False, half: bool = False):
    """The traced network. With a free size the trace takes some 10 seconds instead of 3: every shape is worked out in
    symbols."""
    graph = DeployGraph(model, size, half)
    for module in graph.modules():
        if getattr(module, "inplace", False):  # in a trace that only takes time: a third of it
            module.inplace = False
    stride = graph.stride
    axes = {0: torch.export.Dim("batch")}
    if free_size and takes_any_size(model, size):
        axes |= {
            2: stride * torch.export.Dim("rows", max=1 << 10),
            3: stride * torch.export.Dim("columns", max=1 << 10),
        }
        # unequal, and never 1 cell: what holds at the example alone would be taken for a rule
        size = 3 * stride, 2 * stride
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                graph,
                (torch.zeros(2, graph.net.channels, size[1], size[0]),),
                dynamo=True,
                input_names=["images"],
                output_names=["predictions"],
                opset_version=OPSET,
                verbose=False,
                dynamic_shapes=(axes,),
            )
    finally:
        chatter.setLevel(level)


def _compare(model: nn.Module, path: Path, size: tuple[int, int]) -> str:
    """Run the file and a copy of the network, on the CPU in single precision, on one and on three random images."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "NOT checked (pip install onnxruntime, and it is)"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = compare_predictions(
        copy.deepcopy(model).cpu().eval(),
        lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        size,
        (1, 3),
        str(path),
    )
    require_close(worst, TOLERANCES["float32"].predictions, str(path))
    return f"checked: onnxruntime is within {worst:.1e} of the network's largest output"
