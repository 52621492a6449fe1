"""Contestants of decoding, non-maximum suppression and average precision. They run in worker processes."""

import time

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from models import YOLOLayer
from utils.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from utils.evaluation import metrics, nms, reference_scorer
from utils.evaluation.evaluate import ScoreOptions
from utils.parse_config import head_anchors, head_indices, parse_model_config, section_of

RAW_SPREAD = 0.2

# B images, N predictions an image, K classes, A anchors of a head


def raw_maps(cfg: str, images: int, size: int) -> list[tuple[YOLOLayer, Tensor]]:
    """The heads of a cfg, each with a random raw map of `images` images, all values near 0 as in a net that was never
    trained: every objectness is about 0.5 and every box about the size of its anchor."""
    defs = parse_model_config(cfg)
    generator = torch.Generator().manual_seed(0)
    heads = [YOLOLayer(section_of(defs, i)) for i in head_indices(defs)]
    strides = [32 >> i for i in range(len(heads))]
    return [
        (
            head,
            RAW_SPREAD
            * torch.randn(
                images, len(head.anchors) * (5 + head.classes), size // stride, size // stride, generator=generator
            ),
        )
        for head, stride in zip(heads, strides)
    ]


def predictions(cfg: str, images: int, size: int) -> Tensor:
    """(B, N, 5 + K) decoded `raw_maps`."""
    return torch.cat([head.decode(raw, size, size) for head, raw in raw_maps(cfg, images, size)], dim=1)


# ---- decoding

def decode(cfg: str, images: int, size: int):
    """Ours, the heads' own function."""
    heads = raw_maps(cfg, images, size)

    @torch.inference_mode()
    def run() -> None:
        """All heads."""
        torch.cat([head.decode(raw, size, size) for head, raw in heads], dim=1)

    return run


def plain_decode(cfg: str, images: int, size: int):
    """The classic way: a contiguous copy, one slice after the other."""
    defs = parse_model_config(cfg)
    anchors = [torch.tensor(head_anchors(section_of(defs, i))) for i in head_indices(defs)]
    maps = [raw for _, raw in raw_maps(cfg, images, size)]

    @torch.inference_mode()
    def run() -> None:
        """All heads."""
        torch.cat([plain_head(raw, own, size) for raw, own in zip(maps, anchors)], dim=1)

    return run


