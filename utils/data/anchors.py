"""Anchor boxes from the box sizes of a data set: k-means on 1 - IoU (Redmon & Farhadi 2017, section 2).

A size is (width, height) in input pixels; N boxes, K anchors.
"""

from pathlib import Path

import numpy as np
import torch

from utils import boxes
from utils.data.image_files import Source, read_image, read_image_list
from utils.data.yolo_labels import LabelFinder, read_labels
from utils.letterbox import fitting_scale
from utils.parse_config import head_anchors, head_indices, input_size, integers, section_of

ANY_CLASS = 10**6  # labels may be of any class: their sizes count

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


# Anchors of a net.

def used_anchors(defs: list[dict]) -> np.ndarray:
    """(K, 2) anchors in pixels that at least one head uses."""
    return np.array(sorted({pair for i in head_indices(defs) for pair in head_anchors(section_of(defs, i))}))


def with_anchors(defs: list[dict], anchors: np.ndarray) -> list[dict]:
    """Copies of module_defs with `anchors` (K, 2) in place of the K used ones; masks skip the unused ones."""
    fresh = [section.copy() for section in defs]
    heads = [fresh[1 + i] for i in head_indices(fresh)]
    masks = [integers(yolo, "mask") or list(range(len(head_anchors(yolo)))) for yolo in heads]  # without one, all
    order = sorted({index for mask in masks for index in mask})
    text = ",  ".join(f"{width:d},{height:d}" for width, height in anchors.tolist())
    for yolo, mask in zip(heads, masks):
        yolo.update(mask=",".join(str(order.index(index)) for index in mask), anchors=text, num=str(len(anchors)))
    return fresh


def with_fitted_anchors(defs: list[dict], wh: np.ndarray) -> list[dict]:
    """module_defs with anchors clustered from the box sizes `wh` (N, 2), at least as many as the net uses."""
    found = kmeans_anchors(wh, len(used_anchors(defs))).round().clip(min=1).astype(int)
    return with_anchors(defs, found[np.argsort(found.prod(axis=1), kind="stable")])  # rounding may swap neighbours


def fit_anchors(defs: list[dict], source: Path) -> list[dict]:
    """module_defs with anchors clustered from the boxes of `source`; prints what they gain."""
    size, before = input_size(defs), used_anchors(defs)
    wh = letterboxed_sizes(source, size)
    if len(wh) < len(before):
        raise ValueError(f"{source}: found {len(wh)} boxes, expected at least {len(before)}, one an anchor "
                         "(labels are looked for in `labels` beside `images`)")
    fitted = with_fitted_anchors(defs, wh)
    print(f"{len(wh):,} boxes of {source} at {size[0]}x{size[1]}; mean best IoU of {len(before)} anchors")
    for name, anchors in (("before", before), ("after", used_anchors(fitted))):
        text = "  ".join(f"{width:.0f},{height:.0f}" for width, height in anchors[np.argsort(anchors.prod(axis=1))])
        print(f"  {name:<6}  {mean_best_iou(wh, anchors):.3f}  {text}")
    return fitted


# Boxes of a data set.

def letterboxed_sizes(source: Source, size: tuple[int, int]) -> np.ndarray:
    """(N, 2) width and height in input pixels of all boxes of `source`, images shrunk to fit `size` (width, height)."""
    notes: list[str] = []
    images, finder = read_image_list(source, notes), LabelFinder()
    print("".join(f"note: {note}\n" for note in notes), end="")
    return sizes_at(images, [read_labels(finder.find(image), ANY_CLASS) for image in images], size)


def sizes_at(images: list[Path], labels: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(N, 2) width and height in input pixels of the boxes of image files, shrunk to fit `size` (width, height);
    labels: those of each, (n, 5) as `read_labels` gives them."""
    sizes = [np.zeros((0, 2))]
    sizes += [rows[:, 3:5] * fitted_size(image, size) for image, rows in zip(images, labels) if len(rows)]
    return np.concatenate(sizes)


def fitted_size(image: Path, size: tuple[int, int]) -> np.ndarray:
    """(2,) width and height in pixels of an image file once it fits `size` (width, height), aspect ratio kept."""
    # decoded, not read from the header: OpenCV turns the image by its EXIF tag, as it does in training
    height, width = read_image(image).shape[:2]
    return fitting_scale(width, height, size) * np.array([width, height])
