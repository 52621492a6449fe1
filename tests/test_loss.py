"""Target assignment against a plain loop, gradients against finite differences, and the empty batch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import box_convert, box_iou, complete_box_iou_loss

from models import Darknet, GaussianYOLOLayer, RegionLayer, YOLOLayer
from nets import TINY_YOLO
from utils.boxes import complete_iou_loss, cxcywh_to_xyxy
from utils.loss import LossOptions, assign_targets, ignored, yolo_loss
from utils.training.distillation import distillation_loss

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
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 1), st.floats(0.02, 1)),
        max_size=12,
    ),
    st.sampled_from([1.0, 0.3]),
)
def test_assignment_equals_a_plain_loop(rows, several):
    anchors = [
        torch.tensor([[20.0, 24.0], [30.0, 30.0], [48.0, 50.0]]),
        torch.tensor([[4.0, 6.0], [8.0, 10.0], [12.0, 14.0]]),
    ]
    grids = [(8, 8), (16, 16)]
    targets = targets_of(*[(i, 0, x, y, w, h) for i, x, y, w, h in rows])
    found = set()
    for head_i, pos in enumerate(assign_targets(targets, anchors, grids, SIZE, several)):
        for image, anchor, row, column in zip(
            pos.image.tolist(), pos.anchor.tolist(), pos.row.tolist(), pos.column.tolist()
        ):
            found.add((head_i, image, anchor, row, column))
    expected = set()
    for image, _, x, y, w, h in targets.tolist():
        fits = [
            (shape_iou((w * 64, h * 64), a.tolist()), head_i, k)
            for head_i, group in enumerate(anchors)
            for k, a in enumerate(group)
        ]
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
        parts = yolo_loss(raws, model.heads(), targets, SIZE, LossOptions(box=box, several_iou=1.0))
        assert max(float(part) for part in parts) < 0.02


def test_loss_of_a_batch_is_the_mean_over_its_images(model):
    raws = [raw.detach() for raw in model(torch.rand(2, 3, 64, 64))]
    targets = targets_of((0, 0, 0.4, 0.6, 0.3, 0.4), (1, 0, 0.2, 0.2, 0.1, 0.12), (1, 0, 0.8, 0.8, 0.5, 0.4))
    whole = yolo_loss(raws, model.heads(), targets, SIZE).total()
    single = [
        yolo_loss(
            [raw[i : i + 1] for raw in raws],
            model.heads(),
            targets[targets[:, 0] == i] * torch.tensor([0, 1, 1, 1, 1, 1.0]),
            SIZE,
        ).total()
        for i in range(2)
    ]
    assert whole.item() == pytest.approx(sum(single).item() / 2, rel=1e-5)


def test_predictions_that_overlap_a_target_are_ignored_in_their_image_only():
    boxes = torch.tensor([[[32.0, 32, 20, 20],  # on the target
                           [36.0, 32, 20, 20],  # IoU 0.67 with it
                           [10.0, 10, 5, 5]]]).repeat(2, 1, 1)  # far away
    mask = ignored(boxes, targets_of((0, 0, 0.5, 0.5, 20 / 64, 20 / 64)), SIZE, 0.7)
    assert mask.tolist() == [[True, False, False], [False, False, False]]


@pytest.mark.parametrize("pairs", [1, 7, 1 << 22])
def test_what_is_ignored_is_what_torchvision_finds_image_by_image(monkeypatch, pairs):
    monkeypatch.setattr("utils.loss.PAIRS", pairs)
    generator = torch.Generator().manual_seed(3)
    centres, sides = torch.rand(3, 60, 2, generator=generator), 0.1 + 0.4 * torch.rand(3, 60, 2, generator=generator)
    boxes = torch.cat([centres, sides], -1) * 64
    image = torch.tensor([0, 0, 0, 2, 2, 2, 2]).float()  # the second has none
    near = torch.stack([boxes[int(i), 9 * k] for k, i in enumerate(image)]) / 64  # of some there is a prediction
    targets = torch.cat([image[:, None], torch.zeros(7, 1), near], 1)
    corners = lambda rows: box_convert(rows, "cxcywh", "xyxy")
    expected = torch.stack([(box_iou(corners(own), corners(64 * targets[image == i, 2:])) > 0.5).any(1)
                            for i, own in enumerate(boxes)])
    assert 7 < expected.sum() < 60
    assert torch.equal(ignored(boxes, targets, SIZE, 0.5), expected)
    assert not ignored(boxes, targets[:0], SIZE, 0.5).any()


def test_half_precision_maps_give_a_finite_loss(model):
    raws = [(raw.detach() * 50).half() for raw in model(torch.rand(1, 3, 64, 64))]
    assert torch.isfinite(yolo_loss(raws, model.heads(), targets_of((0, 0, 0.5, 0.5, 0.3, 0.3)), SIZE).total())


# ---- every raw map has a finite loss and finite gradients

ANCHORS = {"anchors": "4,6, 8,10, 20,24", "mask": "0,1,2", "num": "3"}
anything = st.one_of(st.floats(-1e4, 1e4, width=32),
                     st.sampled_from([-1e4, -104.0, -15.5, -1e-20, 0.0, 1e-6, 0.5, 15.0, 1e4]))
maps = st.lists(anything, min_size=6, max_size=31)
relative_box = st.tuples(*[st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 1e-30, 0.3, 1.0]))] * 4)


def head_of(new_coords: int, classes: int = 1) -> YOLOLayer:
    return YOLOLayer({"type": "yolo", "classes": str(classes), "new_coords": str(new_coords), **ANCHORS})


def map_of(values: list[float]) -> torch.Tensor:
    """(1, 18, 3, 3) whose cells hold `values`, each at another place in the next anchor."""
    return torch.tensor(values).repeat(18 * 9)[:18 * 9].reshape(1, 18, 3, 3).clone().requires_grad_()


def assert_finite(loss, raw):
    loss.backward()
    assert torch.isfinite(loss), f"loss {loss}"
    assert torch.isfinite(raw.grad).all(), f"gradient of {raw.detach()[~torch.isfinite(raw.grad)]}"


@settings(max_examples=150, deadline=None)
@given(maps, st.lists(relative_box, max_size=3), st.sampled_from(["ciou", "mse"]), st.sampled_from([0, 1]))
def test_any_raw_map_has_a_finite_loss_and_finite_gradients(values, boxes, kind, new_coords):
    raw = map_of(values)
    targets = targets_of(*[(0, 0, *box) for box in boxes])
    options = LossOptions(box=kind, several_iou=0.0)
    assert_finite(yolo_loss([raw], [head_of(new_coords)], targets, (96, 96), options).total(), raw)


@settings(max_examples=150, deadline=None)
@given(maps, maps, st.sampled_from([0, 1]))
def test_any_raw_map_has_a_finite_loss_and_finite_gradients_with_a_teacher(values, taught, new_coords):
    raw = map_of(values)
    assert_finite(distillation_loss([raw], [map_of(taught).detach()], [head_of(new_coords)], (96, 96)).total(), raw)


@pytest.mark.parametrize("t_w, t_h", [(-15.5, -15.5), (0.0, -15.5), (-15.5, 0.0), (-14.0, -18.0), (8.0, -15.5)])
def test_boxes_far_smaller_than_a_float_beside_their_centre_cost_what_they_do_in_float64(t_w, t_h):
    size = torch.tensor([20.0, 24.0], dtype=torch.float64) * torch.tensor([t_w, t_h], dtype=torch.float64).exp()
    box = torch.tensor([[330.0, 300.0, *size]], dtype=torch.float64)
    other = torch.tensor([[333.0, 301.0, 20.0, 24.0]], dtype=torch.float64)
    expected = complete_box_iou_loss(cxcywh_to_xyxy(box), cxcywh_to_xyxy(other))
    assert complete_iou_loss(box.float(), other.float()).item() == pytest.approx(expected.item(), rel=1e-5)


ordinary = st.tuples(st.floats(-50, 500), st.floats(-50, 500), st.floats(1, 400), st.floats(1, 400))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ordinary, ordinary), min_size=1, max_size=8))
def test_complete_iou_and_its_gradient_are_torchvisions_on_ordinary_boxes(pairs):
    ours, theirs, others = (torch.tensor([pair[i] for pair in pairs], dtype=torch.float64) for i in (0, 0, 1))
    loss = complete_iou_loss(ours.requires_grad_(), others)
    expected = complete_box_iou_loss(cxcywh_to_xyxy(theirs.requires_grad_()), cxcywh_to_xyxy(others))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(complete_iou_loss(ours.float(), others.float()).double(), expected, rtol=1e-4, atol=1e-4)
    if (ours != others).all():  # where edges meet there is no one gradient
        loss.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("box", ["ciou", "mse"])
def test_a_step_at_sides_that_vanish_leaves_finite_weights(model, box):
    """One head answers with sides of exp(-15.5): a gradient that is not finite would destroy every weight at once."""
    for i in model.head_layers():
        model.module_list[i - 1][0].bias.data.view(3, -1)[:, 3] = -15.5
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    targets = targets_of((0, 0, 0.53, 0.41, 30 / 64, 30 / 64), (1, 0, 0.2, 0.7, 8 / 64, 10 / 64))
    for _ in range(2):
        optimiser.zero_grad()
        loss = yolo_loss(model(torch.rand(2, 3, 64, 64)), model.heads(), targets, SIZE, LossOptions(box=box)).total()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 500.0)
        optimiser.step()
    assert torch.isfinite(loss) and all(torch.isfinite(p).all() for p in model.parameters())


HEADS = {
    "yolo": (YOLOLayer, {}, 5),
    "region": (RegionLayer, {}, 5),
    "region of one softmax": (RegionLayer, {"softmax": "1"}, 5),
    "gaussian": (GaussianYOLOLayer, {}, 9),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_student_that_scores_as_its_teacher_does_has_nothing_to_learn(kind):
    layer, more, entries = HEADS[kind]
    head = layer({"type": "yolo", "anchors": "2,2, 3,4", "num": "2", "mask": "0,1", "classes": "3"} | more)
    torch.manual_seed(0)
    taught = torch.randn(1, 2 * (entries + 3), 4, 4)
    raw = taught.clone().requires_grad_()
    distillation_loss([raw], [taught], [head], (64, 64)).total().backward()
    of_scores = raw.grad.view(2, entries + 3, 4, 4)[:, head.objectness_entry:]
    assert of_scores.abs().max() < 1e-5
    other = (taught + 0.5 * torch.randn_like(taught)).requires_grad_()
    distillation_loss([other], [taught], [head], (64, 64)).total().backward()
    assert other.grad.view(2, entries + 3, 4, 4)[:, head.objectness_entry:].abs().max() > 0.01


def test_classes_of_one_softmax_are_learnt_by_its_cross_entropy():
    head = RegionLayer({"type": "region", "anchors": "2,2", "num": "1", "classes": "3", "softmax": "1"})
    torch.manual_seed(0)
    raw = torch.randn(2, 8, 4, 4)
    targets = targets_of((0, 2, 0.3, 0.6, 0.5, 0.5), (1, 0, 0.9, 0.1, 0.5, 0.5))
    expected = F.cross_entropy(torch.stack([raw[0, 5:, 2, 1], raw[1, 5:, 0, 3]]), torch.tensor([2, 0]), reduction="sum")
    assert yolo_loss([raw], [head], targets, (64, 64)).classes.item() == pytest.approx(expected.item() / 2, rel=1e-5)
