"""Which classes a detector takes for which."""

import numpy as np
from torch import Tensor

from utils.boxes import box_iou

SCORE = 0.25  # detections of a lower score do not count, as in other programs' matrices
MATRIX_CLASSES = 1000  # a matrix of more would be of no use


def confusion_matrix(detections: list[Tensor], targets: list[Tensor], n_classes: int, iou_thres: float = 0.5,
                     score: float = SCORE) -> np.ndarray:
    """(K + 1, K + 1) counts of boxes: row = detected as, column = labelled as, the last of each = nothing.

    detections: (n, 7) x1, y1, x2, y2, score, class, objectness; targets: (m, 5) class, x1, y1, x2, y2, an image each.
    Of all pairs with an IoU from iou_thres on, whatever their classes, that of the highest IoU is matched first.
    """
    counts = np.zeros((n_classes + 1, n_classes + 1), np.int64)
    for found, truth in zip(detections, targets):
        found = found[found[:, 4] >= score].double()
        labels, true = found[:, 5].long().numpy(), truth[:, 0].long().numpy()
        pairs = _matched(box_iou(found[:, :4], truth[:, 1:5].double()).numpy(), iou_thres)
        row, column = np.full(len(true), n_classes), np.full(len(labels), n_classes)
        for i, j in pairs:
            row[j], column[i] = labels[i], true[j]
        np.add.at(counts, (row, true), 1)
        alone = column == n_classes
        np.add.at(counts, (labels[alone], column[alone]), 1)
    return counts


def _matched(iou: np.ndarray, least: float) -> list[tuple[int, int]]:
    """(n, m) -> pairs (i, j), each i and j once, the highest value first."""
    pairs, taken_i, taken_j = [], set(), set()
    rows, columns = np.nonzero(iou >= least)
    for k in np.argsort(-iou[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if i not in taken_i and j not in taken_j:
            pairs.append((i, j))
            taken_i.add(i)
            taken_j.add(j)
    return pairs
