"""A network as an ONNX file: batch norms folded, decoding included, any batch size."""

import copy
import importlib.util
import logging
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.writing import replacing

OPSET = 18
TOLERANCE = 1e-3  # of float32 outputs, relative to the largest value of their column, sizes by their logarithm


class ExportError(ValueError):
    """The exported file does not do what the network does."""


def export_onnx(model: nn.Module, path: str | os.PathLike, size: tuple[int, int]) -> str:
    """Write a Darknet as ONNX; returns in words how far it is from the original.

    The file: input "images" (B, 3, height, width) float32 RGB 0..1, output "predictions" (B, N, 5 + K) as Darknet's in eval mode; B is
    free, size = (width, height) fixed. Where onnxruntime is installed the file is run beside the network first. Raises ExportError when
    they differ (nothing is written then), ValueError, naming the pip command, where the packages for the export are missing.
    """
    if missing := [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]:
        raise ValueError(f"ONNX export needs packages that are not installed: pip install {' '.join(missing)}")
    with replacing(path) as temporary:
        _program(model, size).save(temporary, external_data=False)
        return _compare(model, temporary, size)


def _program(model: nn.Module, size: tuple[int, int]):
    """The traced network. A folded copy in the plain memory format: strides of channels-last would be traced as transposes."""
    twin = copy.deepcopy(model).cpu().optimize().to(memory_format=torch.contiguous_format)
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(twin, (torch.zeros(2, model.channels, size[1], size[0]),), dynamo=True, input_names=["images"],
                                     output_names=["predictions"], opset_version=OPSET, verbose=False,
                                     dynamic_shapes=({0: torch.export.Dim("batch")},))
    finally:
        chatter.setLevel(level)


def _even(predictions: Tensor) -> Tensor:
    """(..., 5 + K) with log sizes: an exponential would magnify the rounding of large boxes, and hide errors of all others behind them."""
    return torch.cat([predictions[..., :2], predictions[..., 2:4].clamp(min=1e-3).log(), predictions[..., 4:]], dim=-1)


@torch.inference_mode()
def _compare(model: nn.Module, path: Path, size: tuple[int, int]) -> str:
    """Run the file and a copy of the network, on the CPU in single precision, on one and on three random images."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "NOT checked (pip install onnxruntime, and it is)"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    twin, deviations = copy.deepcopy(model).cpu().eval(), []
    for batch in (1, 3):
        images = torch.rand(batch, model.channels, size[1], size[0], generator=torch.Generator().manual_seed(batch))
        expected, found = twin(images), torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        if found.shape != expected.shape:
            raise ExportError(f"{path}: found an output of {tuple(found.shape)}, expected {tuple(expected.shape)}; nothing was written")
        found, expected = _even(found), _even(expected)
        deviation = float(((found - expected).abs() / expected.abs().amax(dim=(0, 1)).clamp(min=1e-9)).max())
        if not deviation <= TOLERANCE:  # NaN as well
            raise ExportError(f"{path}: the exported net is off by {deviation:.1e} of its output's range, expected at most {TOLERANCE:g}; "
                              "nothing was written")
        deviations.append(deviation)
    return f"checked: onnxruntime is within {max(deviations):.1e} of the network's largest output"
