"""Contestants of --only deploy: a file with the runtime that loads it. They run in worker processes; `opened` is what
scores them, too."""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from models import Darknet
from utils.deploy.backends import make_backend
from utils.deploy.onnx_runtimes import Predict
from utils.deploy.runtimes import open_exported

PLAIN, OPENCV, LITERT = "plain PyTorch", "OpenCV DNN", "LiteRT"
PALMS = ("palm_detection_full.tflite", "palm_detection_lite.tflite")
PACKED = "hands_solution_packed_assets"  # of npm's @mediapipe/hands: .data, and what lies where in it in _loader.js


def opened(path: str, runtime: str, size: tuple[int, int], cfg: str | None = None) -> tuple[str, Predict]:
    """(what runs it, in words; images (B, C, H, W) -> predictions (B, N, 5 + K)) of a file that export.py wrote; with
    `cfg` of a Darknet pair."""
    if runtime == OPENCV:
        return OPENCV, opencv_pair(cfg, path, size) if cfg else opencv_onnx(path)
    if not cfg:
        return runtime, open_exported(path, runtime, tuple(size)).predict
    net = Darknet(cfg)
    net.load_darknet_weights(path)
    net.eval().requires_grad_(False)
    if runtime == PLAIN:
        from benchmarks.run_forward import plain_predict  # only here: its imports would count as everybody's memory

        return PLAIN, plain_predict(net)
    return make_backend(runtime, net, tuple(size), weights=path)


def opencv_pair(cfg: str, weights: str, size: tuple[int, int]) -> Predict:
    """A Darknet pair in OpenCV: its boxes are relative to the picture, its class scores times objectness."""
    net = cv2.dnn.readNetFromDarknet(cfg, weights)
    outputs = net.getUnconnectedOutLayersNames()

    def predict(images: Tensor) -> Tensor:
        net.setInput(images.contiguous().numpy())
        found = np.concatenate([out.reshape(len(images), -1, out.shape[-1]) for out in net.forward(outputs)], axis=1)
        found[..., :4] *= (*size, *size)
        found[..., 5:] /= np.maximum(found[..., 4:5], 1e-9)
        return torch.from_numpy(found)
    return predict


def opencv_onnx(path: str) -> Predict:
    """An ONNX file in OpenCV."""
    net = cv2.dnn.readNetFromONNX(path)

    def predict(images: Tensor) -> Tensor:
        net.setInput(images.contiguous().numpy())
        return torch.from_numpy(net.forward().copy())
    return predict


def run(path: str, runtime: str, size: tuple[int, int], channels: int, cfg: str | None = None):
    """`run` of one random image, and facts: the seconds from the file to the first result, which import the runtime,
    and what runs it."""
    image = torch.rand(1, channels, size[1], size[0], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        started = time.perf_counter()
        words, predict = opened(path, runtime, size, cfg)
        predict(image)
        facts = {"start_s": time.perf_counter() - started, "run_by": words}

    @torch.inference_mode()
    def go() -> None:
        """One forward pass, decoding included."""
        predict(image)

    return go, facts


# ---- MediaPipe's palm detector

def palm_models(path: Path) -> dict[str, bytes]:
    """Name -> LiteRT model, of a .tflite file or of the unpacked folder of npm's @mediapipe/hands. Raises ValueError
    where there is none."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    try:
        loader, content = (path / f"{PACKED}{end}" for end in ("_loader.js", ".data"))
        text, packed = loader.read_text(encoding="utf-8"), content.read_bytes()
        files, _ = json.JSONDecoder().raw_decode(text, text.index('[{"filename"'))
    except (OSError, ValueError) as error:
        raise ValueError(f"--palm {path}: found no {PACKED}.data with its _loader.js, expected a .tflite file, or the "
                         "unpacked folder of `npm pack @mediapipe/hands`") from error
    parts = {file["filename"].rpartition("/")[2]: packed[file["start"]:file["end"]] for file in files}
    return {name: parts[name] for name in PALMS}


def palm(path: str, model: str, threads: int):
    """MediaPipe's palm detector, without its suppression: boxes and keypoints of palms, relative to anchors."""
    from ai_edge_litert.interpreter import Interpreter

    started = time.perf_counter()
    content = palm_models(Path(path))[model]
    net = Interpreter(model_content=content, num_threads=threads)
    net.allocate_tensors()
    [taken] = net.get_input_details()
    image = np.random.default_rng(0).random(taken["shape"], dtype=np.float32)

    def go() -> None:
        """One forward pass."""
        net.set_tensor(taken["index"], image)
        net.invoke()

    go()
    size = "x".join(str(side) for side in taken["shape"][2:0:-1])
    return go, {"start_s": time.perf_counter() - started, "bytes": len(content),
                "note": f"{size} px, palms: not scored"}
