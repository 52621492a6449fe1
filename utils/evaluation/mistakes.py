"""What a detector got wrong, image by image, at the score from which detect.py shows boxes."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from utils.evaluation.matching import match, overlapping_pairs


@dataclass(frozen=True)
class Mistakes:
    """Of one image: rows (n, 6) x1, y1, x2, y2 in input pixels, score (of a target: 1), class."""

    image: int  # its number among those scored
    found: np.ndarray  # detections that are right
    missed: np.ndarray  # targets that no detection found
    false_alarms: np.ndarray  # detections that found no target: of another class, elsewhere, or a second one of it

    def __len__(self) -> int:
        return len(self.missed) + len(self.false_alarms)


def find_mistakes(detections: list[Tensor], targets: list[Tensor], score: float, iou: float) -> list[Mistakes]:
    """Mistakes of every image, those with most of them first, of as many the earlier image. Detections (n, 7) and
    targets (m, 5) as in utils.evaluation.matching; detections under `score` do not count, and one is right from `iou`
    with a target of its class."""
    all_of_them = [_of_image(i, found[found[:, 4] >= score], truth, iou)
                   for i, (found, truth) in enumerate(zip(detections, targets))]
    return sorted(all_of_them, key=lambda mistakes: -len(mistakes))


def _of_image(image: int, detections: Tensor, targets: Tensor, iou: float) -> Mistakes:
    pairs = overlapping_pairs([detections], [targets], iou)
    target_of = match(pairs, detections[:, 4].numpy(), len(targets), np.array([iou]))[:, 0]
    rows, truth = detections[:, :6].numpy(), targets.numpy()
    as_rows = np.concatenate([truth[:, 1:5], np.ones((len(truth), 1)), truth[:, :1]], axis=1)
    missed = np.setdiff1d(np.arange(len(truth)), target_of)
    return Mistakes(image, rows[target_of >= 0], as_rows[missed], rows[target_of < 0])
