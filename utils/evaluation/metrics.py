"""Average precision of detections, from matching to the reported numbers.

Detections are (n, 7) rows: x1, y1, x2, y2, score, class, objectness; targets are (m, 5) rows: class, x1, y1, x2, y2;
both in pixels of one frame, one tensor an image. The reported number is mAP at IoU 0.5 with the area under the whole
precision envelope (PASCAL VOC 2010 and later); AP@[.5:.95] beside it is COCO's, rule for rule.
"""

from dataclasses import asdict, dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from utils.boxes import box_iou
from utils.evaluation.args import ScoreOptions

# n detections, m targets, T IoU thresholds, P recall points
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # (T,) COCO's
RECALL_POINTS = np.linspace(0.0, 1.0, 101)  # (P,) COCO's
COCO_MAX_DET = 100  # per image and class: how pycocotools applies maxDets
METHODS = ("all", "coco101")
SURE = 0.9  # the precision of EvalResult.sure


@dataclass(frozen=True)
class OperatingPoint:
    """What a detector does when detections under a score are dropped."""

    score: float  # objectness x class probability, what detect.py calls --conf_thres
    precision: float
    recall: float
    false_alarms: float  # per image: detections that are no true positives
    n_empty: int  # images without targets
    false_alarms_empty: float  # per image without targets; 0 where there is none


