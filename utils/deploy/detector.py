"""A network ready for inference: a picture -> boxes in its pixels."""

import os
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from utils.class_names import numbered_names, read_names
from utils.cli import CONF_THRES
from utils.data.data_config import named_classes, parse_data_config
from utils.data.net_classes import data_for_net
from utils.deploy.onnx_runtimes import Predict
from utils.deploy.sources import read_picture
from utils.evaluation.nms import non_max_suppression
from utils.letterbox import input_channels, input_device, letterbox, planes, to_input

LEAST_SIDE_PX = 0.01  # of a box in its picture: detections.json has hundredths


class Detector:
    """A network ready for inference, its class names and its thresholds.

    model: a Darknet on its device; size: (width, height) of its input in pixels; predict: what runs it
    (utils.deploy.backends), by default the model itself with its batch norms folded. An exported file
    (utils.deploy.runtimes) stands in for a model where its own `predict` is given.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], size: tuple[int, int], predict: Predict | None = None,
                 conf_thres: float = CONF_THRES, nms_thres: float = 0.5):
        for name, value in (("conf_thres", conf_thres), ("nms_thres", nms_thres)):
            if not 0 <= value <= 1:
                raise ValueError(f"found {name}={value}, expected a ratio from 0 to 1")
        self.names, self.size = list(names), size
        self.device, self.channels = input_device(model), input_channels(model)
        self.predict = model.optimize() if predict is None else predict
        self.conf_thres, self.nms_thres = conf_thres, nms_thres
        self.kept = torch.ones(len(self.names), dtype=torch.bool)  # (classes,) whether to look for each

    def keep_classes(self, wanted: Sequence[str]) -> "Detector":
        """Look for these of its classes alone from now on. Raises CfgError for a name that it has not."""
        found = named_classes(tuple(wanted), tuple(self.names), "the network")
        self.kept = torch.tensor([name in found for name in self.names])
        return self

    @torch.inference_mode()
    def detect(self, image: np.ndarray | Image.Image | str | os.PathLike) -> np.ndarray:
        """(H, W, 3) RGB uint8, a PIL image, or an image's path -> (n, 6): x1, y1, x2, y2 in its pixels, score, class;
        best first. Raises ValueError or TypeError for anything else."""
        image = rgb_array(image)
        canvas, fit = letterbox(image, self.size)
        predictions = self.predict(to_input(planes(canvas)[None], self.device, self.channels)).float()
        rows = non_max_suppression(predictions, self.conf_thres, self.nms_thres)[0].cpu()
        rows = rows[(rows[:, 4] >= self.conf_thres) & self.kept[rows[:, 5].long()]]
        boxes = fit.to_image(rows[:, :4])
        seen = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE_PX).all(dim=1)  # one wholly in the border has no width left
        return torch.cat([boxes, rows[:, 4:6]], dim=1)[seen].numpy()

    __call__ = detect


def rgb_array(image: np.ndarray | Image.Image | str | os.PathLike) -> np.ndarray:
    """(H, W, 3) RGB uint8 of such an array, of a PIL image, or of an image's path. Raises ValueError for another array
    or more than 8 bits, TypeError for another type."""
    if isinstance(image, (str, os.PathLike)):
        return read_picture(Path(image))
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":  # Pillow would cut them to 255
            raise ValueError(f"found a PIL image of mode {image.mode}, expected one of 8 bits, such as RGB")
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"found a {type(image).__name__}, expected (height, width, 3) RGB of type uint8, a PIL image "
                        "or the path of an image")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"found an image of shape {image.shape} and type {image.dtype}, expected (height, width, "
                         "3) RGB of type uint8")
    return image


def class_names(path: str | None, data: str | None, known: Sequence[str] | None, classes: int,
                weights: str | os.PathLike) -> list[str]:
    """Names of the data description `data`, or in their place of the names file `path`, as the net meets them
    (utils.data.net_classes); else of `path` alone, else `known`, the net's own, else class0, ...; weights: its file,
    for errors.

    Raises ValueError on a wrong count.
    """
    if data:
        return list(data_for_net(parse_data_config(data, path), known, classes, weights).names)
    names = read_names(path) if path else list(known or numbered_names(classes))
    if len(names) != classes:
        raise ValueError(f"{path}: found {len(names)} names, expected {classes}, the net's class count")
    return names
