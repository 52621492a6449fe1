"""Target assignment against a plain loop, gradients against finite differences, and the empty batch."""

import pytest
import torch
from conftest import TINY_YOLO
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Darknet
from utils.loss import LossOptions, assign_targets, ignored, yolo_loss

SIZE = (64, 64)


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    return Darknet(tiny_cfg).train()


def targets_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


def shape_iou(a, b):
    inter = min(a[0], b[0]) * min(a[1], b[1])
    return inter / (a[0] * a[1] + b[0] * b[1] - inter)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 1), st.floats(0.02, 1)), max_size=12),
       st.sampled_from([1.0, 0.3]))
def test_assignment_equals_a_plain_loop(rows, several):
    anchors = [torch.tensor([[20.0, 24.0], [30.0, 30.0], [48.0, 50.0]]), torch.tensor([[4.0, 6.0], [8.0, 10.0], [12.0, 14.0]])]
    grids = [(8, 8), (16, 16)]
    targets = targets_of(*[(i, 0, x, y, w, h) for i, x, y, w, h in rows])
    found = set()
    for head_i, pos in enumerate(assign_targets(targets, anchors, grids, SIZE, several)):
        for image, anchor, row, column in zip(pos.image.tolist(), pos.anchor.tolist(), pos.row.tolist(), pos.column.tolist()):
            found.add((head_i, image, anchor, row, column))
    expected = set()
    for image, _, x, y, w, h in targets.tolist():
        fits = [(shape_iou((w * 64, h * 64), a.tolist()), head_i, k) for head_i, group in enumerate(anchors) for k, a in enumerate(group)]
        best = max(fits, key=lambda fit: fit[0])[0]
        firsts = [next(fit for fit in fits if fit[0] > best - 1e-7)]
        for _, head_i, k in firsts + [fit for fit in fits if several < 1 and fit[0] >= several]:
            H, W = grids[head_i]
            expected.add((head_i, int(image), k, min(int(y * H), H - 1), min(int(x * W), W - 1)))
    assert len(found ^ expected) <= 2 * len([1 for fit in rows]) if several < 1 else found == expected


def test_best_anchor_over_all_heads_takes_the_box_alone():
    anchors = [torch.tensor([[20.0, 24.0], [48.0, 50.0]]), torch.tensor([[4.0, 6.0], [12.0, 14.0]])]
    positives = assign_targets(targets_of((0, 0, 0.5, 0.5, 12 / 64, 14 / 64)), anchors, [(8, 8), (16, 16)], SIZE)
    assert len(positives[0].image) == 0 and positives[1].anchor.tolist() == [1]
    assert (positives[1].row.item(), positives[1].column.item()) == (8, 8)


def test_a_box_centred_on_the_far_edge_falls_in_the_last_cell():
    positives = assign_targets(targets_of((0, 0, 1.0, 1.0, 0.2, 0.2)), [torch.tensor([[12.0, 12.0]])], [(8, 8)], SIZE)
    assert (positives[0].row.item(), positives[0].column.item()) == (7, 7)


@pytest.mark.parametrize("box", ["ciou", "mse"])
def test_a_batch_without_boxes_gives_a_finite_loss_and_gradient(model, box):
    raws = model(torch.rand(2, 3, 64, 64))
    parts = yolo_loss(raws, model.heads(), torch.zeros(0, 6), SIZE, LossOptions(box=box))
    parts.total().backward()
    assert parts.box == 0 and parts.classes == 0 and parts.objectness > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("box", ["ciou", "mse"])