@dataclass(frozen=True)
class EvalResult:
    """What one evaluation says. All values are ratios, never NaN."""

    map50: float  # AP at IoU 0.5, mean over the classes that have targets
    map: float  # AP@[.5:.95], mean over the same classes
    precision: float  # of all classes' detections together, with score >= conf
    recall: float
    f1: float
    conf: float  # the score (objectness x class probability) that maximises F1
    per_class: list["ClassResult"]  # of classes that have targets
    n_images: int
    n_targets: int
    scorer: str  # the rules, in words
    cap: str  # the limits on the number of detections, in words
    curve: tuple[np.ndarray, np.ndarray] = field(repr=False, compare=False)  # recall, precision at IoU 0.5, (P,) each
    sure: OperatingPoint | None = None  # the lowest score of SURE precision; None where no score has it
    confusion: np.ndarray | None = field(default=None, repr=False, compare=False)  # utils.evaluation.confusion

    def to_dict(self) -> dict:
        """Everything but the curve and the matrix, ready for json.dump."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("curve", "confusion")}
        per_class = [result.to_dict() for result in self.per_class]
        return plain | {"per_class": per_class, "sure": asdict(self.sure) if self.sure else None}


@dataclass(frozen=True)
class ClassResult:
    """The same of one class; precision, recall and F1 at the conf of the whole."""

    class_i: int
    name: str
    n_targets: int
    ap50: float
    ap: float
    precision: float
    recall: float
    f1: float | None = None  # of the reference's rules alone

    def to_dict(self) -> dict:
        """Ready for json.dump, without an F1 that is not there."""
        plain = {"class": self.class_i, **{f.name: getattr(self, f.name) for f in fields(self)[1:]}}
        return {key: value for key, value in plain.items() if value is not None}


@dataclass(frozen=True)
class Ranked:
    """All detections of a data set in descending score; of equal scores the earlier image, then the earlier row."""

    image: np.ndarray  # (n,) index of the image
    label: np.ndarray  # (n,) class
    score: np.ndarray  # (n,)
    tp: np.ndarray  # (n, T) bool: a true positive at this IoU threshold

    def where(self, chosen: np.ndarray) -> "Ranked":
        """The rows of a mask or of indices. Being a hit never depends on detections of lower score, so caps may cut."""
        return Ranked(self.image[chosen], self.label[chosen], self.score[chosen], self.tp[chosen])

    def by_class(self, n_classes: int) -> list["Ranked"]:
        """The rows of each class 0..n_classes-1, order kept."""
        order = np.argsort(self.label, kind="stable")
        ends = np.searchsorted(self.label[order], np.arange(n_classes + 1))
        return [self.where(order[start:end]) for start, end in zip(ends, ends[1:])]


def match_detections(detections: Tensor, targets: Tensor, iou_thresholds=IOU_THRESHOLDS) -> np.ndarray:
    """(n, 7) detections, (m, 5) targets of one image, (T,) thresholds -> (n, T) bool: is it a true positive?

    As pycocotools does it: in descending score, each detection takes the target of its class with the highest IoU
    among those that are still free and reach the threshold; of equal IoU the later target.
    """
    return _match([detections], [targets], np.asarray(iou_thresholds, dtype=float))


def average_precision(tp: np.ndarray, scores: np.ndarray, n_targets: int, method: str = "all") -> np.ndarray:
    """Area under the precision envelope of one class. tp: (n,) or (n, T) bool, scores: (n,) -> () or (T,) float.

    method "all": the exact area, every recall step counts; "coco101": mean precision at 101 recall points. Detections
    of equal score are ranked in the order given. Without targets or detections: 0.
    """
    if method not in METHODS:
        raise ValueError(f"unknown AP method {method!r}, expected one of {', '.join(METHODS)}")
    tp = np.asarray(tp, dtype=bool)[np.argsort(-np.asarray(scores), kind="stable")]
    if n_targets == 0:
        return np.zeros(tp.shape[1:])
    if method == "coco101":
        return precision_at_recall_points(tp, n_targets).mean(axis=0)
    return (_precision_envelope(tp) * tp).sum(axis=0) / n_targets  # recall rises by 1 / n_targets at each hit


def score(detections: list[Tensor], targets: list[Tensor], n_classes: int, names: list[str] | None = None,
          options: ScoreOptions = ScoreOptions(max_candidates=None)) -> EvalResult:
    """Evaluate one (n, 7) and one (m, 5) tensor per image. Classes without targets do not count in the means.

    map50, precision, recall and F1 are at IoU options.iou_thres. options.method is that of map50; `map` is always
    COCO's (101 points, 100 detections per image and class), so that it can be compared with pycocotools. With method
    "all" at most options.max_det detections of an image count, the best first. Precision, recall and F1 are of all
    classes together. options.max_candidates: the bound that was given to NMS, if any; it is only stated in the result.
    """
    check_inputs(detections, targets, n_classes, names)
    n_targets = count_targets(targets, n_classes)  # (C,)
    ranked = _rank(detections, targets, np.concatenate([[options.iou_thres], IOU_THRESHOLDS]))
    coco = ranked.where(_place_in_group(ranked.image * n_classes + ranked.label) < COCO_MAX_DET)
    ours = coco if options.method == "coco101" else ranked.where(_place_in_group(ranked.image) < options.max_det)
    conf, precision, recall, f1 = best_f1(ours.tp[:, 0], ours.score, int(n_targets.sum()))
    ours_of, coco_of = ours.by_class(n_classes), coco.by_class(n_classes)
    per_class, curves = [], []
    for c in np.flatnonzero(n_targets):
        measures = _measures(ours_of[c], coco_of[c], int(n_targets[c]), conf, options.method)
        per_class.append(ClassResult(int(c), names[c] if names else str(c), int(n_targets[c]), **measures))
        curves.append(precision_at_recall_points(ours_of[c].tp[:, 0], n_targets[c]))
    return EvalResult(
        map50=mean_over(per_class, "ap50"), map=mean_over(per_class, "ap"), precision=precision, recall=recall, f1=f1,
        conf=conf, per_class=per_class, n_images=len(targets), n_targets=int(n_targets.sum()),
        scorer=_scorer_words(options), cap=_cap_words(options), curve=mean_curve(curves),
        sure=at_precision(ours, np.array([len(rows) for rows in targets])))


def _measures(ours: Ranked, coco: Ranked, n_targets: int, conf: float, method: str) -> dict:
    """AP of one class, and its precision and recall over the detections with score >= conf."""
    hits = ours.tp[ours.score >= conf, 0]
    return {"ap50": float(average_precision(ours.tp[:, 0], ours.score, n_targets, method)),
            "ap": float(average_precision(coco.tp[:, 1:], coco.score, n_targets, "coco101").mean()),
            "precision": float(hits.sum() / max(len(hits), 1)), "recall": float(hits.sum() / n_targets)}


def precision_at_recall_points(tp: np.ndarray, n_targets: int) -> np.ndarray:
    """(n,) or (n, T) bool, best first -> (P,) or (P, T) precision envelope at COCO's recall points, else 0."""
    recall = np.cumsum(tp, axis=0) / n_targets
    envelope = np.concatenate([_precision_envelope(tp), np.zeros((1, *tp.shape[1:]))])
    if tp.ndim == 1:
        return envelope[np.searchsorted(recall, RECALL_POINTS)]
    columns = [envelope[np.searchsorted(recall[:, t], RECALL_POINTS), t] for t in range(tp.shape[1])]
    return np.stack(columns, axis=1)


