"""From decoded predictions to detections: threshold, sort, class-wise non-maximum suppression.

A detection is a row of 7 numbers: x1, y1, x2, y2 (pixels of the network's input), score, class, objectness, where
score = objectness x probability of the class. Rows are sorted by descending score.
"""

import numpy as np
import torch
from torch import Tensor

from utils.boxes import cxcywh_to_xyxy

# B images, N predictions an image, C classes, n detections
BLOCK = 256  # boxes that the plain loop sees at a time
PAIRS = 1 << 16  # compared in one step: their terms stay in the cache


class NotFinite(ValueError):
    """Predictions are not finite numbers."""


def non_max_suppression(predictions: Tensor, conf_thres: float = 0.01, nms_thres: float = 0.5,
                        max_det: int | None = 300, max_candidates: int | None = None) -> list[Tensor]:
    """(B, N, 5+C) cx, cy, w, h (input pixels), objectness, class probabilities -> B detections, (n, 7) float32 each.

    conf_thres is a threshold on objectness, not on the score: so does the implementation whose numbers we compare with
    (Lam1360/YOLOv3-model-pruning, utils/utils.py), and it keeps the recall of a net with unsure classes. Of two boxes
    of one class with IoU > nms_thres the one with the lower score goes. At most max_det detections are left;
    max_candidates bounds the boxes that enter NMS, best score first. None: no bound.
    """
    check_predictions(predictions)
    return [_suppress(select_candidates(prediction, conf_thres, max_candidates), nms_thres)[:max_det]
            for prediction in predictions]


def check_predictions(predictions: Tensor) -> None:
    """Raise ValueError unless predictions are (B, N, 5+C) with C >= 1, and NotFinite unless they are finite: NaN would
    silently vanish in NMS."""
    if predictions.ndim != 3 or predictions.shape[2] < 6:
        raise ValueError(f"predictions have shape {tuple(predictions.shape)}, expected (images, boxes, 5 + classes)")
    bad = ~torch.isfinite(predictions)
    if bad.any():
        n_images = int(bad.flatten(1).any(dim=1).sum())
        raise NotFinite(f"{int(bad.sum()):,} of {bad.numel():,} predicted values are not finite (in {n_images} of "
                        f"{len(bad)} images); the weights are broken or training has diverged")


def select_candidates(prediction: Tensor, conf_thres: float, max_candidates: int | None = None) -> Tensor:
    """(N, 5+C) decoded predictions of one image -> (n, 7) rows with objectness >= conf_thres, descending score.

    The class is the most probable one; of equal scores the earlier prediction comes first.
    """
    prediction = prediction[prediction[:, 4] >= conf_thres].float()  # a copy, and float16 gets its precision back
    objectness = prediction[:, 4]
    class_prob, label = prediction[:, 5:].max(dim=1)
    score = objectness * class_prob
    rows = torch.cat([cxcywh_to_xyxy(prediction[:, :4]), torch.stack([score, label.float(), objectness], dim=1)], dim=1)
    return rows[score.argsort(descending=True, stable=True)[:max_candidates]]


def keep_best(boxes: Tensor, rows: Tensor, nms_thres: float) -> Tensor:
    """(n, 4) xyxy boxes of (n, 7) rows in descending score -> (k,) indices that class-wise greedy NMS keeps, ascending.

    On a CPU in blocks: a plain loop decides within the best BLOCK boxes that are left, then one vectorised step drops
    what those overlap among all others. On an untrained net's 10,000 boxes this takes about half of torchvision's time,
    and it spares small programs the two seconds in which torchvision is imported. On other devices torchvision's own
    kernel is used.
    """
    labels = rows[:, 5]
    if boxes.device.type != "cpu":
        return _library_nms(boxes, labels, nms_thres)
    sides = sides_and_label(boxes, labels)
    left, kept = torch.arange(len(boxes)), [torch.zeros(0, dtype=torch.long)]
    while len(left):
        best, left = left[:BLOCK], left[BLOCK:]
        best = best[_greedy(overlaps(sides[:, best], sides[:, best], nms_thres))]
        kept.append(best)
        free = [
            ~overlaps(sides[:, best], sides[:, part], nms_thres).any(dim=0)
            for part in left.split(max(PAIRS // len(best), 1))
        ]
        left = left[torch.cat(free)]
    return torch.cat(kept)


def _greedy(overlap: Tensor) -> Tensor:
    """(n, n) bool, best box first -> indices of those that no kept better one overlaps."""
    gone, kept = np.zeros(len(overlap), dtype=bool), []
    for i, row in enumerate(overlap.numpy()):
        if not gone[i]:
            kept.append(i)
            gone |= row
    return torch.tensor(kept, dtype=torch.long)


def _library_nms(boxes: Tensor, labels: Tensor, nms_thres: float) -> Tensor:
    """torchvision's, on boxes in descending score.

    batched_nms moves the classes apart by adding class x (largest coordinate + 1). That separates them only if no
    coordinate is negative (hence the shift to zero) and is exact only in double precision: a net at the start of its
    training draws boxes 1e8 pixels wide. Ranks stand for the scores, since of equal scores the earlier row comes first.
    """
    from torchvision.ops import batched_nms

    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    boxes = boxes.double() - boxes.min().double()
    ranks = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    return batched_nms(boxes, ranks, labels.long(), nms_thres).sort().values


def sides_and_label(boxes: Tensor, labels: Tensor) -> Tensor:
    """(n, 4) xyxy boxes and (n,) classes -> (6, n) x1, y1, x2, y2, area, class, a row each, as `overlaps` wants them.
    Where all are of one class there is no sixth row."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    rows = [*boxes.unbind(dim=1), area] + ([labels.to(boxes.dtype)] if (labels != labels[:1]).any() else [])
    return torch.stack(rows)


def overlaps(some: Tensor, others: Tensor, nms_thres: float) -> Tensor:
    """Two of `sides_and_label`, k and m columns -> (k, m) bool: of one class with IoU > nms_thres."""
    x1, y1, x2, y2, area, *label = some[:, :, None]
    inter = torch.minimum(x2, others[2]).sub_(torch.maximum(x1, others[0])).clamp_(min=0)
    inter *= torch.minimum(y2, others[3]).sub_(torch.maximum(y1, others[1])).clamp_(min=0)
    # 0 / 0 of two empty boxes is NaN: no overlap, as torchvision has it
    overlap = inter.div_((area + others[4]).sub_(inter)) > nms_thres
    return overlap & (label[0] == others[5]) if label else overlap


def _suppress(rows: Tensor, nms_thres: float) -> Tensor:
    return rows[keep_best(rows[:, :4], rows, nms_thres)]
