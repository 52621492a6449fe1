"""Average precision of detections, from matching to the reported numbers.

Detections are (n, 7) rows: x1, y1, x2, y2, score, class, objectness; targets are (m, 5) rows: class, x1, y1, x2, y2;
both in pixels of one frame, one tensor an image. The reported number is mAP at IoU 0.5 with the area under the whole
precision envelope (PASCAL VOC 2010 and later); AP@[.5:.95] beside it is COCO's, rule for rule.
"""

from dataclasses import asdict, dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from utils.evaluation.args import ScoreOptions
from utils.evaluation.average_precision import (
    COCO_MAX_DET,
    RECALL_POINTS,
    average_precision,
    best_f1,
    precision_at_recall_points,
)
from utils.evaluation.by_size import SizeResult, scores_by_size
from utils.evaluation.matching import (
    IOU_THRESHOLDS,
    Ranked,
    match,
    overlapping_pairs,
    place_in_group,
    rank,
    stack_rows,
)
from utils.evaluation.words import cap_words, scorer_words

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

    map50: float  # AP at IoU 0.5, or another options.iou_thres, mean over the classes that have targets
    map: float  # AP@[.5:.95], mean over the same classes
    precision: float  # of all classes' detections together, with score >= conf
    recall: float
    f1: float
    conf: float  # the score (objectness x class probability) that maximises F1
    per_class: list["ClassResult"]  # of classes that have targets
    n_images: int
    n_targets: int
    options: ScoreOptions  # the rules; in words: utils.evaluation.words
    curve: tuple[np.ndarray, np.ndarray] = field(repr=False, compare=False)  # recall, precision at IoU 0.5, (P,) each
    by_size: list[SizeResult] = field(default_factory=list)  # of the sizes that targets have
    sure: OperatingPoint | None = None  # the lowest score of SURE precision; None where no score has it
    confusion: np.ndarray | None = field(default=None, repr=False, compare=False)  # utils.evaluation.confusion

    def to_dict(self) -> dict:
        """Everything but the curve and the matrix, ready for json.dump."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("curve", "confusion", "options")}
        options = self.options
        plain |= {"iou_thres": options.iou_thres, "scorer": scorer_words(options), "cap": cap_words(options)}
        per_class = [result.to_dict() for result in self.per_class]
        by_size = [asdict(result) for result in self.by_size]
        return plain | {"per_class": per_class, "by_size": by_size, "sure": asdict(self.sure) if self.sure else None}


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
    thresholds = np.concatenate([[options.iou_thres], IOU_THRESHOLDS])
    pairs = overlapping_pairs(detections, targets, thresholds.min())
    scores = stack_rows(detections, 7)[:, 4].numpy()
    ranked = rank(detections, match(pairs, scores, int(n_targets.sum()), thresholds) >= 0)
    coco = ranked.where(place_in_group(ranked.image * n_classes + ranked.label) < COCO_MAX_DET)
    ours = coco if options.method == "coco101" else ranked.where(place_in_group(ranked.image) < options.max_det)
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
        options=options, curve=mean_curve(curves),
        by_size=scores_by_size(detections, targets, pairs, n_classes),
        sure=at_precision(ours, np.array([len(rows) for rows in targets])))


def _measures(ours: Ranked, coco: Ranked, n_targets: int, conf: float, method: str) -> dict:
    """AP of one class, and its precision and recall over the detections with score >= conf."""
    hits = ours.tp[ours.score >= conf, 0]
    return {"ap50": float(average_precision(ours.tp[:, 0], ours.score, n_targets, method)),
            "ap": float(average_precision(coco.tp[:, 1:], coco.score, n_targets, "coco101").mean()),
            "precision": float(hits.sum() / max(len(hits), 1)), "recall": float(hits.sum() / n_targets)}


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


def count_targets(targets: list[Tensor], n_classes: int) -> np.ndarray:
    """(m, 5) targets an image -> (C,) number of targets of each class."""
    return np.bincount(stack_rows(targets, 5)[:, 0].long().numpy(), minlength=n_classes)


def mean_over(per_class: list[ClassResult], key: str) -> float:
    """Mean of one measure over the classes; 0 without any."""
    return float(np.mean([getattr(result, key) for result in per_class])) if per_class else 0.0


def mean_curve(precisions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Precision (P,) of each class -> (recall, mean precision), (P,) each."""
    return RECALL_POINTS.copy(), np.mean(precisions, axis=0) if precisions else np.zeros(len(RECALL_POINTS))
