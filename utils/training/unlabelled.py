"""Training on pictures that nobody labelled: the teacher's maps are all that is learnt."""

from torch import nn

from utils.data.datasets import ListDataset
from utils.evaluation.own_labels import SCORE, label_by


def settle_labels(asked: bool, teacher: nn.Module | None, train_set: ListDataset, valid_set: ListDataset,
                  quiet: bool = False) -> bool:
    """Give validation images the teacher's boxes where none has any, or where --unlabelled asks for it. Returns whether
    the run learns from its teacher alone: when it was asked for, or no training image has a box.

    Without a teacher, raises DataError where training or validation images have no box.
    """
    if teacher is None:
        train_set.require_boxes()
        valid_set.require_boxes()
        return False
    alone, labels = asked or not any(map(len, train_set.labels)), asked or not any(map(len, valid_set.labels))
    if labels:
        label_by(teacher, valid_set)
    if alone and not quiet:
        print("no labels: training learns from the teacher's maps alone")
    if labels and not quiet:
        print(f"no labels: the score is agreement with the teacher's boxes of score {SCORE} or more")
    return alone
