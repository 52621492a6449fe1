"""Anchor boxes from the box sizes of a data set: k-means on 1 - IoU (Redmon & Farhadi 2017, section 2).

Pure functions on numpy arrays. A size is (width, height) in input pixels; N boxes, K anchors.
"""

import numpy as np
import torch

from utils import boxes

_RESTARTS = 10
_MAX_ROUNDS = 200  # k-means usually settles within 30


def wh_iou(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, 2), (K, 2) -> (N, K) IoU of boxes and anchors that share a centre."""
    return boxes.wh_iou(torch.from_numpy(wh), torch.from_numpy(anchors)).numpy()


def mean_best_iou(wh: np.ndarray, anchors: np.ndarray) -> float:
    """Mean over the boxes (N, 2) of the IoU with the best of the anchors (K, 2); 0..1."""
    return float(wh_iou(_as_sizes(wh), _as_sizes(anchors)).max(axis=1).mean())


def kmeans_anchors(wh: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """(N, 2) -> (k, 2) float anchors, ascending by area: the best mean best IoU of several k-means runs."""
    wh = _as_sizes(wh)
    if not 1 <= k <= len(wh):
        raise ValueError(f"found {len(wh)} boxes, expected at least one a cluster (k={k})")
    rng = np.random.default_rng(seed)
    runs = [_lloyd(wh, _spread_start(wh, k, rng)) for _ in range(_RESTARTS)]
    best = max(runs, key=lambda anchors: mean_best_iou(wh, anchors))
    return best[np.lexsort((best[:, 0], best.prod(axis=1)))]


def _as_sizes(wh: np.ndarray) -> np.ndarray:
    """`wh` as (N, 2) float64. Raises ValueError unless there are sizes and all are positive and finite."""
    wh = np.asarray(wh, dtype=np.float64)
    if wh.ndim != 2 or wh.shape[1] != 2 or not len(wh):
        raise ValueError(f"found an array of shape {wh.shape}, expected (N, 2) with N >= 1: width, height")
    if not (np.isfinite(wh).all() and (wh > 0).all()):
        raise ValueError("found a width or height that is not positive and finite, expected sizes in pixels")
    return wh


def _spread_start(wh: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """(k, 2) boxes to start from: each next one drawn with a chance ~ (1 - IoU)^2 to those chosen (k-means++)."""
    chosen = [wh[rng.integers(len(wh))]]
    while len(chosen) < k:
        gaps = (1 - wh_iou(wh, np.stack(chosen)).max(axis=1)).clip(0) ** 2
        # all boxes equal the chosen ones: any box will do
        chances = gaps / gaps.sum() if gaps.sum() > 0 else None
        chosen.append(wh[rng.choice(len(wh), p=chances)])
    return np.stack(chosen)


def _lloyd(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(k, 2) k-means result from the start `anchors` (k, 2): the best round, as a median step may lose mean IoU."""
    best, best_iou, owners = anchors, 0.0, None
    for _ in range(_MAX_ROUNDS):
        iou = wh_iou(wh, anchors)
        if iou.max(axis=1).mean() > best_iou:
            best, best_iou = anchors, iou.max(axis=1).mean()
        previous, owners = owners, iou.argmax(axis=1)
        if previous is not None and (owners == previous).all():
            break
        # an anchor that owns no box stays where it is
        anchors = np.stack([np.median(wh[owners == i], axis=0) if (owners == i).any() else anchor
                            for i, anchor in enumerate(anchors)])
    return best
