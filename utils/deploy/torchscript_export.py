"""A network as TorchScript: runs in Python and C++ (libtorch) without this project."""

import io
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from utils.deploy.graph import DeployGraph
from utils.deploy.metadata import Metadata

EXTRA = "metadata.json"  # the file inside the archive


def trace(model: nn.Module, metadata: Metadata) -> torch.jit.ScriptModule:
    """A Darknet as a traced module of one input, (B, channels, H, W), and one output, (B, N, 5 + K)."""
    graph = DeployGraph(model, metadata.size, metadata.precision == "float16")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        return torch.jit.trace(
            graph, torch.zeros(1, metadata.channels, metadata.size[1], metadata.size[0]), check_trace=False
        )


def torchscript_bytes(model: nn.Module, metadata: Metadata) -> bytes:
    """What `trace` gives, as an archive with its metadata. In memory: on a full disk torch.jit.save ends the
    process."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(trace(model, metadata), content, _extra_files={EXTRA: json.dumps(metadata.to_text())})
    return content.getvalue()


def write_torchscript(model: nn.Module, path: Path, metadata: Metadata) -> None:
    """Write a Darknet as TorchScript in metadata.precision (float32, float16), without a check."""
    path.write_bytes(torchscript_bytes(model, metadata))
