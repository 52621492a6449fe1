"""Runtimes that take an ONNX file on the CPU: what they need, and what runs a file in them."""

from typing import Callable

import numpy as np
import torch
from torch import Tensor

from utils.deploy.packages import missing, require_packages

FROM_ONNX = ("openvino", "onnxruntime")  # the faster on CPUs first (results/2026-11-26_deploy)
BF16 = "openvino-bf16"  # openvino, computing in bfloat16
QUIET = 4  # ONNX Runtime's log_severity_level: what it prints of an error is in the exception as well
Predict = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> predictions (B, N, 5 + K)


def require_backend(name: str, device: torch.device) -> None:
    """Raise ValueError where a --backend cannot run nets that lie on `device`, or lacks packages."""
    if name in (*FROM_ONNX, BF16) and device.type != "cpu":
        raise ValueError(f"--backend {name}: found device {device}, expected the CPU; add --device cpu, or take "
                         "--backend torch")
    require_packages(*missing_packages(name), what=f"--backend {name}")


def missing_packages(name: str) -> list[str]:
    """The packages that a backend needs and that are not installed."""
    return missing((name.removesuffix("-bf16"), "onnx", "onnxscript")) if name in (*FROM_ONNX, BF16) else []


def run_onnx(runtime: str, content: bytes, precision: str = "f32") -> Callable[[np.ndarray], np.ndarray]:
    """What runs an ONNX file of one input, images of one size, and one output in a runtime of FROM_ONNX, with torch's
    number of threads; openvino: computing in `precision`, its result lies in a buffer that the next call overwrites."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), QUIET
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return lambda images: session.run(None, {given.name: images})[0]
    from utils.deploy.openvino_core import openvino_core, run_openvino

    net = openvino_core().read_model(content, b"")
    channels, height, width = (side.get_length() for side in list(net.inputs[0].partial_shape)[1:])
    run = run_openvino(net, (channels, height, width), precision)
    return lambda images: run(images)[0]
