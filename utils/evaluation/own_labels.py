"""Boxes that a net finds, as labels of pictures that nobody labelled."""

from typing import Iterable

import numpy as np
import torch
from torch import nn

from utils.data.datasets import ListDataset
from utils.data.image_files import read_image
from utils.data.yolo_labels import DataError
from utils.evaluation.args import ScoreOptions
from utils.evaluation.nms import non_max_suppression
from utils.letterbox import input_channels, input_device, letterbox, planes, to_input

SCORE = 0.25  # boxes of a lower score are no labels
BATCH = 16


@torch.inference_mode()
def label_by(model: nn.Module, images: ListDataset, which: Iterable[int] | None = None, nms_thres: float = 0.5) -> None:
    """Replace the labels of the images `which` (all of them by default) by the boxes that `model`, a Darknet, finds.

    A score made with them says how far another net agrees with this one, not how well either detects. Raises DataError
    where it finds none in all these images.
    """
    run, device, channels = model.optimize(), input_device(model), input_channels(model)
    options = ScoreOptions(conf_thres=SCORE, nms_thres=nms_thres)
    chosen = list(dict.fromkeys(range(len(images)) if which is None else which))
    for start in range(0, len(chosen), BATCH):
        own = chosen[start:start + BATCH]
        canvases, fits = zip(*(letterbox(read_image(images.images[i]), images.size) for i in own))
        pixels = to_input(torch.stack([planes(canvas) for canvas in canvases]), device, channels)
        found = non_max_suppression(run(pixels).float(), options.conf_thres, options.nms_thres, options.max_det,
                                    options.max_candidates)
        for i, fit, rows in zip(own, fits, found):
            images.labels[i] = _labels(rows[rows[:, 4] >= SCORE].cpu(), fit)
    if not any(len(images.labels[i]) for i in chosen):
        raise DataError(f"{images.name}: found no box of score {SCORE} in {len(chosen)} images by the net itself, "
                        "expected pictures of what it detects")


def _labels(rows: torch.Tensor, fit) -> np.ndarray:
    """(n, 7) detections in pixels of the input -> (n, 5) class, cx, cy, w, h as fractions of the image."""
    corners = fit.to_image(rows[:, :4]) / rows.new_tensor([fit.width, fit.height] * 2)
    x1, y1, x2, y2 = corners.clamp(0, 1).unbind(1)
    labels = torch.stack([rows[:, 5], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1)
    return labels[(labels[:, 3:] > 0).all(1)].numpy().astype(np.float32)