def plain_head(raw: Tensor, anchors: Tensor, size: int) -> Tensor:
    """One head, (B, A (5 + K), G, G) -> (B, A G G, 5 + K)."""
    B, channels, G, _ = raw.shape
    stride, A = size / G, len(anchors)
    t = raw.view(B, A, channels // A, G, G).permute(0, 1, 3, 4, 2).contiguous()
    x, y, w, h = t[..., 0].sigmoid(), t[..., 1].sigmoid(), t[..., 2], t[..., 3]
    columns = torch.arange(G).repeat(G, 1).view(1, 1, G, G).float()
    rows = columns.transpose(2, 3)
    boxes = torch.zeros_like(t[..., :4])
    scaled = anchors / stride
    boxes[..., 0], boxes[..., 1] = x + columns, y + rows
    boxes[..., 2], boxes[..., 3] = w.exp() * scaled[:, 0].view(1, A, 1, 1), h.exp() * scaled[:, 1].view(1, A, 1, 1)
    parts = (
        boxes.view(B, -1, 4) * stride,
        t[..., 4].sigmoid().view(B, -1, 1),
        t[..., 5:].sigmoid().view(B, -1, channels // A - 5),
    )
    return torch.cat(parts, -1)


# ---- non-maximum suppression

def _nms_contest(suppress, cfg: str, images: int, size: int):
    """`run` of a function of predictions, (B, N, 5 + K) -> a list, and how many boxes it leaves."""
    found, facts = predictions(cfg, images, size), {}
    suppress(found[:1, :200].clone())  # so that nothing is loaded or compiled in a measured run

    @torch.inference_mode()
    def run() -> float:
        """Suppress; the copy is for functions that edit what they are given, and is not timed."""
        own = found.clone()
        started = time.perf_counter()
        left = suppress(own)
        seconds = time.perf_counter() - started
        facts["boxes left"] = sum(map(len, left))
        return seconds

    return run, facts


def plain_nms(cfg: str, images: int, size: int):
    """The classic loop, a stand-in of the reference implementation: the best box takes in those it overlaps, again and
    again."""
    return _nms_contest(lambda found: [_greedy(prediction, 0.01, 0.5) for prediction in found], cfg, images, size)


def _greedy(prediction: Tensor, conf_thres: float, nms_thres: float) -> Tensor:
    rows = nms.select_candidates(prediction, conf_thres)
    kept = []
    while len(rows):
        taken = (_plain_iou(rows[0, :4], rows[:, :4]) > nms_thres) & (rows[:, 5] == rows[0, 5])
        taken[0] = True
        weights = rows[taken, 6:7]
        rows[0, :4] = (weights * rows[taken, :4]).sum(0) / weights.sum()
        kept.append(rows[0])
        rows = rows[~taken]
    return torch.stack(kept) if kept else prediction.new_zeros(0, 7)


def _plain_iou(box: Tensor, boxes: Tensor) -> Tensor:
    left, top = torch.max(box[0], boxes[:, 0]), torch.max(box[1], boxes[:, 1])
    right, bottom = torch.min(box[2], boxes[:, 2]), torch.min(box[3], boxes[:, 3])
    shared = (right - left + 1).clamp(min=0) * (bottom - top + 1).clamp(min=0)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    return shared / ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) + areas - shared + 1e-16)


def torchvision_nms(cfg: str, images: int, size: int):
    """torchvision's class-wise NMS, image by image, in single precision."""
    def one(prediction: Tensor) -> Tensor:
        """Threshold, then NMS."""
        prediction = prediction[prediction[:, 4] >= 0.01]
        probability, label = prediction[:, 5:].max(1)
        return batched_nms(cxcywh_to_xyxy(prediction[:, :4]), prediction[:, 4] * probability, label, 0.5)

    return _nms_contest(lambda found: [one(prediction) for prediction in found], cfg, images, size)


def our_nms(cfg: str, images: int, size: int, capped: bool):
    """utils.evaluation.nms, with or without the bounds that mAP is reported with."""
    options = ScoreOptions()
    most = (options.max_det, options.max_candidates) if capped else (None, None)
    return _nms_contest(lambda found: nms.non_max_suppression(found, 0.01, 0.5, *most), cfg, images, size)


def merge_nms(cfg: str, images: int, size: int):
    """utils.evaluation.reference_scorer: the reference's rule, without its loop."""
    return _nms_contest(lambda found: reference_scorer.merge_nms(found, 0.01, 0.5), cfg, images, size)


def many_boxes(boxes: int, size: int, capped: bool = True):
    """utils.evaluation.nms on one image with so many random boxes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1, boxes, 6, generator=generator)
    rows[..., :2] *= size
    rows[..., 2:4] = 4 + rows[..., 2:4] * size / 4
    options = ScoreOptions()
    most = (options.max_det, options.max_candidates) if capped else (None, None)

    @torch.inference_mode()
    def run() -> None:
        """Threshold, bound, suppress."""
        nms.non_max_suppression(rows, 0.01, 0.5, *most)

    return run


# ---- average precision

def scored_set(images: int, boxes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Detections (boxes, 7) in descending score and targets (1 to 4, 5) of so many images; some detections are near a
    target."""
    rng = np.random.default_rng(0)
    detections, targets = [], []
    for _ in range(images):
        truth = rng.uniform(0, 300, (rng.integers(1, 5), 2))
        truth = np.concatenate([truth, truth + rng.uniform(30, 110, truth.shape)], 1)
        near = truth[rng.integers(len(truth), size=boxes)] + rng.normal(0, 1, (boxes, 4)) * rng.exponential(
            25, (boxes, 1)
        )
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
        score = np.sort(rng.uniform(0.01, 1, boxes))[::-1]
        rows = np.column_stack([near, score, rng.integers(1, size=boxes), score])
        detections.append(torch.from_numpy(rows.astype(np.float32)))
        boxes_of_class = np.column_stack([rng.integers(1, size=len(truth)), truth])
        targets.append(torch.from_numpy(boxes_of_class.astype(np.float32)))
    return detections, targets


