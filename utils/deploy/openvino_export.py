"""A network as an OpenVINO file, .xml with its .bin, by OpenVINO's own converter."""

import warnings
from pathlib import Path

import torch
from torch import nn

from utils.deploy.graph import DeployGraph
from utils.deploy.metadata import Metadata
from utils.deploy.onnx_export import require_packages

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
        made = openvino.convert_model(
            DeployGraph(model, metadata.size),
            example_input=torch.zeros(2, metadata.channels, height, width),
            input=[shape],
        )
    made.inputs[0].get_tensor().set_names({"images"})
    made.outputs[0].get_tensor().set_names({"predictions"})
    return made


def save(made, path: Path, metadata: Metadata) -> None:
    """Write an openvino.Model with its metadata; float16 halves the weights, which are computed with in float32 on a
    CPU."""
    import openvino

    for key, value in metadata.to_text().items():
        made.set_rt_info(value, [KEY, key])
    openvino.save_model(made, path, compress_to_fp16=metadata.precision == "float16")


def write_openvino(model: nn.Module, path: Path, metadata: Metadata) -> None:
    """Write a Darknet as OpenVINO in metadata.precision (float32, float16), without a check."""
    save(convert(model, metadata), path, metadata)
