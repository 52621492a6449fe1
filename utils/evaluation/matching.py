"""Which detection finds which target.

Detections are (n, 7) rows: x1, y1, x2, y2, score, class, objectness; targets are (m, 5) rows: class, x1, y1, x2, y2;
both in pixels of one frame, one tensor per image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.boxes import box_iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # (T,) COCO's


@dataclass(frozen=True)
class Pairs:
    """Detections and targets of one image and class that overlap, by their rows in the stacked tensors."""

    det: np.ndarray  # (k,)
    gt: np.ndarray  # (k,)
    iou: np.ndarray  # (k,)


def match_detections(detections: Tensor, targets: Tensor, iou_thresholds=IOU_THRESHOLDS) -> np.ndarray:
    """(n, 7) detections, (m, 5) targets of one image, (T,) thresholds -> (n, T) bool: is it a true positive?

    As pycocotools does it: in descending score, each detection takes the target of its class with the highest IoU
    among those that are still free and reach the threshold; of equal IoU the later target.
    """
    thresholds = np.asarray(iou_thresholds, dtype=float)
    pairs = overlapping_pairs([detections], [targets], thresholds.min())
    return match(pairs, detections[:, 4].numpy(), len(targets), thresholds) >= 0


def stack_rows(per_image: list[Tensor], width: int) -> Tensor:
    """List of (n_i, width) -> (sum n_i, width) float64 on the CPU."""
    rows = [image_rows.reshape(-1, width) for image_rows in per_image]
    return torch.cat(rows).double().cpu() if rows else torch.zeros(0, width, dtype=torch.float64)


def image_index(per_image: list[Tensor]) -> np.ndarray:
    """List of (n_i, ...) -> (sum n_i,) the image that each row of the stacked tensor belongs to."""
    return np.repeat(np.arange(len(per_image)), np.array([len(rows) for rows in per_image], dtype=int))


def overlapping_pairs(detections: list[Tensor], targets: list[Tensor], min_iou: float) -> Pairs:
    """All pairs of one image and class with IoU >= min_iou."""
    det, gt, iou, n_before, m_before = [], [], [], 0, 0
    for found, truth in zip(detections, targets):
        if len(found) and len(truth):
            found, truth = found.cpu().double(), truth.cpu().double()  # small: faster there than on an accelerator
            overlap = box_iou(found[:, :4], truth[:, 1:5])  # (n, m)
            pairs = ((overlap >= min_iou) & (found[:, 5:6] == truth[:, 0])).nonzero(as_tuple=True)
            det.append(pairs[0] + n_before)
            gt.append(pairs[1] + m_before)
            iou.append(overlap[pairs])
        n_before, m_before = n_before + len(found), m_before + len(truth)
    if not det:
        return Pairs(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0))
    return Pairs(*(torch.cat(part).numpy() for part in (det, gt, iou)))


def match(pairs: Pairs, scores: np.ndarray, n_targets: int, iou_thresholds: np.ndarray,
          ignored: np.ndarray | None = None) -> np.ndarray:
    """(n,) scores of the stacked detections -> (n, T) the target that each finds at each threshold, -1 for none (see
    `match_detections`). ignored: (m,) bool, targets that are taken only by what reaches no other."""
    rank = np.empty(len(scores), dtype=int)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    last = np.zeros(n_targets, dtype=bool) if ignored is None else ignored
    order = np.lexsort((-pairs.gt, -pairs.iou, last[pairs.gt], rank[pairs.det]))  # rank, IoU, then the later target
    det, gt, iou = pairs.det[order], pairs.gt[order], pairs.iou[order]
    found = np.full((len(scores), len(iou_thresholds)), -1)
    for t, threshold in enumerate(iou_thresholds):
        reached = iou >= threshold
        found[:, t] = _assign(det[reached], gt[reached], len(scores), n_targets)
    return found


def _assign(det: np.ndarray, gt: np.ndarray, n_det: int, n_gt: int) -> np.ndarray:
    """Greedy matching of pairs in order of priority -> (n_det,) the target that each detection gets, or -1.

    Going through the pairs one by one and taking each whose two ends are free gives the same as taking, in rounds, all
    pairs that come first for both of their ends: nothing of higher priority can claim these. A few rounds do.
    """
    found, taken = np.full(n_det, -1), np.zeros(n_gt, dtype=bool)
    first_of_det, first_of_gt = np.zeros(n_det, dtype=int), np.zeros(n_gt, dtype=int)
    while len(det):
        place = np.arange(len(det))
        first_of_det[det[::-1]] = place[::-1]  # the last write stays: the first place
        first_of_gt[gt[::-1]] = place[::-1]
        take = (first_of_det[det] == place) & (first_of_gt[gt] == place)
        found[det[take]], taken[gt[take]] = gt[take], True
        left = (found[det] < 0) & ~taken[gt]
        det, gt = det[left], gt[left]
    return found


@dataclass(frozen=True)
class Ranked:
    """All detections of a data set in descending score; of equal scores the earlier image, then the earlier row."""

    image: np.ndarray  # (n,) index of the image
    label: np.ndarray  # (n,) class
    score: np.ndarray  # (n,)
    tp: np.ndarray  # (n, T) bool: a true positive at this IoU threshold

    def where(self, chosen: np.ndarray) -> "Ranked":
        """The rows of a mask or of indices. Being a hit never depends on detections of lower score, so caps may cut."""
        return Ranked(self.image[chosen], self.label[chosen], self.score[chosen], self.tp[chosen])

    def by_class(self, n_classes: int) -> list["Ranked"]:
        """The rows of each class 0..n_classes-1, order kept."""
        order = np.argsort(self.label, kind="stable")
        ends = np.searchsorted(self.label[order], np.arange(n_classes + 1))
        return [self.where(order[start:end]) for start, end in zip(ends, ends[1:])]


def rank(detections: list[Tensor], hits: np.ndarray) -> Ranked:
    """Stacked detections by their score, with what each hits, (n, T) bool."""
    rows = stack_rows(detections, 7).numpy()
    order = np.argsort(-rows[:, 4], kind="stable")
    return Ranked(image=image_index(detections)[order], label=rows[order, 5].astype(int), score=rows[order, 4],
                  tp=hits[order])


def place_in_group(group: np.ndarray) -> np.ndarray:
    """(n,) group of each row -> (n,) how many rows of the same group come before it."""
    order = np.argsort(group, kind="stable")
    ordered, place = group[order], np.empty(len(group), dtype=int)
    place[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return place