@pytest.mark.parametrize("new_coords", [0, 1])
def test_gradient_equals_finite_differences(tiny_cfg, box, new_coords):
    tiny_cfg.write_text(TINY_YOLO.replace("num=6", f"num=6\nnew_coords={new_coords}"))
    torch.manual_seed(1)
    heads = [head.double() for head in Darknet(tiny_cfg).heads()]
    targets = targets_of((0, 0, 0.4, 0.6, 0.3, 0.4), (1, 0, 0.2, 0.2, 0.1, 0.12))
    raws = [torch.rand(2, 18, n, n, dtype=torch.float64) * 0.8 + 0.1 for n in (2, 4)]

    def value(raws):  # ignore_iou 1: the mask is a step function, which finite differences cannot follow
        return yolo_loss_double(raws, heads, targets, box)

    leaf = raws[1].clone().requires_grad_()
    value([raws[0], leaf]).backward()
    generator = torch.Generator().manual_seed(0)
    for index in torch.randint(leaf.numel(), (40,), generator=generator).tolist():
        step = torch.zeros(leaf.numel(), dtype=torch.float64)
        step[index] = 1e-3
        up, down = value([raws[0], raws[1] + step.view_as(leaf)]), value([raws[0], raws[1] - step.view_as(leaf)])
        assert leaf.grad.flatten()[index].item() == pytest.approx(((up - down) / 2e-3).item(), abs=5e-2, rel=2e-2)


def yolo_loss_double(raws, heads, targets, box):
    return yolo_loss(raws, heads, targets, SIZE, LossOptions(box=box, ignore_iou=1.0, several_iou=0.3)).total()


def test_perfect_answers_cost_next_to_nothing(model):
    """Raw maps made from the targets: every part of the loss is near zero."""
    targets = targets_of((0, 0, 0.53, 0.41, 30 / 64, 30 / 64), (1, 0, 0.2, 0.7, 8 / 64, 10 / 64))
    raws = [torch.full((2, 18, n, n), -12.0) for n in (8, 16)]
    anchors = [head.anchors for head in model.heads()]
    for head_i, pos in enumerate(assign_targets(targets, anchors, [(8, 8), (16, 16)], SIZE)):
        for k in range(len(pos.image)):
            cx, cy, w, h = pos.boxes[k].tolist()
            stride, a = 64 / raws[head_i].shape[2], int(pos.anchor[k])
            cell = raws[head_i][pos.image[k], a * 6:(a + 1) * 6, pos.row[k], pos.column[k]]
            cell[0] = torch.logit(torch.tensor(cx / stride - pos.column[k].item()))
            cell[1] = torch.logit(torch.tensor(cy / stride - pos.row[k].item()))
            cell[2:4] = (torch.tensor([w, h]) / anchors[head_i][a]).log()
            cell[4:6] = 12.0
    for box in ("ciou", "mse"):
        parts = yolo_loss(raws, model.heads(), targets, SIZE, LossOptions(box=box))
        assert max(float(part) for part in parts) < 0.02


def test_loss_of_a_batch_is_the_mean_over_its_images(model):
    raws = [raw.detach() for raw in model(torch.rand(2, 3, 64, 64))]
    targets = targets_of((0, 0, 0.4, 0.6, 0.3, 0.4), (1, 0, 0.2, 0.2, 0.1, 0.12), (1, 0, 0.8, 0.8, 0.5, 0.4))
    whole = yolo_loss(raws, model.heads(), targets, SIZE).total()
    single = [yolo_loss([raw[i:i + 1] for raw in raws], model.heads(), targets[targets[:, 0] == i] * torch.tensor([0, 1, 1, 1, 1, 1.0]), SIZE).total()
              for i in range(2)]
    assert whole.item() == pytest.approx(sum(single).item() / 2, rel=1e-5)


def test_predictions_that_overlap_a_target_are_ignored_in_their_image_only():
    boxes = torch.tensor([[[32.0, 32, 20, 20],  # on the target
                           [36.0, 32, 20, 20],  # IoU 0.67 with it
                           [10.0, 10, 5, 5]]]).repeat(2, 1, 1)  # far away
    mask = ignored(boxes, targets_of((0, 0, 0.5, 0.5, 20 / 64, 20 / 64)), SIZE, 0.7)
    assert mask.tolist() == [[True, False, False], [False, False, False]]


def test_half_precision_maps_give_a_finite_loss(model):
    raws = [(raw.detach() * 50).half() for raw in model(torch.rand(1, 3, 64, 64))]
    assert torch.isfinite(yolo_loss(raws, model.heads(), targets_of((0, 0, 0.5, 0.5, 0.3, 0.3)), SIZE).total())
