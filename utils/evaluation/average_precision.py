"""From hits in descending score to precision, recall and AP.

n detections, T IoU thresholds, P recall points.
"""

import numpy as np

RECALL_POINTS = np.linspace(0.0, 1.0, 101)  # (P,) COCO's
COCO_MAX_DET = 100  # per image and class: how pycocotools applies maxDets
METHODS = ("all", "coco101")


def average_precision(tp: np.ndarray, scores: np.ndarray, n_targets: int, method: str = "all") -> np.ndarray:
    """Area under the precision envelope of one class. tp: (n,) or (n, T) bool, scores: (n,) -> () or (T,) float.

    method "all": the exact area, every recall step counts; "coco101": mean precision at 101 recall points. Detections
    of equal score are ranked in the order given. Without targets or detections: 0.
    """
    if method not in METHODS:
        raise ValueError(f"unknown AP method {method!r}, expected one of {', '.join(METHODS)}")
    tp = np.asarray(tp, dtype=bool)[np.argsort(-np.asarray(scores), kind="stable")]
    if n_targets == 0:
        return np.zeros(tp.shape[1:])
    if method == "coco101":
        return precision_at_recall_points(tp, n_targets).mean(axis=0)
    return (_precision_envelope(tp) * tp).sum(axis=0) / n_targets  # recall rises by 1 / n_targets at each hit


def precision_at_recall_points(tp: np.ndarray, n_targets: int) -> np.ndarray:
    """(n,) or (n, T) bool, best first -> (P,) or (P, T) precision envelope at COCO's recall points, else 0."""
    recall = np.cumsum(tp, axis=0) / n_targets
    envelope = np.concatenate([_precision_envelope(tp), np.zeros((1, *tp.shape[1:]))])
    if tp.ndim == 1:
        return envelope[np.searchsorted(recall, RECALL_POINTS)]
    columns = [envelope[np.searchsorted(recall[:, t], RECALL_POINTS), t] for t in range(tp.shape[1])]
    return np.stack(columns, axis=1)


def best_f1(tp: np.ndarray, scores: np.ndarray, n_targets: int) -> tuple[float, float, float, float]:
    """(n,) bool and (n,) descending scores -> (conf, precision, recall, f1) at the score that maximises F1.

    A threshold takes all detections of one score or none of them, so only the last of equal scores is a candidate.
    """
    if n_targets == 0 or len(tp) == 0:
        return 0.0, 0.0, 0.0, 0.0
    hits, found = np.cumsum(tp), np.arange(1, len(tp) + 1)
    f1 = 2 * hits / (found + n_targets)  # = 2 P R / (P + R)
    best = int(np.argmax(np.where(np.append(scores[1:] != scores[:-1], True), f1, -1.0)))
    return float(scores[best]), float(hits[best] / found[best]), float(hits[best] / n_targets), float(f1[best])


def _precision_envelope(tp: np.ndarray) -> np.ndarray:
    """(n, ...) bool, best first -> (n, ...) the highest precision at this rank or any later one."""
    found = np.arange(1, len(tp) + 1).reshape(-1, *[1] * (tp.ndim - 1))
    return np.maximum.accumulate((np.cumsum(tp, axis=0) / found)[::-1], axis=0)[::-1]
