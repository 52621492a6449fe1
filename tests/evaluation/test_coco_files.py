"""test.py --coco: pycocotools gives the two files the score that test.py prints."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data.datasets import ListDataset
from utils.evaluation.args import ScoreOptions
from utils.evaluation.coco_files import write_coco
from utils.evaluation.evaluate import score_detections

NAMES = ["hand", "foot"]
SIZE = (96, 64)


@pytest.fixture
def images(tmp_path):
    """A dataset of pictures of many shapes, one of them without a box."""
    rng = np.random.default_rng(0)
    for i in range(12):
        height, width = rng.integers(40, 200, 2)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(tmp_path / f"{i:02}.png")
        centres, sides = rng.uniform(0.3, 0.7, (5, 2)), rng.uniform(0.1, 0.5, (5, 2))
        rows = np.concatenate([rng.integers(0, 2, (5, 1)), centres, sides], axis=1)[:0 if i == 3 else 5]
        (tmp_path / f"{i:02}.txt").write_text("".join(f"{int(row[0])} {' '.join(map(str, row[1:]))}\n" for row in rows))
    return ListDataset(str(tmp_path), SIZE, len(NAMES))


def detections_near(images):
    """(detections (n, 7), targets (m, 5)) of every image, in input pixels: every box found about where it is, some of
    them beyond the edge, and others that are none."""
    rng, found, truths = np.random.default_rng(1), [], []
    for i in range(len(images)):
        truth = torch.from_numpy(images.plain(i, SIZE)[1])
        other = torch.tensor(rng.uniform(0, 60, (4, 4)), dtype=torch.float32).sort(dim=1).values
        boxes = torch.cat([truth[:, 1:] + torch.tensor(rng.normal(0, 1, (len(truth), 4)), dtype=torch.float32), other])
        labels = torch.cat([truth[:, 0], torch.tensor(rng.integers(0, 2, 4), dtype=torch.float32)])
        scores = torch.tensor(rng.uniform(0.1, 1, len(boxes)), dtype=torch.float32)
        found.append(torch.cat([boxes, torch.stack([scores, labels, scores], 1)], 1)[scores.argsort(descending=True)])
        truths.append(truth)
    return found, truths


def test_pycocotools_scores_the_files_as_we_score(images, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    found, truths = detections_near(images)
    ours = score_detections(found, truths, tuple(NAMES), ScoreOptions())
    truth = coco.COCO(str(write_coco(tmp_path / "new", images, found, NAMES)[0]))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "new/detections.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.2 < ours.map < 0.9 and evaluation.stats[0] == pytest.approx(ours.map, abs=1e-6)


def test_the_files_name_pictures_and_classes_and_have_boxes_in_pixels_of_the_picture(images, tmp_path):
    path, results = write_coco(tmp_path / "new", images, detections_near(images)[0], NAMES)
    truth, found = json.loads(path.read_text()), json.loads(results.read_text())
    assert [category["name"] for category in truth["categories"]] == NAMES
    assert [picture["file_name"] for picture in truth["images"]] == [path.as_posix() for path in images.images]
    for picture in truth["images"]:
        assert Image.open(picture["file_name"]).size == (picture["width"], picture["height"])
        labels = images.labels[picture["id"] - 1]
        own = [one["bbox"] for one in truth["annotations"] if one["image_id"] == picture["id"]]
        expected = np.concatenate([labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 3:]], 1) * (
            [picture["width"], picture["height"]] * 2)
        assert np.allclose(np.reshape(own, (-1, 4)), expected, atol=1e-3)
    assert len(found) == sum(map(len, detections_near(images)[0])) and {one["category_id"] for one in found} == {1, 2}
