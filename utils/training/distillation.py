"""A trained dense net as teacher of its pruned self: soft targets for every cell (Hinton et al. 2015; for detectors,
Chen et al. 2017, section 3: the teacher's objectness weighs its boxes and classes)."""

from pathlib import Path
from typing import Sequence

from torch import Tensor, nn

from utils.boxes import complete_iou_loss
from utils.checkpoint import load_weights
from utils.data.data_config import DataConfig
from utils.data.keep_classes import kept_net
from utils.data.net_classes import given_names
from utils.loading import defs_for_weights, resolve_cfg, stored_names
from utils.loss import LossOptions, LossParts, binary_cross_entropy, class_cross_entropy
from utils.parse_config import class_count, head_indices, input_size
from utils.shapes import layer_shapes

SURE = 0.05  # teacher objectness under which a cell teaches no box and no class


def load_teacher(cfg: str, weights: str, student: nn.Module, data: DataConfig | None = None) -> nn.Module:
    """The teacher, ready for inference on the student's device. One of more classes than the student teaches those of
    `data` alone, and one that knows them in another order teaches them in theirs. Raises ValueError when its heads or
    its input are not the student's."""
    found = resolve_cfg(cfg)
    defs = defs_for_weights(found, weights)
    if data and (class_count(defs) > class_count(student.module_defs) == data.classes
                 or _in_another_order(stored_names(found, weights), given_names(data))):
        teacher, _, _ = kept_net(data.names, type(student), (found, Path(weights)), data)
    else:
        teacher = type(student)(defs)
        load_weights(teacher, weights)
    size = input_size(student.module_defs)
    if _kind_of(teacher, size) != _kind_of(student, size):
        raise ValueError(f"{cfg}: found other heads (anchors, classes, grids) or input channels than the student's, "
                         "expected the net that it was pruned from")
    return teacher.to(next(student.parameters()).device).optimize()


def _in_another_order(names: Sequence[str] | None, own: Sequence[str] | None) -> bool:
    return bool(names and own) and list(names) != list(own) and sorted(names) == sorted(own)


def _kind_of(net: nn.Module, size: tuple[int, int]) -> tuple:
    """What a teacher and its student have in common: input channels and, of each head, its grid at an input of (width,
    height) `size` and what its map means."""
    shapes = layer_shapes(net.module_defs, *size)
    grids = [shapes[i][1:] for i in head_indices(net.module_defs)]
    heads = [(type(head), head.anchors.tolist(), head.classes, head.new_coords, head.scale_xy) for head in net.heads()]
    return net.channels, grids, heads


def distillation_loss(raws: list[Tensor], taught: list[Tensor], heads: list, image_size: tuple[int, int],
                      options: LossOptions = LossOptions()) -> LossParts:
    """Box, objectness and class terms of student maps `raws` against teacher maps `taught`, (B, A (5 + K), H, W) each;
    summed over cells, divided by the number of images, as utils.loss. image_size: (width, height)."""
    terms = [_head_terms(raw.float(), teacher.float(), head, image_size)
             for raw, teacher, head in zip(raws, taught, heads)]
    box, objectness, classes = (sum(parts) / len(raws[0]) for parts in zip(*terms))
    return LossParts(options.box_gain * box, options.objectness_gain * objectness, options.class_gain * classes)


def _head_terms(raw: Tensor, taught: Tensor, head, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    width, height = image_size
    own = head.split(raw).flatten(1, 3)  # (B, A H W, 5 + K), the order of decode
    # not decode's, whose objectness may hold an uncertainty that no raw score has;
    # new_coords heads without a logistic activation may leave 0..1
    scores = head.probabilities(head.split(taught).flatten(1, 3)[..., 4:]).clamp(0, 1)
    objectness = binary_cross_entropy(head, own[..., 4], scores[..., 0]).sum()
    sure = (scores[..., 0] > SURE).nonzero(as_tuple=True)  # asked once: each time makes a GPU wait
    weight, truth, scores = scores[..., 0][sure], head.decode(taught, width, height)[..., :4][sure], scores[sure]
    boxes = head.decode(raw, width, height)[..., :4][sure]
    small = 2 - (truth[:, 2] * truth[:, 3] / (width * height)).clamp(max=1)
    off = complete_iou_loss(boxes, truth)
    classes = class_cross_entropy(head, own[..., 5:][sure], scores[:, 1:])
    return (weight * small * off).sum(), objectness, (weight * classes).sum()
