"""Box formats. Everything returns new tensors; nothing is edited in place.

Names of formats: `cxcywh` = centre x, centre y, width, height; `xyxy` = left, top, right, bottom. Pixels are continuous
coordinates (the first pixel covers [0, 1]), so a width is x2 - x1, without the "+1 pixel" of older code. The IoU of
pairs of boxes is torchvision's, which is imported when it is first asked for: that takes a second and 160 MB, which a
program that only cuts channels or runs a net can spare.
"""

import torch
from torch import Tensor

EPSILON = 1e-7  # added to what is divided by, as in torchvision
SMALLEST_SIDE = 1e-9  # pixels; the square of a much smaller one is 0 in float32, and a gradient divides by it


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) cx, cy, w, h -> (..., 4) x1, y1, x2, y2, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) x1, y1, x2, y2 -> (..., 4) cx, cy, w, h, in the same unit."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:4]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, 4), (M, 4) xyxy in one unit -> (N, M) IoU."""
    from torchvision.ops import box_iou

    return box_iou(boxes, others)


def pair_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(..., 4), (..., 4) xyxy in one unit, shapes that broadcast -> (...) IoU of each pair; of two empty boxes NaN."""
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    intersection = sides.clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1)
    return intersection / (areas - intersection)


def complete_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, 4), (N, 4) cxcywh in pixels -> (N,) 1 - complete IoU of each pair (Zheng et al. 2020, section 3).

    Loss and gradients are finite for every finite box, also one whose sides vanish beside its centre: taken from
    corners, a side under the spacing of floats there would be 0, and the ratio of two such sides no number.
    """
    overlap, separation = _overlap_and_separation(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(others))
    aspect = 4 / torch.pi**2 * (_aspect_angle(others) - _aspect_angle(boxes)) ** 2
    with torch.no_grad():  # the weight of the aspect term is a constant to the gradient, as in the paper
        weight = aspect / ((1 - overlap).clamp(min=0) + aspect + EPSILON)
    return 1 - overlap + separation + weight * aspect


def _overlap_and_separation(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4), (N, 4) xyxy -> (N,) IoU, and (N,) squared distance of the centres over the squared diagonal of the box
    that encloses both."""
    sides = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp(min=0)
    intersection = sides.prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - intersection
    enclosing = torch.maximum(boxes[:, 2:], others[:, 2:]) - torch.minimum(boxes[:, :2], others[:, :2])
    apart = (boxes[:, :2] + boxes[:, 2:] - others[:, :2] - others[:, 2:]) / 2
    return intersection / (union + EPSILON), apart.square().sum(1) / (enclosing.square().sum(1) + EPSILON)


def _aspect_angle(boxes: Tensor) -> Tensor:
    """(N, 4) cxcywh in pixels -> (N,) arctan(w / h)."""
    width, height = boxes[:, 2:].clamp(min=SMALLEST_SIDE).unbind(1)
    return torch.atan2(width, height)


def wh_iou(wh: Tensor, other_wh: Tensor) -> Tensor:
    """(N, 2), (M, 2) widths and heights in one unit -> (N, M) IoU of the boxes laid on a common centre.

    This is how a box chooses its anchor. Two boxes without area have IoU 0.
    """
    smaller = torch.minimum(wh[:, None], other_wh[None])  # (N, M, 2)
    inter = smaller.prod(dim=-1)
    union = wh.prod(dim=-1)[:, None] + other_wh.prod(dim=-1)[None] - inter
    return inter / union.clamp(min=torch.finfo(inter.dtype).tiny)
