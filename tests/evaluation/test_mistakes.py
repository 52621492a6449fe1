"""The images with the most mistakes: what is counted, and what test.py --mistakes draws."""

import json

import cv2
import pytest
import torch

import test
from models import Darknet
from utils import cli
from utils.evaluation.matching import match_detections
from utils.evaluation.mistakes import find_mistakes


def boxes(generator, count):
    """(count, 4) that often overlap."""
    corners = torch.randint(0, 4, (count, 2), generator=generator) * 10.0
    return torch.cat([corners, corners + torch.randint(2, 4, (count, 2), generator=generator) * 10.0], dim=1)


@pytest.mark.parametrize("seed", range(20))
def test_mistakes_are_what_matching_leaves_over(seed):
    generator = torch.Generator().manual_seed(seed)
    detections = [torch.cat([boxes(generator, n), torch.rand(n, 1, generator=generator),
                             torch.randint(0, 2, (n, 1), generator=generator), torch.ones(n, 1)], dim=1)
                  for n in (0, 3, 7, 9, 12)]
    targets = [torch.cat([torch.randint(0, 2, (n, 1), generator=generator), boxes(generator, n)], dim=1)
               for n in (2, 0, 3, 5, 6)]
    by_image = find_mistakes(detections, targets, 0.4, 0.5)
    assert sorted(one.image for one in by_image) == list(range(5))
    assert [len(one) for one in by_image] == sorted((len(one) for one in by_image), reverse=True)
    for one in by_image:
        counted = detections[one.image][detections[one.image][:, 4] >= 0.4]
        right = match_detections(counted, targets[one.image], [0.5])[:, 0]
        assert one.found.tolist() == counted[right, :6].tolist()
        assert one.false_alarms.tolist() == counted[~right, :6].tolist()
        assert len(one.found) + len(one.missed) == len(targets[one.image])


def test_the_missed_target_is_the_one_that_no_detection_took():
    targets = torch.tensor([[0.0, 0, 0, 10, 10], [1, 0, 0, 10, 10], [0, 50, 50, 60, 60]])
    detections = torch.tensor([[0.0, 0, 10, 10, 0.9, 0, 1], [50, 50, 60, 60, 0.3, 0, 1]])
    (one,) = find_mistakes([detections], [targets], 0.5, 0.5)
    assert one.missed.tolist() == [[0, 0, 10, 10, 1, 1], [50, 50, 60, 60, 1, 0]] and not len(one.false_alarms)


@pytest.fixture
def scored(tmp_path, monkeypatch, capsys, tiny_cfg, tiny_data):
    """A function that runs test.py with more flags, and returns what it printed and its --json."""
    monkeypatch.chdir(tmp_path)
    Darknet(tiny_cfg).save_darknet_weights(tmp_path / "w.weights")

    def run(*flags):
        monkeypatch.setattr("sys.argv", ["test.py", "--cfg", str(tiny_cfg), "--weights", "w.weights", "--data",
                                         str(tiny_data), "--device", "cpu", "--backend", "torch", "--n_cpu", "0",
                                         "--json", "a.json", *flags])
        cli.run(test.main, several_processes=True)
        return capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    return run


def test_the_sheet_shows_the_mistakes_and_leaves_the_scores_as_they_are(scored, tmp_path):
    _, plain = scored()
    out, drawn = scored("--mistakes", "wrong.jpg")
    assert drawn == plain
    assert "of 8 objects missed" in out and "wrong.jpg" in out
    picture = cv2.imread(str(tmp_path / "wrong.jpg"))
    red = (picture[:, :, 2] > 180) & (picture[:, :, :2].max(axis=2) < 110)
    assert red.any(), "an untrained net misses boxes, and these are drawn"
