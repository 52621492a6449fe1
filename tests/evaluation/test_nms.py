"""Non-maximum suppression against plain loops: the standard one and the reference implementation's merging one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.boxes import cxcywh_to_xyxy
from utils.evaluation import nms as nms_module
from utils.evaluation import reference_scorer
from utils.evaluation.nms import non_max_suppression
from utils.evaluation.reference_scorer import merge_nms

quick = settings(max_examples=150, deadline=None)
BOTH = pytest.mark.parametrize("nms", [non_max_suppression, merge_nms])

# Corners are multiples of 1/4 pixel and scores of 1/8, so that every sum is exact and equal scores are frequent. Boxes
# reach over the left and upper edge of the image, as a network's do.
row = st.tuples(st.integers(-60, 200).map(lambda n: n / 4), st.integers(-60, 200).map(lambda n: n / 4),
                st.integers(1, 160).map(lambda n: n / 2), st.integers(1, 160).map(lambda n: n / 2),
                *[st.integers(0, 8).map(lambda n: n / 8)] * 4)
images = st.lists(row, max_size=25).map(lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(1, -1, 8))
thresholds = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0])


def plain_iou(a, b, pixel):
    """IoU of two xyxy tuples; pixel = 1 for the convention that counts pixels."""
    w = min(a[2], b[2]) - max(a[0], b[0]) + pixel
    h = min(a[3], b[3]) - max(a[1], b[1]) + pixel
    inter = max(w, 0.0) * max(h, 0.0)
    area_a, area_b = [(c[2] - c[0] + pixel) * (c[3] - c[1] + pixel) for c in (a, b)]
    return inter / (area_a + area_b - inter)


def plain_candidates(prediction, conf_thres):
    """One image (N, 5+C) -> rows [x1, y1, x2, y2, score, class, objectness], best score first."""
    rows = []
    for (cx, cy, w, h, objectness, *probs) in prediction.tolist():
        if objectness >= conf_thres:
            label = probs.index(max(probs))
            rows.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, objectness * probs[label], label, objectness])
    return sorted(rows, key=lambda r: -r[4])


def plain_nms(prediction, conf_thres, nms_thres, merge=False):
    """Greedy loop, one box at a time; with merge as in the reference implementation."""
    left, kept = plain_candidates(prediction, conf_thres), []
    while left:
        best, pixel = left[0], 1 if merge else 0
        gone = [r for r in left[1:] if r[5] == best[5] and plain_iou(best, r, pixel) > nms_thres]
        left = [r for r in left[1:] if r not in gone]
        weight = sum(r[6] for r in [best, *gone])
        if merge and weight > 0:
            best = [sum(r[6] * r[k] for r in [best, *gone]) / weight for k in range(4)] + best[4:]
        kept.append(best)
    return torch.tensor(kept).reshape(-1, 7)


def random_predictions(n_images=3, n=200, n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.rand(n_images, n, 5 + n_classes, generator=generator)
    predictions[..., :4] *= torch.tensor([100.0, 100.0, 60.0, 60.0])
    return predictions


@quick
@given(images, thresholds, st.sampled_from([0.0, 0.25, 0.5]))
def test_nms_equals_a_greedy_loop(predictions, nms_thres, conf_thres):
    found, = non_max_suppression(predictions, conf_thres, nms_thres, max_det=None)
    assert torch.equal(found, plain_nms(predictions[0], conf_thres, nms_thres))


@quick
@given(images, thresholds, st.sampled_from([0.0, 0.25, 0.5]))
def test_merge_nms_equals_the_reference_loop(predictions, nms_thres, conf_thres):
    found, = merge_nms(predictions, conf_thres, nms_thres)
    expected = plain_nms(predictions[0], conf_thres, nms_thres, merge=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@quick
@given(images, thresholds, st.integers(1, 4), st.integers(1, 9))
def test_blocks_of_any_size_keep_what_a_greedy_loop_keeps(predictions, nms_thres, block, pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms_module, "BLOCK", block)
        patch.setattr(nms_module, "PAIRS", pairs)
        patch.setattr(reference_scorer, "PAIRS", pairs)
        found, = non_max_suppression(predictions, 0.0, nms_thres, max_det=None)
        merged, = merge_nms(predictions, 0.0, nms_thres)
    assert torch.equal(found, plain_nms(predictions[0], 0.0, nms_thres))
    torch.testing.assert_close(merged, plain_nms(predictions[0], 0.0, nms_thres, merge=True), rtol=1e-5, atol=1e-4)


def test_both_equal_their_loops_on_many_boxes():
    predictions = random_predictions(n_images=1, n=2500)  # several blocks, and parts of them
    found, = non_max_suppression(predictions, 0.5, 0.5, max_det=None)
    expected = plain_nms(predictions[0], 0.5, 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    merged, = merge_nms(predictions, 0.2, 0.5)
    torch.testing.assert_close(merged, plain_nms(predictions[0], 0.2, 0.5, merge=True), rtol=1e-4, atol=1e-3)


@quick
@given(images, thresholds)
def test_the_librarys_nms_of_other_devices_keeps_the_same(predictions, nms_thres):
    rows = nms_module.select_candidates(predictions[0], 0.0)
    expected = nms_module.keep_best(rows[:, :4], rows, nms_thres)
    assert torch.equal(nms_module._library_nms(rows[:, :4], rows[:, 5], nms_thres), expected)


def test_fixture_each_box_is_there_for_a_reason():
    #        cx    cy    w     h     obj   class 0, 1
    keep = [[50.0, 50.0, 20.0, 20.0, 0.9, 0.9, 0.1],  # the best: always kept
            [52.0, 50.0, 20.0, 20.0, 0.9, 0.1, 0.8],  # overlaps it (IoU 0.82) but is of another class
            [60.0, 50.0, 20.0, 20.0, 0.8, 0.7, 0.3],  # same class, IoU 1/3: below the threshold
            [90.0, 90.0, 10.0, 10.0, 0.5, 0.6, 0.4]]  # alone
    drop = [[51.0, 50.0, 20.0, 20.0, 0.9, 0.8, 0.1],  # same class as the best, IoU 0.90
            [20.0, 20.0, 10.0, 10.0, 0.005, 1.0, 0.0]]  # objectness below conf_thres
    found, = non_max_suppression(torch.tensor([keep + drop]), conf_thres=0.01, nms_thres=0.5)
    torch.testing.assert_close(found[:, :4], cxcywh_to_xyxy(torch.tensor(keep)[:, :4]))
    torch.testing.assert_close(found[:, 4], torch.tensor([0.81, 0.72, 0.56, 0.30]))  # objectness x class probability
    assert found[:, 5].tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(found[:, 6], torch.tensor([0.9, 0.9, 0.8, 0.5]))


def test_threshold_is_on_objectness_not_on_the_score():
    prediction = torch.tensor([[[50.0, 50.0, 20.0, 20.0, 0.02, 0.1]]])  # score 0.002
    assert len(non_max_suppression(prediction, conf_thres=0.01)[0]) == 1


def test_iou_equal_to_the_threshold_is_kept():
    two = torch.tensor([[[10.0, 10.0, 20.0, 20.0, 0.9, 1.0], [10.0, 5.0, 20.0, 10.0, 0.8, 1.0]]])  # IoU exactly 1/2
    assert len(non_max_suppression(two, nms_thres=0.5)[0]) == 2
    assert len(non_max_suppression(two, nms_thres=0.49)[0]) == 1


def test_classes_never_suppress_each_other_left_of_the_image():
    # Class 1 moved by (largest coordinate + 1), as batched_nms does without the shift to zero, would cover class 0.
    boxes = torch.tensor([[[50.0, 50.0, 100.0, 100.0, 0.9, 1.0, 0.0], [-51.0, -51.0, 100.0, 100.0, 0.8, 0.0, 1.0]]])
    assert len(non_max_suppression(boxes)[0]) == 2


def test_boxes_of_an_untrained_net_keep_their_neighbours_precise():
    small = [[10.0, 10.0, 8.0, 8.0, 0.9, 0.0, 1.0], [18.0, 10.0, 8.0, 8.0, 0.8, 0.0, 1.0]]  # touch, IoU 0
    huge = [[0.0, 0.0, 1e9, 1e9, 0.7, 1.0, 0.0]]  # single precision next to 1e9 resolves 64 pixels
    assert len(non_max_suppression(torch.tensor([small + huge]))[0]) == 3


@BOTH
def test_batch_equals_images_one_by_one(nms):
    predictions = random_predictions()
    together = nms(predictions)
    for image, found in enumerate(together):
        assert torch.equal(found, nms(predictions[image:image + 1])[0])


@BOTH
def test_scores_descend_and_the_argument_is_untouched(nms):
    predictions = random_predictions()
    before = predictions.clone()
    for found in nms(predictions):
        assert found.shape[1] == 7 and (found[:-1, 4] >= found[1:, 4]).all()
    assert torch.equal(predictions, before)


@BOTH
def test_nothing_in_nothing_out(nms):
    assert nms(torch.zeros(0, 10, 6)) == []
    assert [tuple(found.shape) for found in nms(torch.zeros(2, 0, 6))] == [(0, 7)] * 2
    assert [tuple(found.shape) for found in nms(torch.zeros(2, 10, 6), conf_thres=0.01)] == [(0, 7)] * 2


@BOTH
def test_caps_keep_the_best(nms):
    predictions = random_predictions(n_images=1)
    everything, = nms(predictions, max_det=None)
    assert torch.equal(nms(predictions, max_det=5)[0], everything[:5])
    capped, = nms(predictions, max_det=None, max_candidates=1)
    assert len(capped) == 1 and torch.equal(capped[:, 4:], everything[:1, 4:])


@BOTH
def test_values_that_are_not_finite_raise_and_are_counted(nms):
    predictions = random_predictions()
    predictions[0, 3, 0], predictions[2, 5, 4], predictions[2, 6, 2] = float("nan"), float("nan"), float("inf")
    with pytest.raises(ValueError, match=r"3 of 4,800 predicted values are not finite \(in 2 of 3 images\)"):
        nms(predictions)


@BOTH
def test_wrong_shape_raises(nms):
    with pytest.raises(ValueError, match=r"shape \(10, 6\), expected"):
        nms(torch.zeros(10, 6))


def test_half_precision_predictions_give_single_precision_detections():
    predictions = random_predictions()
    halves = non_max_suppression(predictions.half())
    singles = non_max_suppression(predictions.half().float())
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(halves, singles))
