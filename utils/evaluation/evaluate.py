"""The one evaluation that train.py, test.py and test_prune.py share."""

import dataclasses
from typing import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from utils import processes
from utils.boxes import cxcywh_to_xyxy
from utils.evaluation.args import ScoreOptions
from utils.evaluation.confusion import MATRIX_CLASSES, confusion_matrix
from utils.evaluation.metrics import EvalResult, score
from utils.evaluation.nms import non_max_suppression
from utils.evaluation.reference_scorer import merge_nms, score_compat
from utils.evaluation.words import STANDARD
from utils.letterbox import input_channels, input_device, to_input
from utils.progress import Progress


def truth_by_image(targets: Tensor, images: int, width: int, height: int) -> list[Tensor]:
    """(T, 6) image, class, cx, cy, w, h relative -> one (m, 5) class, x1, y1, x2, y2 in input pixels an image."""
    boxes = cxcywh_to_xyxy(targets[:, 2:6]) * targets.new_tensor([width, height, width, height])
    rows = torch.cat([targets[:, 1:2], boxes], dim=1)
    return [rows[targets[:, 0] == i] for i in range(images)]


@torch.inference_mode()
def collect_detections(
    predict: Callable[[Tensor], Tensor],
    device: torch.device,
    loader: DataLoader,
    options: ScoreOptions,
    quiet: bool = False,
    channels: int = 3,
) -> tuple[list, list]:
    """Detections (n, 7) and targets (m, 5) of every image, in input pixels, on the CPU. predict: (B, channels, H, W) ->
    (B, N, 5 + K)."""
    detections, truths = [], []
    images_each = (getattr(loader, "batch_size", None) or 1) * processes.world_size()  # 1: of any list of batches
    for images, targets in Progress(loader, len(loader), "evaluate", images_each, not quiet):
        predictions = predict(to_input(images, device, channels)).float()
        if options.scorer != STANDARD:
            found = merge_nms(predictions, options.conf_thres, options.nms_thres)
        else:
            found = non_max_suppression(predictions, options.conf_thres, options.nms_thres, options.max_det,
                                        options.max_candidates)
        detections += [rows.cpu() for rows in found]
        truths += truth_by_image(targets, len(images), images.shape[3], images.shape[2])
    return detections, truths


def evaluate(model: nn.Module, loader: DataLoader, names: tuple[str, ...], options: ScoreOptions = ScoreOptions(),
             quiet: bool = False, predict: Callable[[Tensor], Tensor] | None = None) -> EvalResult | None:
    """Score `model` on `loader`: `detect_all`, then `score_detections`. Of several processes, process 0 gets the
    result, which is that of one process, and the others None."""
    together = detect_all(model, loader, options, quiet, predict)
    return None if together is None else score_detections(*together, names, options)


def detect_all(model: nn.Module, loader: DataLoader, options: ScoreOptions, quiet: bool = False,
               predict: Callable[[Tensor], Tensor] | None = None) -> tuple[list[Tensor], list[Tensor]] | None:
    """(detections, targets) of all images of `loader` in its order, as of `collect_detections`, by `model` (a Darknet,
    not changed), its forward pass run by `predict` (utils.deploy.backends), or with batch norms folded. An exported
    file (utils.deploy.runtimes) stands in for a model where its own `predict` is given. Of several processes, each with
    its share of the images (`evaluation_loader`), process 0 gets those of all, and the others None."""
    run = model.optimize() if predict is None else predict
    detections, truths = collect_detections(run, input_device(model), loader, options, quiet, input_channels(model))
    together = processes.gather_shares(list(zip(detections, truths)), getattr(loader, "batch_size", None) or 1)
    return None if together is None else ([rows for rows, _ in together], [rows for _, rows in together])


def score_detections(detections: list[Tensor], truths: list[Tensor], names: tuple[str, ...],
                     options: ScoreOptions) -> EvalResult:
    """What detections and targets, as of `detect_all`, score by the rules of `options`."""
    if options.scorer != STANDARD:
        unbounded = dataclasses.replace(options, max_candidates=None)  # merge_nms has no bound
        result = score_compat(detections, truths, len(names), list(names), unbounded)
    else:
        result = score(detections, truths, len(names), list(names), options)
    if len(names) > MATRIX_CLASSES:
        return result
    return dataclasses.replace(result, confusion=confusion_matrix(detections, truths, len(names), options.iou_thres))
