"""The reference implementation's input, NMS and AP, for numbers that compare with those published from it.

Lam1360/YOLOv3-model-pruning (commit 9b0cf5b, utils/utils.py) measures "mAP" by rules of its own. They are kept here
exactly, and only here; `utils.evaluation.nms` and `utils.evaluation.metrics` hold the standard rules. `--scorer compat`
applies the rules to the pixels that every other part of this project sees, `--scorer reference` to the reference's own
(`reference_square`), on which a net trained on letterboxed images does worse. The differences in the rules:

- IoU counts pixels: the width of a box is x2 - x1 + 1. That depends on the scale, so boxes must be in pixels of the
  network's input, where the reference measures;
- NMS does not drop overlapping boxes, it merges them: mean weighted by objectness;
- a detection is compared only with the target it overlaps most, whatever that target's class, and is a true positive if
  that target is unused and the detection's class occurs somewhere in the image;
- detections are ranked by objectness alone, not by objectness x class;
- precision and recall are those of all detections together, the end of the curve.
"""


from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from utils.boxes import box_iou
from utils.evaluation.args import ScoreOptions
from utils.evaluation.average_precision import average_precision, precision_at_recall_points
from utils.evaluation.matching import IOU_THRESHOLDS, stack_rows
from utils.evaluation.metrics import (
    ClassResult,
    EvalResult,
    check_inputs,
    count_targets,
    mean_curve,
    mean_over,
)
from utils.evaluation.nms import PAIRS, check_predictions, keep_best, overlaps, select_candidates, sides_and_label
from utils.evaluation.words import PIXELS


def merge_nms(predictions: Tensor, conf_thres: float = 0.01, nms_thres: float = 0.5, max_det: int | None = None,
              max_candidates: int | None = None) -> list[Tensor]:
    """As `utils.evaluation.nms.non_max_suppression`, but boxes are merged and IoU counts pixels (see above). No caps by
    default.

    (B, N, 5+C) cx, cy, w, h (input pixels), objectness, class probabilities -> B tensors (n, 7): x1, y1, x2, y2, score,
    class, objectness, descending score. Only the box is merged; the other columns are those of the best candidate.
    """
    check_predictions(predictions)
    return [_merge(select_candidates(prediction, conf_thres, max_candidates), nms_thres)[:max_det]
            for prediction in predictions]


