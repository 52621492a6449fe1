"""Contestants of a forward pass, each a function of options that returns `run`. They run in worker processes."""

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.run_detections import plain_head
from benchmarks.run_training import nothing_in_place
from models import Darknet, YOLOLayer
from utils.deploy.backends import make_backend
from utils.evaluation.evaluate import ScoreOptions
from utils.evaluation.nms import non_max_suppression
from utils.parse_config import layer_inputs


def net_of(cfg: str, weights: str) -> nn.Module:
    """A Darknet in eval mode, as it was trained."""
    model = Darknet(cfg)
    model.load_darknet_weights(weights)
    return model.eval().requires_grad_(False)


def off_by(found: Tensor, expected: Tensor) -> dict:
    """Largest difference of two outputs relative to the largest value: that contestants compute the same is part of the
    comparison."""
    return {"off_by": ((found - expected).abs().max() / expected.abs().max()).item()}


def _contest(predict, images: str, expected: str):
    """`run` of a function on the images of a file, and how far its output is from the expected one."""
    batch, wanted = torch.from_numpy(np.load(images)), torch.from_numpy(np.load(expected))

    @torch.inference_mode()
    def run() -> None:
        """One forward pass, decoding included."""
        predict(batch)

    with torch.inference_mode():
        return run, off_by(predict(batch), wanted)


def plain_predict(net: nn.Module):
    """A Darknet as the reference implementation is written: contiguous, batch norms of their own, no activation in
    place, every layer's output kept to the end, the classic decoding."""
    model = nothing_in_place(net)
    sources = [layer_inputs(i, section) for i, section in enumerate(model.module_defs[1:])]

    def predict(batch: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, 5 + K)."""
        outputs, found = [], []
        for module, inputs in zip(model.module_list, sources):
            outputs.append(module(*[batch if j < 0 else outputs[j] for j in inputs]))
            if isinstance(module, YOLOLayer):
                found.append(plain_head(outputs[-1], module.anchors, batch.shape[3]))
        return torch.cat(found, 1)

    return predict


def plain(cfg: str, weights: str, images: str, expected: str):
    """A stand-in of the reference implementation, not compared with the others: without a bound on exp, random weights
    reach infinity."""
    return _contest(plain_predict(net_of(cfg, weights)), images, expected)[0]


def eager(cfg: str, weights: str, images: str, expected: str):
    """Ours as trained: batch norm a layer of its own, contiguous tensors."""
    return _contest(net_of(cfg, weights), images, expected)


def backend(name: str, cfg: str, weights: str, images: str, expected: str):
    """One of utils.deploy.backends."""
    height, width = np.load(images, mmap_mode="r").shape[2:]
    return _contest(make_backend(name, net_of(cfg, weights), (width, height))[1], images, expected)


def opencv(cfg: str, weights: str, images: str, expected: str):
    """OpenCV's own Darknet reader and network: relative boxes, cell by cell. Its order differs, so sorted objectness is
    compared."""
    net = cv2.dnn.readNetFromDarknet(cfg, weights)
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    outputs, batch = net.getUnconnectedOutLayersNames(), np.load(images)

    def run() -> list[np.ndarray]:
        """One forward pass: the outputs of the yolo layers."""
        net.setInput(batch)
        return net.forward(outputs)

    found = np.concatenate([out.reshape(len(batch), -1, out.shape[-1]) for out in run()], axis=1)
    objectness = [torch.from_numpy(np.sort(values[..., 4], axis=1)) for values in (found, np.load(expected))]
    return run, off_by(*objectness)


def detect_batches(cfg: str, weights: str, size: int, images: int, batch: int = 8, conf: float = 0.01):
    """Forward pass and NMS, under the bounds of mAP, over so many random images, in batches."""
    model, options = net_of(cfg, weights).optimize(), ScoreOptions()
    pixels = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def run() -> None:
        """All images once."""
        for part in pixels.split(batch):
            found = model(part.contiguous(memory_format=torch.channels_last))
            non_max_suppression(found, conf, options.nms_thres, options.max_det, options.max_candidates)

    return run


def width(cfg: str, size: int):
    """Forward pass of a folded net with random weights."""
    torch.manual_seed(0)
    model = Darknet(cfg).optimize()
    pixels = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        """One forward pass."""
        model(pixels)

    return run
