"""Pictures in a run's folder: what is labelled, what the net is shown, what it finds, which classes it confuses."""

from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn

from utils.boxes import cxcywh_to_xyxy
from utils.data.datasets import collate
from utils.evaluation.args import ScoreOptions
from utils.evaluation.confusion import SCORE
from utils.evaluation.evaluate import collect_detections
from utils.evaluation.metrics import EvalResult
from utils.letterbox import input_channels, input_device
from utils.plots import plot_confusion, plot_labels
from utils.sheet import write_sheet

MOST = 16  # images of a batch that are shown
# (H, W, 3) RGB image, (n, 6) x1, y1, x2, y2, score, class, names, whether scores are shown -> image with boxes
Draw = Callable[[np.ndarray, np.ndarray, list[str], bool], np.ndarray]


def show_data(trainer, draw: Draw) -> None:
    """labels.jpg and train_batch0.jpg, the first images of the first batch as the net will see them. Of the main
    process, unless --no-pictures."""
    if not (trainer.main and trainer.options.output.pictures):
        return
    folder, names = trainer.folder.path, list(trainer.data.names)
    plot_labels(np.concatenate(trainer.batches.train_set.labels), names, folder / "labels.jpg")
    trainer.batches.sampler.epoch = 1
    draws = next(iter(trainer.batches.sampler))[:MOST]
    items = [trainer.batches.train_set[one] for one in draws]
    write_sheet(folder / "train_batch0.jpg", [draw(_rgb(image), _label_rows(image, boxes), names, False)
                                         for image, boxes in items])


def show_net(trainer, result: EvalResult | None, draw: Draw) -> None:
    """val_batch0_labels.jpg, val_batch0_pred.jpg and, where the last epoch was scored, confusion_matrix.png."""
    if not (trainer.main and trainer.options.output.pictures):
        return
    folder, names, valid = trainer.folder.path, list(trainer.data.names), trainer.batches.valid_set
    items = [valid[i] for i in range(min(MOST, len(valid)))]
    images = [_rgb(image) for image, _ in items]
    labelled = [draw(picture, _label_rows(image, boxes), names, False)
                for picture, (image, boxes) in zip(images, items)]
    found = [draw(picture, rows, names, True)
             for picture, rows in zip(images, _detections(trainer.state.averaged, items,
                                             trainer.options.scoring.nms_thres))]
    write_sheet(folder / "val_batch0_labels.jpg", labelled)
    write_sheet(folder / "val_batch0_pred.jpg", found)
    if result and result.confusion is not None:
        plot_confusion(result.confusion, names, folder / "confusion_matrix.png")


def _detections(model: nn.Module, items: list[tuple[Tensor, Tensor]], nms_thres: float) -> list[np.ndarray]:
    """(n, 6) x1, y1, x2, y2 in input pixels, score, class an image, the best first."""
    options = ScoreOptions(conf_thres=SCORE, nms_thres=nms_thres)
    rows, _ = collect_detections(model.optimize(), input_device(model), [collate(items)], options, quiet=True,
                                 channels=input_channels(model))
    return [own[own[:, 4] >= SCORE][:, :6].numpy() for own in rows]


def _rgb(image: Tensor) -> np.ndarray:
    """(3, H, W) uint8 -> (H, W, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _label_rows(image: Tensor, boxes: Tensor) -> np.ndarray:
    """(n, 5) class, cx, cy, w, h relative -> (n, 6) rows to draw, in pixels of the image."""
    height, width = image.shape[1:]
    corners = cxcywh_to_xyxy(boxes[:, 1:]) * torch.tensor([width, height, width, height])
    return torch.cat([corners, torch.ones(len(boxes), 1), boxes[:, :1]], dim=1).numpy()
