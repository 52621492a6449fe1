"""Target assignment and the YOLO loss, apart from the model.

T targets, A anchors of all heads together, P positives of one head; boxes cx, cy, w, h in input pixels unless said.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import complete_iou_loss, cxcywh_to_xyxy, pair_iou, wh_iou
from utils.tensors import sent, values

PAIRS = 1 << 18  # of a target and a prediction that are compared at once: a CPU keeps them in its cache


@dataclass(frozen=True)
class LossOptions:
    """Weights and choices of the loss."""

    box: str = "ciou"  # or "mse": the reference's squared error on offsets and log sizes
    # an anchor whose shape has at least this IoU with a box is positive as well; 1: the best only
    several_iou: float = 0.4
    ignore_iou: float = 0.7  # a prediction that overlaps any box by more is not taught "nothing here"
    box_gain: float = 2.0
    objectness_gain: float = 1.0
    class_gain: float = 1.0


class Positives(NamedTuple):
    """Where one head has to answer: all (P,) long, boxes (P, 4)."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    label: Tensor
    boxes: Tensor

    def to(self, device: torch.device) -> "Positives":
        """The same on a device, in one copy."""
        if device == self.boxes.device:
            return self
        table = sent(torch.cat([torch.stack(self[:-1], 1).to(self.boxes), self.boxes], 1), device)
        return Positives(*table[:, :-4].long().unbind(1), table[:, -4:])


class Frame(NamedTuple):
    """What a head's map lies in. stride: (2,) input pixels per cell; anchors: (A, 2) and image_size (width, height) in
    input pixels."""

    stride: Tensor
    anchors: Tensor
    image_size: tuple[int, int]


class LossParts(NamedTuple):
    """The terms of the loss, each summed over cells and divided by the number of images; scalars."""

    box: Tensor
    objectness: Tensor
    classes: Tensor

    def total(self) -> Tensor:
        """What is minimised."""
        return self.box + self.objectness + self.classes

    def describe(self) -> str:
        """"box 1.5, objectness 0.2, classes 0"."""
        return ", ".join(f"{name} {float(value):g}" for name, value in self._asdict().items())


def assign_targets(targets: Tensor, anchors: list[Tensor], grids: list[tuple[int, int]], image_size: tuple[int, int],
                   several_iou: float = 1.0) -> list[Positives]:
    """Which anchor of which head answers for each target: the one of all heads whose shape fits best, and with
    several_iou < 1 every other one that fits that well (Redmon and Farhadi 2018, section 2.1; darknet's iou_thresh).

    targets: (T, 6) image, class, cx, cy, w, h relative; anchors: (A_h, 2) pixels a head; grids: (H, W) a head;
    image_size: (width, height). Returns one Positives a head; a box centred on the far edge falls in the last cell.
    """
    scale = values(image_size, targets)
    centres, sizes = targets[:, 2:4] * scale, targets[:, 4:6] * scale
    overlap = wh_iou(sizes, torch.cat(anchors).to(sizes))  # (T, A)
    positive = overlap >= max(several_iou, 1e-9) if several_iou < 1 else torch.zeros_like(overlap, dtype=torch.bool)
    positive.scatter_(1, overlap.argmax(1, keepdim=True), True)
    chosen, first = [], 0
    for head_anchors, (H, W) in zip(anchors, grids):
        target_i, anchor_i = positive[:, first:first + len(head_anchors)].nonzero(as_tuple=True)
        first += len(head_anchors)
        cells = centres[target_i] / scale * values([W, H], targets)
        column, row = cells[:, 0].long().clamp(0, W - 1), cells[:, 1].long().clamp(0, H - 1)
        chosen.append(Positives(targets[target_i, 0].long(), anchor_i, row, column, targets[target_i, 1].long(),
                                torch.cat([centres[target_i], sizes[target_i]], 1)))
    return chosen