def our_ap(images: int, boxes: int):
    """utils.evaluation.metrics: AP at 0.5, AP@[.5:.95], precision, recall, F1."""
    detections, targets = scored_set(images, boxes)
    result = metrics.score(detections, targets, 1)
    return (lambda: metrics.score(detections, targets, 1)), {"AP50": round(result.map50, 4), "AP": round(result.map, 4)}


def compat_ap(images: int, boxes: int):
    """utils.evaluation.reference_scorer: the reference's rules, without its loop."""
    detections, targets = scored_set(images, boxes)
    return (lambda: reference_scorer.score_compat(detections, targets, 1)), {
        "AP50": round(reference_scorer.score_compat(detections, targets, 1).map50, 4)
    }


def plain_ap(images: int, boxes: int):
    """The classic loop, a stand-in of the reference implementation: one detection after the other, at IoU 0.5 alone."""
    detections, targets = scored_set(images, boxes)
    _plain_ap(detections[:5], targets[:5])
    return lambda: _plain_ap(detections, targets)


def _plain_ap(detections: list[Tensor], targets: list[Tensor]) -> None:
    hits = []
    for rows, truth in zip(detections, targets):
        found, own = set(), np.zeros(len(rows))
        for i, row in enumerate(rows):
            if len(found) == len(truth):
                break
            if row[5] not in truth[:, 0]:
                continue
            overlap, best = _plain_iou(row[:4], truth[:, 1:5]).max(0)
            if overlap >= 0.5 and int(best) not in found:
                own[i] = 1
                found.add(int(best))
        hits.append(own)
    order = np.argsort(-torch.cat([rows[:, 4] for rows in detections]).numpy())
    hit = np.concatenate(hits)[order].cumsum()
    recall, precision = hit / sum(map(len, targets)), hit / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    np.sum(np.diff(recall, prepend=0) * envelope)


def coco_ap(images: int, boxes: int):
    """pycocotools, from arrays in memory to its table."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detections, targets = scored_set(images, boxes)
    truth = COCO()
    rows = [(i, *row) for i, own in enumerate(targets) for row in _xywh(own[:, 1:5])]
    truth.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": 0, "name": "hand"}],
        "annotations": [
            {"id": 1 + k, "image_id": i, "category_id": 0, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            for k, (i, x, y, w, h) in enumerate(rows)
        ],
    }
    truth.createIndex()
    found = np.concatenate([np.column_stack([np.full(boxes, i), _xywh(own[:, :4]), own[:, 4].numpy(), np.zeros(boxes)])
                            for i, own in enumerate(detections)])

    def run() -> None:
        """Load, match, accumulate."""
        run.evaluation = COCOeval(truth, truth.loadRes(found.copy()), "bbox")
        run.evaluation.evaluate()
        run.evaluation.accumulate()
        run.evaluation.summarize()

    run()
    return run, {"AP50": round(float(run.evaluation.stats[1]), 4), "AP": round(float(run.evaluation.stats[0]), 4)}


def _xywh(boxes: Tensor) -> list[list[float]]:
    centred = xyxy_to_cxcywh(boxes.double())
    return torch.cat([centred[:, :2] - centred[:, 2:] / 2, centred[:, 2:]], 1).tolist()
