"""Average precision against pycocotools, brute force and plain loops; the compat scorer against its rules, naively."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.evaluation import metrics
from utils.evaluation.args import ScoreOptions
from utils.evaluation.average_precision import average_precision, best_f1
from utils.evaluation.matching import IOU_THRESHOLDS, match_detections, rank
from utils.evaluation.metrics import score
from utils.evaluation.reference_scorer import match_compat, score_compat
from utils.evaluation.words import cap_words

quick = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2 ** 31)


def random_data(seed, n_images=12, n_classes=3, max_det=40, decimals=None):
    """Detections scattered round targets, some of a wrong class; images without either or both occur.

    decimals rounds the scores, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    detections, targets = [], []
    for _ in range(n_images):
        m, n = int(rng.integers(0, 6)), int(rng.integers(0, max_det + 1)) * int(rng.random() > 0.2)
        corner, size = rng.uniform(0, 200, (m, 2)), rng.uniform(10, 100, (m, 2))
        truth = np.hstack([rng.integers(0, n_classes, (m, 1)), corner, corner + size])
        source = truth[rng.integers(0, m, n)] if m else np.tile([0.0, 0.0, 0.0, 50.0, 50.0], (n, 1))
        xyxy = source[:, 1:] + rng.normal(0, 6, (n, 4))
        xyxy[:, 2:] = np.maximum(xyxy[:, 2:], xyxy[:, :2])  # pycocotools ignores boxes of negative area
        label = np.where(rng.random(n) < 0.8, source[:, 0], rng.integers(0, n_classes, n))
        objectness, prob = rng.random((2, n))
        scores = objectness * prob if decimals is None else (objectness * prob).round(decimals)
        rows = np.column_stack([xyxy, scores, label, objectness])[np.argsort(-scores, kind="stable")]
        detections.append(torch.tensor(rows, dtype=torch.float32).reshape(-1, 7))
        targets.append(torch.tensor(truth, dtype=torch.float32).reshape(-1, 5))
    return detections, targets


def det(x1, y1, x2, y2, score_, label=0, objectness=None):
    """One detection as a row; objectness is the score unless given."""
    return [x1, y1, x2, y2, score_, label, score_ if objectness is None else objectness]


def plain_iou(a, b, pixel=0):
    w = min(a[2], b[2]) - max(a[0], b[0]) + pixel
    h = min(a[3], b[3]) - max(a[1], b[1]) + pixel
    inter = max(w, 0.0) * max(h, 0.0)
    return inter / (sum((c[2] - c[0] + pixel) * (c[3] - c[1] + pixel) for c in (a, b)) - inter)


def coco_numbers(detections, targets, n_classes):
    """(AP@.5, AP@[.5:.95]) by pycocotools with its defaults (100 detections per image and class)."""
    stats = coco_stats(detections, targets, n_classes)
    return stats[1], stats[0]