def ignored(boxes: Tensor, targets: Tensor, image_size: tuple[int, int], ignore_iou: float) -> Tensor:
    """(B, N) bool: predicted boxes (B, N, 4) in input pixels that overlap a target of their image by more than
    ignore_iou. targets: (T, 6) image, class, cx, cy, w, h relative; image_size: (width, height)."""
    hits, boxes = boxes.new_zeros(boxes.shape[:2]), cxcywh_to_xyxy(boxes)
    truth = cxcywh_to_xyxy(targets[:, 2:6] * values(image_size * 2, targets))
    # target by target, not image by image: how many an image has is a question that makes a GPU wait
    most = max(PAIRS // boxes.shape[1], 1)
    for own, image_i in zip(truth.split(most), targets[:, 0].long().split(most)):
        hits.index_add_(0, image_i, (pair_iou(boxes[image_i], own[:, None]) > ignore_iou).to(hits))
    return hits > 0


def yolo_loss(raws: list[Tensor], heads: list, targets: Tensor, image_size: tuple[int, int],
              options: LossOptions = LossOptions()) -> LossParts:
    """Loss of raw maps (B, A (5 + K), H, W) against targets (T, 6), finite for any batch, also one without a box.

    heads: the model's YOLOLayers, in the order of `raws`; image_size: (width, height) of the input in pixels. Targets
    that lie on the CPU, as they come from a loader, are assigned there: a GPU would wait to count what it found.
    """
    raws = [raw.float() for raw in raws]  # half precision ends here: exp and IoU need the range
    device, grids = raws[0].device, [tuple(raw.shape[2:]) for raw in raws]
    strides = [(image_size[0] / W, image_size[1] / H) for H, W in grids]
    sizes = [torch.tensor(head.sizes_px(stride)) for head, stride in zip(heads, strides)]
    assigned = assign_targets(targets, sizes, grids, image_size, options.several_iou)
    positives = [found.to(device) for found in assigned]
    targets = targets.to(device, non_blocking=True)
    frames = [Frame(values(stride, raws[0]), sent(own, device), image_size) for stride, own in zip(strides, sizes)]
    parts = [_head_loss(*head, targets, options) for head in zip(raws, heads, positives, frames)]
    images = len(raws[0])
    return LossParts(*(sum(terms) / images for terms in zip(*parts)))


def _head_loss(raw: Tensor, head, pos: Positives, frame: Frame, targets: Tensor,
               options: LossOptions) -> tuple[Tensor, Tensor, Tensor]:
    """(box, objectness, class) sums of one head."""
    t = head.split(raw)  # (B, A, H, W, 5 + K)
    with torch.no_grad():
        predicted = head.decode(raw, *frame.image_size)[..., :4]
        weight = (~ignored(predicted, targets, frame.image_size, options.ignore_iou)).view(t.shape[:4]).to(t.dtype)
        truth = torch.zeros_like(weight)
    where = (pos.image, pos.anchor, pos.row, pos.column)
    own = t[where]  # (P, 5 + K)
    weight[where] = 1.0
    truth[where] = 1.0
    box = options.box_gain * _box_loss(own, head, pos, frame, options.box)
    objectness = options.objectness_gain * (weight * binary_cross_entropy(head, t[..., 4], truth)).sum()
    if head.classes == 1:  # one class is certain wherever there is an object, but its score must still be learned once
        labels = torch.ones_like(own[:, 5:])
    else:
        labels = F.one_hot(pos.label, head.classes).to(own.dtype)
    return box, objectness, options.class_gain * class_cross_entropy(head, own[:, 5:], labels).sum()


def class_cross_entropy(head, t: Tensor, truth: Tensor) -> Tensor:
    """(P,) cross entropy of raw class scores t (P, K) against probabilities truth (P, K): of one softmax where the head
    has one, else the sum of K binary ones."""
    if head.softmax:
        return -(truth * t.log_softmax(dim=1)).sum(1)
    return binary_cross_entropy(head, t, truth).sum(1)


def binary_cross_entropy(head, t: Tensor, truth: Tensor) -> Tensor:
    """Binary cross entropy of raw scores; heads with new_coords already carry probabilities."""
    if head.new_coords:
        return F.binary_cross_entropy(t.clamp(1e-6, 1 - 1e-6), truth, reduction="none")
    return F.binary_cross_entropy_with_logits(t, truth, reduction="none")


def _box_loss(own: Tensor, head, pos: Positives, frame: Frame, kind: str) -> Tensor:
    """Sum over positives, small boxes weighted up by 2 - w h (relative area; darknet yolo_layer.c)."""
    anchor, stride = frame.anchors[pos.anchor].to(own.dtype), frame.stride
    cells = torch.stack([pos.column, pos.row], 1).to(own.dtype)
    small = 2 - pos.boxes[:, 2:].prod(1) / (frame.image_size[0] * frame.image_size[1])
    if kind == "ciou":
        boxes = head.boxes(own[:, 0:2], own[:, 2:4], cells, anchor, stride)
        return (small * complete_iou_loss(boxes, pos.boxes)).sum()
    offset = pos.boxes[:, :2] / stride - cells
    predicted_xy = head.boxes(own[:, 0:2], own[:, 2:4], cells, anchor, stride)[:, :2] / stride - cells
    size_error = own[:, 2:4] - (pos.boxes[:, 2:] / anchor).clamp(min=1e-6).log()
    if head.new_coords:
        size_error = 2 * own[:, 2:4] - (pos.boxes[:, 2:] / anchor).sqrt()
    return (small[:, None] * ((predicted_xy - offset) ** 2 + size_error ** 2)).sum() / 2
