"""The pictures of a run, and the confusion matrix behind one of them."""

import cv2
import numpy as np
import pytest
import torch

import train
from utils.evaluation.confusion import confusion_matrix

PICTURES = {"labels.jpg", "train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "confusion_matrix.png"}


def detection(x, label, score=0.9):
    return [x, 0, x + 10, 10, score, label, score]


def target(x, label):
    return [label, x, 0, x + 10, 10]


def test_confusion_counts_hits_confusions_misses_and_false_alarms():
    found = torch.tensor([detection(0, 0), detection(21, 1), detection(60, 1), detection(80, 0, 0.2)])
    truth = torch.tensor([target(0, 0), target(20, 0), target(40, 1), target(80, 1)]).float()
    counts = confusion_matrix([found, torch.zeros(0, 7)], [truth, torch.zeros(0, 5)], 2)
    # rows: detected as; columns: labelled as. The detection at 80 is too unsure
    assert counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0]]


def test_confusion_matches_the_closest_pair_first_and_every_box_once():
    found = torch.tensor([detection(2, 1, 0.99), detection(0, 0, 0.5)])
    counts = confusion_matrix([found], [torch.tensor([target(0, 0)]).float()], 2)
    assert counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_confusion_holds_every_label_and_every_sure_detection_once(seed):
    rng = np.random.default_rng(seed)
    found = [torch.tensor([detection(*rng.integers(0, (100, 3)), rng.uniform()) for _ in range(20)]) for _ in range(4)]
    truth = [torch.tensor([target(*rng.integers(0, (100, 3))) for _ in range(9)]).float() for _ in range(4)]
    counts = confusion_matrix(found, truth, 3)
    labels = np.bincount(torch.cat(truth)[:, 0].long(), minlength=3)
    sure = torch.cat(found)[torch.cat(found)[:, 4] >= 0.25]
    assert (counts.sum(0)[:3] == labels).all()
    assert (counts.sum(1)[:3] == np.bincount(sure[:, 5].long(), minlength=3)).all() and counts[3, 3] == 0


@pytest.fixture
def run(tiny_cfg, tiny_data, tmp_path, monkeypatch):
    """Train one epoch in a folder of its own; returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def train_with(*flags):
        monkeypatch.setattr("sys.argv", ["train.py", "--cfg", str(tiny_cfg), "--data", str(tiny_data), "--n_cpu", "0",
                                         *"--batch_size 4 --epochs 1 --name run --no-publish".split(), *flags])
        train.main()
        return tmp_path / "logs/run"
    return train_with


def test_a_run_leaves_pictures_of_its_labels_batches_and_detections(run):
    folder = run()
    assert PICTURES <= {path.name for path in folder.iterdir()}
    assert cv2.imread(str(folder / "train_batch0.jpg")).shape == (128, 128, 3)  # four images of 64 px
    labelled = cv2.imread(str(folder / "val_batch0_labels.jpg"))
    assert labelled.shape == (192, 192, 3)  # eight images and a grey one
    assert np.abs(labelled[130:, 130:].astype(int) - 114).max() <= 12


def test_no_pictures_leaves_numbers_alone(run):
    assert not PICTURES & {path.name for path in run("--no-pictures").iterdir()}