def best_f1(tp: np.ndarray, scores: np.ndarray, n_targets: int) -> tuple[float, float, float, float]:
    """(n,) bool and (n,) descending scores -> (conf, precision, recall, f1) at the score that maximises F1.

    A threshold takes all detections of one score or none of them, so only the last of equal scores is a candidate.
    """
    if n_targets == 0 or len(tp) == 0:
        return 0.0, 0.0, 0.0, 0.0
    hits, found = np.cumsum(tp), np.arange(1, len(tp) + 1)
    f1 = 2 * hits / (found + n_targets)  # = 2 P R / (P + R)
    best = int(np.argmax(np.where(np.append(scores[1:] != scores[:-1], True), f1, -1.0)))
    return float(scores[best]), float(hits[best] / found[best]), float(hits[best] / n_targets), float(f1[best])


def at_precision(ranked: Ranked, targets_each: np.ndarray, least: float = SURE) -> OperatingPoint | None:
    """The lowest score at which all detections together have this precision at the first IoU threshold, that is the
    highest recall at that precision; None where no score has it. targets_each: (images,) numbers of targets."""
    if not len(ranked.score) or not targets_each.sum():
        return None
    hits, found = np.cumsum(ranked.tp[:, 0]), np.arange(1, len(ranked.score) + 1)
    last_of_score = np.append(ranked.score[1:] != ranked.score[:-1], True)
    reached = np.flatnonzero(last_of_score & (hits >= least * found))
    if not len(reached):
        return None
    end = reached[-1] + 1
    empty = targets_each == 0
    alarms = np.bincount(ranked.image[:end][~ranked.tp[:end, 0]], minlength=len(targets_each))
    return OperatingPoint(
        score=float(ranked.score[end - 1]), precision=float(hits[end - 1] / end),
        recall=float(hits[end - 1] / targets_each.sum()), false_alarms=float(alarms.mean()), n_empty=int(empty.sum()),
        false_alarms_empty=float(alarms[empty].mean()) if empty.any() else 0.0)


def check_inputs(detections: list[Tensor], targets: list[Tensor], n_classes: int, names: list[str] | None) -> None:
    """Raise ValueError if lists, shapes, classes or values do not fit together."""
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} images with detections but {len(targets)} with targets")
    if names is not None and len(names) != n_classes:
        raise ValueError(f"{len(names)} class names for {n_classes} classes")
    for kind, rows, column in (("detections", stack_rows(detections, 7), 5), ("targets", stack_rows(targets, 5), 0)):
        if not torch.isfinite(rows).all():
            raise ValueError(f"{int((~torch.isfinite(rows)).sum()):,} values of the {kind} are not finite")
        wrong = (rows[:, column] < 0) | (rows[:, column] >= n_classes)
        if wrong.any():
            raise ValueError(f"{kind} have class {int(rows[wrong][0, column])}, expected 0..{n_classes - 1}")


def stack_rows(per_image: list[Tensor], width: int) -> Tensor:
    """List of (n_i, width) -> (sum n_i, width) float64 on the CPU."""
    rows = [image_rows.reshape(-1, width) for image_rows in per_image]
    return torch.cat(rows).double().cpu() if rows else torch.zeros(0, width, dtype=torch.float64)


def count_targets(targets: list[Tensor], n_classes: int) -> np.ndarray:
    """(m, 5) targets an image -> (C,) number of targets of each class."""
    return np.bincount(stack_rows(targets, 5)[:, 0].long().numpy(), minlength=n_classes)


def _image_index(per_image: list[Tensor]) -> np.ndarray:
    """List of (n_i, ...) -> (sum n_i,) the image that each row of the stacked tensor belongs to."""
    return np.repeat(np.arange(len(per_image)), np.array([len(rows) for rows in per_image], dtype=int))


def mean_over(per_class: list[ClassResult], key: str) -> float:
    """Mean of one measure over the classes; 0 without any."""
    return float(np.mean([getattr(result, key) for result in per_class])) if per_class else 0.0