def coco_stats(detections, targets, n_classes):
    """pycocotools's twelve numbers."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def xywh(x1, y1, x2, y2):
        return [x1, y1, x2 - x1, y2 - y1]
    annotations = [{"image_id": i, "category_id": int(row[0]), "bbox": xywh(*row[1:]), "iscrowd": 0,
                    "area": (row[3] - row[1]) * (row[4] - row[2])}
                   for i, rows in enumerate(targets) for row in rows.double().tolist()]
    results = [{"image_id": i, "category_id": int(row[5]), "bbox": xywh(*row[:4]), "score": row[4]}
               for i, rows in enumerate(detections) for row in rows.double().tolist()]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {"images": [{"id": i} for i in range(len(targets))],
                         "categories": [{"id": c} for c in range(n_classes)],
                         "annotations": [a | {"id": k + 1} for k, a in enumerate(annotations)]}
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_classes", [1, 3, 7])
def test_coco_method_equals_pycocotools(seed, n_classes):
    detections, targets = random_data(seed, n_classes=n_classes)
    result = score(detections, targets, n_classes, options=ScoreOptions(method="coco101", max_candidates=None))
    assert (result.map50, result.map) == pytest.approx(coco_numbers(detections, targets, n_classes), abs=1e-6)


@pytest.mark.parametrize("kwargs", [
    {"max_det": 350, "n_classes": 2, "n_images": 4},  # more than 100 detections per image and class: the cap matters
    {"decimals": 1},  # nearly all scores are equal to others: the order of ties matters
    {"n_classes": 40, "n_images": 3},  # most classes have no targets
])
def test_coco_method_equals_pycocotools_where_rules_matter(kwargs):
    n_classes = kwargs.get("n_classes", 3)
    detections, targets = random_data(7, **kwargs)
    result = score(detections, targets, n_classes, options=ScoreOptions(method="coco101", max_candidates=None))
    assert (result.map50, result.map) == pytest.approx(coco_numbers(detections, targets, n_classes), abs=1e-6)
    assert score(detections, targets, n_classes).map == result.map  # `map` is COCO's whatever the method of map50


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kwargs", [{}, {"decimals": 1}, {"max_det": 350, "n_images": 4}, {"n_classes": 40}])
def test_ap_by_box_size_equals_pycocotools(seed, kwargs):
    """Targets of other sizes, and what finds them, are neither right nor wrong."""
    n_classes = kwargs.get("n_classes", 3)
    detections, targets = random_data(seed, **kwargs)
    scale = np.random.default_rng(seed).uniform(0.2, 3)  # of some seeds no box is large, or none is small
    for rows in detections:
        rows[:, :4] *= scale
    for rows in targets:
        rows[:, 1:] *= scale
    expected = dict(zip(("small", "medium", "large"), coco_stats(detections, targets, n_classes)[3:6]))
    found = {result.name: result.map for result in score(detections, targets, n_classes).by_size}
    assert found == pytest.approx({name: ap for name, ap in expected.items() if ap >= 0}, abs=1e-6)


def plain_match(detections, targets, threshold):
    """One image, one threshold, a loop over detections in descending score."""
    tp, used = np.zeros(len(detections), dtype=bool), set()
    for i in np.argsort(-detections[:, 4].numpy(), kind="stable"):
        row, best, best_iou = detections[i].tolist(), None, threshold
        for g, truth in enumerate(targets.tolist()):
            iou = plain_iou(row, truth[1:])
            if g not in used and truth[0] == row[5] and iou >= best_iou:
                best, best_iou = g, iou
        if best is not None:
            tp[i] = True
            used.add(best)
    return tp


@quick
@given(seeds)
def test_matching_equals_a_greedy_loop(seed):
    (detections,), (targets,) = random_data(seed, n_images=1, n_classes=2, decimals=1)
    detections = detections[torch.randperm(len(detections))]  # rows need not be sorted
    tp = match_detections(detections, targets, [0.3, 0.5, 0.75])
    for t, threshold in enumerate([0.3, 0.5, 0.75]):
        assert tp[:, t].tolist() == plain_match(detections, targets, threshold).tolist()


def test_matching_fixture_each_box_is_there_for_a_reason():
    targets = torch.tensor([[0.0, 0, 0, 100, 100], [0, 20, 0, 120, 100], [1, 300, 300, 400, 400]])
    rows = [(det(12, 0, 112, 100, 0.9), True),  # IoU 0.79 with the first target, 0.85 with the second: takes that
            (det(22, 0, 122, 100, 0.8), True),  # the second is taken; IoU 0.64 with the first, still free
            (det(0, 0, 100, 100, 0.7), False),  # fits the first exactly, but it is taken: a double
            (det(300, 300, 400, 400, 0.6, 0), False),  # right place, wrong class
            (det(300, 300, 400, 349, 0.5, 1), False),  # IoU 0.49
            (det(300, 300, 400, 350, 0.4, 1), True),  # IoU exactly 0.5 counts; higher scores failed, so it is free
            (det(600, 600, 700, 700, 0.3, 1), False)]  # nothing there
    tp = match_detections(torch.tensor([row for row, _ in rows]), targets, [0.5])
    assert tp[:, 0].tolist() == [hit for _, hit in rows]


@quick
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 10))
def test_all_point_ap_equals_the_integral_of_the_envelope(tp, n_missed):
    n_targets = sum(tp) + n_missed
    points = [(sum(tp[:k]) / max(n_targets, 1), sum(tp[:k]) / k) for k in range(1, len(tp) + 1)]
    steps = np.arange(n_targets)  # precision is constant on each [k / n, (k + 1) / n): sample their middles
    heights = [max((p for r, p in points if r >= (k + 0.5) / n_targets), default=0.0) for k in steps]
    expected = float(np.mean(heights)) if n_targets else 0.0
    assert average_precision(np.array(tp, dtype=bool), -np.arange(len(tp)), n_targets) == pytest.approx(expected)


def test_average_precision_of_a_curve_by_hand():
    tp, scores = np.array([True, False, True]), np.array([0.9, 0.8, 0.7])
    assert average_precision(tp, scores, 2) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(tp, scores, 2, "coco101") == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)  # 0..0.50, 0.51..1
    assert average_precision(tp[::-1], scores[::-1], 2) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # it sorts
    assert average_precision(np.stack([tp, ~tp], axis=1), scores, 2).tolist() == pytest.approx([5 / 6, 0.25])


def test_average_precision_refuses_unknown_methods():
    with pytest.raises(ValueError, match="unknown AP method 'voc07', expected one of all, coco101"):
        average_precision(np.array([True]), np.array([0.5]), 1, "voc07")


@quick
@given(seeds)
def test_f1_is_the_best_of_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.integers(0, 6, 12) / 5)
    tp, n_targets = rng.random(12) < 0.5, 14
    conf, precision, recall, f1 = best_f1(tp, scores, n_targets)
    at = {s: (tp[scores >= s].mean(), tp[scores >= s].sum() / n_targets) for s in scores}
    assert f1 == pytest.approx(max(2 * p * r / max(p + r, 1e-9) for p, r in at.values()))
    assert (precision, recall) == pytest.approx(at[conf])


def naive_compat_tp(detections, targets, threshold):
    """One image: the rule as a loop, rows in the order given."""
    tp, used, labels = [], [], [truth[0] for truth in targets.tolist()]
    for row in detections.tolist():
        tp.append(False)
        if len(used) == len(labels) or row[5] not in labels:
            continue
        ious = [plain_iou(row, truth[1:], pixel=1) for truth in targets.tolist()]
        best = ious.index(max(ious))
        if ious[best] >= threshold and best not in used:
            tp[-1] = True
            used.append(best)
    return tp


def naive_compat(detections, targets, threshold):
    """(mAP, precision, recall, F1), each a mean over the classes with targets."""
    tp = np.array([hit for d, t in zip(detections, targets) for hit in naive_compat_tp(d, t, threshold)], dtype=bool)
    rows, truth = torch.cat(detections).double().numpy(), torch.cat(targets).numpy()
    order = np.argsort(-rows[:, 6], kind="stable")
    tp, rows, numbers = tp[order], rows[order], []
    for c in np.unique(truth[:, 0]):
        hits, n_targets = tp[rows[:, 5] == c], (truth[:, 0] == c).sum()
        if len(hits) == 0:
            numbers.append((0.0, 0.0, 0.0, 0.0))
            continue
        recall = np.concatenate([[0.0], np.cumsum(hits) / n_targets, [1.0]])
        precision = np.concatenate([[0.0], np.cumsum(hits) / np.arange(1, len(hits) + 1), [0.0]])
        for k in range(len(precision) - 1, 0, -1):
            precision[k - 1] = max(precision[k - 1], precision[k])
        ap = sum((recall[k + 1] - recall[k]) * precision[k + 1] for k in range(len(recall) - 1))
        p, r = hits.mean(), hits.sum() / n_targets
        numbers.append((ap, p, r, 2 * p * r / (p + r + 1e-16)))
    return np.mean(numbers, axis=0) if numbers else np.zeros(4)


@quick
@given(seeds, st.integers(1, 3))
def test_compat_equals_its_rules_done_naively(seed, n_classes):
    detections, targets = random_data(seed, n_images=5, n_classes=n_classes)
    result = score_compat(detections, targets, n_classes)
    assert [result.map50, result.precision, result.recall, result.f1] == pytest.approx(
        naive_compat(detections, targets, 0.5))
    assert result.map == pytest.approx(np.mean([naive_compat(detections, targets, t)[0] for t in IOU_THRESHOLDS]))


def test_compat_fixture_each_box_is_there_for_a_reason():
    targets = torch.tensor([[0.0, 0, 0, 9, 9], [1, 100, 100, 109, 109], [0, 200, 200, 209, 209]])
    rows = [(det(0, 0, 9, 4, 0.9, 0), True),  # 50 of 100 pixels: 0.5 with the +1; standard IoU is 0.44
            (det(0, 0, 9, 9, 0.8, 0), False),  # fits, but the target is used
            (det(200, 200, 209, 209, 0.7, 2), False),  # fits, but no target of the image has class 2
            (det(100, 100, 109, 109, 0.6, 0), True),  # class 0 on a target of class 1: class 0 occurs, so it counts
            (det(100, 100, 109, 109, 0.5, 1), False),  # the right class comes too late
            (det(203, 200, 212, 209, 0.4, 0), True),  # IoU 0.54
            (det(0, 0, 9, 9, 0.3, 0), False)]  # every target is matched: nothing can count any more
    tp = match_compat(torch.tensor([row for row, _ in rows]), targets, [0.5])
    assert tp[:, 0].tolist() == [hit for _, hit in rows]


def test_compat_ranks_by_objectness_and_the_standard_by_score():
    targets = [torch.tensor([[0.0, 0, 0, 50, 50]])]
    detections = [torch.tensor([det(0, 0, 50, 50, 0.8, objectness=0.8), det(200, 0, 250, 50, 0.7, objectness=0.9)])]
    standard, compat = score(detections, targets, 1), score_compat(detections, targets, 1)
    assert standard.map50 == standard.curve[1][0] == 1.0
    assert compat.map50 == compat.curve[1][0] == 0.5


@pytest.mark.parametrize("scorer", [score, score_compat])
def test_perfect_detections_score_one(scorer):
    _, targets = random_data(3)
    targets = [t[:1] for t in targets]
    detections = [torch.cat([t[:, 1:], torch.ones(len(t), 1), t[:, :1], torch.ones(len(t), 1)], dim=1) for t in targets]
    result = scorer(detections, targets, 3)
    assert [result.map50, result.map, result.precision, result.recall, result.f1] == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("scorer", [score, score_compat])
@pytest.mark.parametrize("n_detections, n_targets", [(0, 3), (3, 0), (0, 0)])
def test_nothing_found_or_nothing_to_find_is_zero(scorer, n_detections, n_targets):
    detections = [torch.rand(n_detections, 7).index_fill(1, torch.tensor(5), 0)] * 2
    targets = [torch.rand(n_targets, 5).index_fill(1, torch.tensor(0), 0)] * 2
    result = scorer(detections, targets, 1)
    assert [result.map50, result.map, result.precision, result.recall, result.f1, result.conf] == [0.0] * 6
    assert (result.n_images, result.n_targets) == (2, 2 * n_targets)
    assert scorer([], [], 1).n_images == 0


def test_classes_without_targets_do_not_count_in_the_mean():
    targets = [torch.tensor([[0.0, 0, 0, 10, 10]])]
    detections = [torch.tensor([det(0, 0, 10, 10, 0.9, 0), det(50, 50, 60, 60, 0.8, 2)])]
    result = score(detections, targets, 3, names=["hand", "foot", "face"])
    assert result.map50 == 1.0 and [c.name for c in result.per_class] == ["hand"]


def test_only_the_best_detections_of_an_image_count():
    false_alarms = [det(500, 500, 600, 600, 0.9)] * 3
    detections, targets = [torch.tensor([*false_alarms, det(0, 0, 10, 10, 0.1)])], [torch.tensor([[0.0, 0, 0, 10, 10]])]
    assert score(detections, targets, 1, options=ScoreOptions(max_det=4)).map50 == pytest.approx(0.25)
    result = score(detections, targets, 1, options=ScoreOptions(max_det=3, max_candidates=1000))
    assert result.map50 == 0.0 and cap_words(result.options).startswith("at most 3 detections per image")
    assert "1000 candidates per image before NMS" in cap_words(result.options)


@pytest.mark.parametrize("scorer", [score, score_compat])
def test_result_is_json_and_its_arguments_are_untouched(scorer):
    detections, targets = random_data(5)
    before = [d.clone() for d in detections], [t.clone() for t in targets]
    result = scorer(detections, targets, 3)
    assert all(torch.equal(a, b) for a, b in zip(before[0] + before[1], detections + targets))
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert "curve" not in result.to_dict() and [len(axis) for axis in result.curve] == [101, 101]


@pytest.mark.parametrize("detections, targets, message", [
    ([torch.zeros(0, 7)], [], "1 images with detections but 0 with targets"),
    ([torch.tensor([det(0, 0, 1, 1, 0.5, 2)])], [torch.zeros(0, 5)], "detections have class 2, expected 0..1"),
    ([torch.zeros(0, 7)], [torch.full((1, 5), -1.0)], "targets have class -1"),
    ([torch.tensor([det(0, 0, 1, 1, float("nan"))])], [torch.zeros(0, 5)], "2 values of the detections are not finite"),
])
def test_inputs_that_do_not_fit_raise(detections, targets, message):
    with pytest.raises(ValueError, match=message):
        score(detections, targets, 2)


@given(seed=st.integers(0, 10_000), images=st.integers(1, 6), least=st.sampled_from([0.3, 0.5, 0.9]))
@settings(deadline=None, max_examples=60)
def test_the_sure_score_is_the_lowest_that_has_the_precision(seed, images, least):
    """Brute force: every score as a threshold, hits counted anew."""
    generator = np.random.default_rng(seed)
    detections, targets = [], []
    for _ in range(images):
        truth = generator.integers(0, 3) * [[0.0, 10.0, 10.0, 30.0, 30.0]]
        found = [[10.0, 10.0, 30.0 + 30 * generator.integers(0, 2), 30.0, generator.integers(1, 6) / 6, 0.0, 1.0]
                 for _ in range(generator.integers(0, 4))]
        detections.append(torch.tensor(found).reshape(-1, 7))
        targets.append(torch.tensor(truth).reshape(-1, 5)[:1])
    hits = [match_detections(rows, truth, [0.5]) for rows, truth in zip(detections, targets)]
    ranked = rank(detections, np.concatenate(hits))
    counts = np.array([len(rows) for rows in targets])
    point = metrics.at_precision(ranked, counts, least)
    good = []
    for threshold in sorted({float(value) for value in ranked.score}):
        kept = [int(i) for i in np.flatnonzero(ranked.score >= threshold)]
        hits = sum(bool(ranked.tp[i, 0]) for i in kept)
        if counts.sum() and hits >= least * len(kept):
            alarms = [sum(ranked.image[i] == n and not ranked.tp[i, 0] for i in kept) for n in range(images)]
            good.append((threshold, hits / len(kept), hits / counts.sum(), sum(alarms) / images,
                         sum(a for a, n in zip(alarms, counts) if n == 0) / max((counts == 0).sum(), 1)))
    if not good:
        assert point is None
    else:
        found = point.score, point.precision, point.recall, point.false_alarms, point.false_alarms_empty
        assert found == pytest.approx(good[0])
