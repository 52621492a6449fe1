"""A network as an OpenVINO file, .xml with its .bin, by OpenVINO's own converter."""

import errno
import re
import warnings
from pathlib import Path

import torch
from torch import nn

from utils.deploy.graph import DeployGraph
from utils.deploy.metadata import Metadata
from utils.deploy.packages import require_packages

KEY = "yolo"  # of the metadata in the file's rt_info


def convert(model: nn.Module, metadata: Metadata):
    """A Darknet as an openvino.Model in float32: input "images" (any batch; any size where metadata.free_size), output
    "predictions"."""
    require_packages("openvino", what="OpenVINO export")
    import openvino

    width, height = metadata.size
    shape = [-1, metadata.channels, *((-1, -1) if metadata.free_size else (height, width))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.zeros(2, metadata.channels, height, width)
        # left to itself the converter traces twice; what the file computes is checked when it is written
        traced = torch.jit.trace(DeployGraph(model, metadata.size), images, check_trace=False)
        made = openvino.convert_model(traced, example_input=images, input=[shape])
    made.inputs[0].get_tensor().set_names({"images"})
    made.outputs[0].get_tensor().set_names({"predictions"})
    return made


def share_constants(made) -> None:
    """Let equal constants of an openvino.Model be one, in place: 8-bit files repeat each range and each leaky slope,
    half a page of XML at a time."""
    known: dict = {}
    for node in made.get_ordered_ops():
        for place in node.inputs():
            source = place.get_source_output()
            if source.get_node().get_type_name() == "Constant":
                kind = source.get_element_type().to_string(), tuple(source.get_shape())
                place.replace_source_output(known.setdefault((*kind, source.get_node().data.tobytes()), source))


def save(made, path: Path, metadata: Metadata) -> None:
    """Write an openvino.Model with its metadata; float16 halves the weights, which are computed with in float32 on a
    CPU. Raises OSError where it cannot be written."""
    import openvino

    for key, value in metadata.to_text().items():
        made.set_rt_info(value, [KEY, key])
    share_constants(made)
    try:
        openvino.save_model(made, path, compress_to_fp16=metadata.precision == "float16")
    except RuntimeError as error:  # without a reason: "basic_ios::clear: iostream error"
        raise OSError(errno.EIO, "OpenVINO could not; is the disk full?") from error
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r">\s+<", "><", text), encoding="utf-8", newline="\n")  # a third of it is indentation


def write_openvino(model: nn.Module, path: Path, metadata: Metadata) -> None:
    """Write a Darknet as OpenVINO in metadata.precision (float32, float16), without a check."""
    save(convert(model, metadata), path, metadata)