def mean_curve(precisions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Precision (P,) of each class -> (recall, mean precision), (P,) each."""
    return RECALL_POINTS.copy(), np.mean(precisions, axis=0) if precisions else np.zeros(len(RECALL_POINTS))


def _rank(detections: list[Tensor], targets: list[Tensor], iou_thresholds: np.ndarray) -> Ranked:
    rows = stack_rows(detections, 7).numpy()
    order = np.argsort(-rows[:, 4], kind="stable")
    return Ranked(image=_image_index(detections)[order], label=rows[order, 5].astype(int), score=rows[order, 4],
                  tp=_match(detections, targets, iou_thresholds)[order])


def _match(detections: list[Tensor], targets: list[Tensor], iou_thresholds: np.ndarray) -> np.ndarray:
    """Many images at once -> (n, T) bool for the stacked detections (see `match_detections`)."""
    scores = stack_rows(detections, 7)[:, 4].numpy()
    rank = np.empty(len(scores), dtype=int)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    det, gt, iou = _overlapping_pairs(detections, targets, iou_thresholds.min())
    order = np.lexsort((-gt, -iou, rank[det]))  # by rank, then by IoU, then the later target
    det, gt, iou = det[order], gt[order], iou[order]
    tp = np.zeros((len(scores), len(iou_thresholds)), dtype=bool)
    n_targets = sum(len(t) for t in targets)
    for t, threshold in enumerate(iou_thresholds):
        reached = iou >= threshold
        tp[:, t] = _assign(det[reached], gt[reached], len(scores), n_targets)
    return tp


def _overlapping_pairs(detections: list[Tensor], targets: list[Tensor], min_iou: float) -> tuple[np.ndarray, ...]:
    """All (detection, target, IoU) of one image and class with IoU >= min_iou; indices into the stacked rows."""
    det, gt, iou, n_before, m_before = [], [], [], 0, 0
    for found, truth in zip(detections, targets):
        if len(found) and len(truth):
            found, truth = found.cpu().double(), truth.cpu().double()  # small: faster there than on an accelerator
            overlap = box_iou(found[:, :4], truth[:, 1:5])  # (n, m)
            pairs = ((overlap >= min_iou) & (found[:, 5:6] == truth[:, 0])).nonzero(as_tuple=True)
            det.append(pairs[0] + n_before)
            gt.append(pairs[1] + m_before)
            iou.append(overlap[pairs])
        n_before, m_before = n_before + len(found), m_before + len(truth)
    if not det:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0)
    return tuple(torch.cat(part).numpy() for part in (det, gt, iou))


def _assign(det: np.ndarray, gt: np.ndarray, n_det: int, n_gt: int) -> np.ndarray:
    """Greedy matching of pairs in order of priority -> (n_det,) bool: which detections get a target.

    Going through the pairs one by one and taking each whose two ends are free gives the same as taking, in rounds, all
    pairs that come first for both of their ends: nothing of higher priority can claim these. A few rounds do.
    """
    matched, taken = np.zeros(n_det, dtype=bool), np.zeros(n_gt, dtype=bool)
    first_of_det, first_of_gt = np.zeros(n_det, dtype=int), np.zeros(n_gt, dtype=int)
    while len(det):
        place = np.arange(len(det))
        first_of_det[det[::-1]] = place[::-1]  # the last write stays: the first place
        first_of_gt[gt[::-1]] = place[::-1]
        take = (first_of_det[det] == place) & (first_of_gt[gt] == place)
        matched[det[take]], taken[gt[take]] = True, True
        left = ~(matched[det] | taken[gt])
        det, gt = det[left], gt[left]
    return matched


def _place_in_group(group: np.ndarray) -> np.ndarray:
    """(n,) group of each row -> (n,) how many rows of the same group come before it."""
    order = np.argsort(group, kind="stable")
    ordered, place = group[order], np.empty(len(group), dtype=int)
    place[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return place


def _precision_envelope(tp: np.ndarray) -> np.ndarray:
    """(n, ...) bool, best first -> (n, ...) the highest precision at this rank or any later one."""
    found = np.arange(1, len(tp) + 1).reshape(-1, *[1] * (tp.ndim - 1))
    return np.maximum.accumulate((np.cumsum(tp, axis=0) / found)[::-1], axis=0)[::-1]


def _scorer_words(options: ScoreOptions) -> str:
    area = "area under all recall steps" if options.method == "all" else "mean of 101 recall points"
    return f"map50: {area}, standard IoU, ranked by objectness x class; map: COCO's AP@[.5:.95], 101 points"


def _cap_words(options: ScoreOptions) -> str:
    coco = f"{COCO_MAX_DET} detections per image and class"
    ours = f"{options.max_det} detections an image"
    caps = f"{coco} (map50, map)" if options.method == "coco101" else f"{ours} (map50), {coco} (map)"
    return f"at most {caps}; {candidate_words(options)}"


def candidate_words(options: ScoreOptions) -> str:
    """The bound on candidates before NMS, in words."""
    if options.max_candidates is None:
        return "no candidate cap before NMS"
    return f"{options.max_candidates} candidates an image before NMS"
