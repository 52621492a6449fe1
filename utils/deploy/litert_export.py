"""A network as a LiteRT file (.tflite), by Google's own converter from PyTorch, without TensorFlow."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from utils.deploy.graph import DeployGraph
from utils.deploy.metadata import Metadata
from utils.deploy.packages import require_packages
from utils.output import write_json


def write_litert(model: nn.Module, path: Path, metadata: Metadata) -> None:
    """Write a Darknet as `path` (.tflite) in float32 and .json beside it, without a check. One input, (1, channels, H,
    W) RGB 0..1, and one output, (1, N, 5 + K)."""
    require_packages("litert_torch", what="LiteRT export")
    import litert_torch

    image = torch.zeros(1, metadata.channels, metadata.size[1], metadata.size[0])
    logging.getLogger("litert_torch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # its report of every step
        warnings.simplefilter("ignore")
        litert_torch.convert(DeployGraph(model, metadata.size), (image,)).export(str(path))
    write_json(path.with_suffix(".json"), metadata.to_text())
