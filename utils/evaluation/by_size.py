"""AP of small, medium and large boxes by COCO's rules. Areas of 32 x 32 and 96 x 96 px tell them apart, here on the
network's input, where they decide what it can see."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from utils.evaluation.average_precision import COCO_MAX_DET, precision_at_recall_points
from utils.evaluation.matching import IOU_THRESHOLDS, Pairs, image_index, match, place_in_group, stack_rows

# (least, largest) area, px; a box of exactly 32 x 32 counts in both
SIZES = {"small": (0, 32 ** 2), "medium": (32 ** 2, 96 ** 2), "large": (96 ** 2, np.inf)}


@dataclass(frozen=True)
class SizeResult:
    """AP@[.5:.95] of the boxes of one size."""

    name: str
    n_targets: int
    map: float  # mean over the classes that have targets of this size


def scores_by_size(detections: list[Tensor], targets: list[Tensor], pairs: Pairs, n_classes: int) -> list[SizeResult]:
    """Of the sizes that targets have. pairs: overlapping detections and targets, at least from the lowest of
    IOU_THRESHOLDS on."""
    found, truth = stack_rows(detections, 7).numpy(), stack_rows(targets, 5).numpy()
    scores, labels = found[:, 4], found[:, 5].astype(int)
    order = np.argsort(-scores, kind="stable")
    order = order[place_in_group(image_index(detections)[order] * n_classes + labels[order]) < COCO_MAX_DET]
    results = []
    for name, (least, largest) in SIZES.items():
        wrong_det, wrong_gt = (_outside(boxes, least, largest) for boxes in (found[:, :4], truth[:, 1:]))
        n_targets = np.bincount(truth[~wrong_gt, 0].astype(int), minlength=n_classes)
        if not n_targets.any():
            continue
        taken = match(pairs, scores, len(truth), IOU_THRESHOLDS, wrong_gt)[order]  # (n, T)
        hit = taken >= 0
        # neither right nor wrong: what finds a target of another size, or finds none and is of another size itself
        ignored = np.where(hit, np.append(wrong_gt, False)[taken], wrong_det[order, None])
        of_class = [_mean_ap(hit[chosen], ignored[chosen], n_targets[c]) for c in np.flatnonzero(n_targets)
                    for chosen in [labels[order] == c]]
        results.append(SizeResult(name, int(n_targets.sum()), float(np.mean(of_class))))
    return results


def _outside(boxes: np.ndarray, least: float, largest: float) -> np.ndarray:
    """(n, 4) x1, y1, x2, y2 -> (n,) bool."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (area < least) | (area > largest)


def _mean_ap(hit: np.ndarray, ignored: np.ndarray, n_targets: int) -> float:
    """(n, T) bool of one class, best first -> AP at 101 recall points, mean over the T thresholds."""
    return float(np.mean([precision_at_recall_points(hit[~ignored[:, t], t], n_targets).mean()
                          for t in range(hit.shape[1])]))
