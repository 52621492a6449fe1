"""A network as an ncnn pair, .param with its .bin, by ncnn's own converter pnnx."""

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from torch import nn

from utils.deploy.check import ExportError
from utils.deploy.metadata import Metadata
from utils.deploy.packages import require_packages
from utils.deploy.torchscript_export import torchscript_bytes
from utils.output import write_json


def write_ncnn(model: nn.Module, path: Path, metadata: Metadata) -> None:
    """Write a Darknet as `path` (.param), .bin and .json beside it, without a check. Blobs: "in0" (channels, H, W) RGB
    0..1, "out0" (N, 5 + K).

    float16: the weights alone are stored so. Raises ExportError with pnnx's words when it cannot convert.
    """
    require_packages("pnnx", what="ncnn export")
    from pnnx import EXEC_PATH

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.pt").write_bytes(torchscript_bytes(model, replace(metadata, precision="float32")))
        command = [EXEC_PATH, "net.pt", f"inputshape=[1,{metadata.channels},{metadata.size[1]},{metadata.size[0]}]",
                   f"fp16={int(metadata.precision == 'float16')}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        made = Path(folder) / "net.ncnn.param"
        if done.returncode or not made.is_file():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise ExportError(f"{path}: pnnx could not convert the net (status {done.returncode}: {last}); it was "
                              "not written")
        path.write_bytes(made.read_bytes())
        path.with_suffix(".bin").write_bytes(made.with_suffix(".bin").read_bytes())
    write_json(path.with_suffix(".json"), metadata.to_text())