def _merge(rows: Tensor, nms_thres: float) -> Tensor:
    """(n, 7) rows in descending score -> (k, 7): each kept box is the mean of the candidates that it suppresses.

    The reference compares candidates with the kept box as it was before merging, so suppression is plain greedy NMS
    and each candidate belongs to the first kept box of its class with IoU > nms_thres.
    """
    keep = keep_best(_with_last_pixel(rows[:, :4]), rows, nms_thres)
    if not len(keep):
        return rows
    owner = torch.full((len(rows),), -1, device=rows.device)  # (n,) which kept box a candidate belongs to
    owner[keep] = torch.arange(len(keep), device=rows.device)  # itself, even where its IoU of 1 is not > nms_thres
    rest = owner < 0
    pairs = PAIRS if rows.device.type == "cpu" else 256 * PAIRS  # a GPU is slowed by many small steps
    sides = sides_and_label(_with_last_pixel(rows[:, :4]), rows[:, 5])
    owner[rest] = torch.cat([_first_owner(sides[:, keep], sides[:, part], nms_thres)
                             for part in rest.nonzero().flatten().split(max(pairs // len(keep), 1))])
    owned = owner >= 0
    weight = rows[owned, 6:7].double()
    sums = rows.new_zeros(len(keep), 5, dtype=torch.float64)  # weighted x1, y1, x2, y2, and the weights
    sums.index_add_(0, owner[owned], torch.cat([rows[owned, :4].double() * weight, weight], dim=1))
    merged = torch.where(sums[:, 4:] > 0, sums[:, :4] / sums[:, 4:], rows[keep, :4].double())
    return torch.cat([merged.float(), rows[keep, 4:]], dim=1)


def _first_owner(kept: Tensor, others: Tensor, nms_thres: float) -> Tensor:
    """Sides of (k) kept boxes and (n) candidates -> (n,) the first kept box that suppresses each; -1: none
    (rounding)."""
    hit = overlaps(kept, others, nms_thres)
    return torch.where(hit.any(dim=0), hit.byte().argmax(dim=0), -1)


def pixel_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, 4), (M, 4) xyxy in pixels -> (N, M) float64 IoU where a box from x1 to x2 is x2 - x1 + 1 wide."""
    return box_iou(_with_last_pixel(boxes), _with_last_pixel(others))


def _with_last_pixel(boxes: Tensor) -> Tensor:
    """Counting pixels is standard IoU once the right and lower edge lie one pixel further out."""
    return boxes.double() + boxes.new_tensor([0, 0, 1, 1], dtype=torch.float64)


def match_compat(detections: Tensor, targets: Tensor, iou_thresholds=IOU_THRESHOLDS) -> np.ndarray:
    """(n, 7) detections in descending score, (m, 5) targets of one image, (T,) -> (n, T) bool true positives.

    The reference stops when every target is matched; no detection after that could be a hit, so nothing is lost.
    """
    tp = np.zeros((len(detections), len(iou_thresholds)), dtype=bool)
    if not len(detections) or not len(targets):
        return tp
    iou, best = pixel_iou(detections[:, :4], targets[:, 1:5]).cpu().max(dim=1)  # (n,) each
    allowed = torch.isin(detections[:, 5], targets[:, 0].to(detections.dtype)).cpu()
    for t, threshold in enumerate(iou_thresholds):
        hits = (allowed & (iou >= threshold)).nonzero().flatten().numpy()
        _, first = np.unique(best.numpy()[hits], return_index=True)  # of each target the first detection
        tp[hits[first], t] = True
    return tp


def score_compat(detections: list[Tensor], targets: list[Tensor], n_classes: int, names: list[str] | None = None,
                 options: ScoreOptions = ScoreOptions(max_candidates=None)) -> EvalResult:
    """The reference's numbers for detections of `merge_nms`, in input pixels: arguments as for `metrics.score`, but
    that of the options the IoU and the bound on candidates alone count.

    `map50` is the reference's mAP. It has no AP@[.5:.95]; `map` applies its rules at the ten thresholds. Precision,
    recall and F1 are means over the classes that have targets, of all detections (conf = 0). With several classes AP
    and recall can exceed 1, since a detection may take another class's target.
    """
    check_inputs(detections, targets, n_classes, names)
    rows = stack_rows(detections, 7).numpy()
    thresholds = np.concatenate([[options.iou_thres], IOU_THRESHOLDS])
    tp = np.concatenate([np.zeros((0, len(thresholds)), bool)]
                        + [match_compat(d, t, thresholds) for d, t in zip(detections, targets)])
    n_targets = count_targets(targets, n_classes)  # (C,)
    order = np.argsort(-rows[:, 6], kind="stable")  # by objectness
    label, objectness, tp = rows[order, 5], rows[order, 6], tp[order]
    per_class, curves = [], []
    for c in np.flatnonzero(n_targets):
        measures = _measures(tp[label == c], objectness[label == c], int(n_targets[c]))
        per_class.append(ClassResult(int(c), names[c] if names else str(c), int(n_targets[c]), **measures))
        curves.append(precision_at_recall_points(tp[label == c, 0], n_targets[c]))
    means = {key: mean_over(per_class, key) for key in ("precision", "recall", "f1")}
    return EvalResult(
        map50=mean_over(per_class, "ap50"), map=mean_over(per_class, "ap"), **means, conf=0.0, per_class=per_class,
        n_images=len(targets), n_targets=int(n_targets.sum()), curve=mean_curve(curves),
        options=options if options.scorer in PIXELS else replace(options, scorer="compat"))


def _measures(tp: np.ndarray, objectness: np.ndarray, n_targets: int) -> dict:
    """(n, T) hits and (n,) objectness of one class -> AP, and precision, recall, F1 at the end of the curve."""
    ap = average_precision(tp, objectness, n_targets)  # (T,)
    precision, recall = float(tp[:, 0].sum() / max(len(tp), 1)), float(tp[:, 0].sum() / n_targets)
    f1 = 2 * precision * recall / (precision + recall + 1e-16)
    return {"ap50": float(ap[0]), "ap": float(ap[1:].mean()), "precision": precision, "recall": recall, "f1": f1}
