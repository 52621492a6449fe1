"""`--scorer reference`: the reference implementation's own input, beside its rules."""


import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from utils.data.args import ReadOptions
from utils.data.data_config import parse_data_config
from utils.data.datasets import ListDataset
from utils.data.prepare import dataset
from utils.evaluation.evaluate import ScoreOptions, evaluate, truth_by_image
from utils.letterbox import reference_square

SHAPES = [(640, 480), (48, 96), (33, 21), (64, 64), (101, 203), (7, 500)]


def as_the_reference_reads(image_path, label_path, size):
    """(3, size, size) 0..1 and (n, 4) x1, y1, x2, y2 in pixels of it: commit 9b0cf5b, in short."""
    pixels = torch.from_numpy(np.asarray(Image.open(image_path).convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    height, width = pixels.shape[1:]
    difference = abs(height - width)
    pad1, pad2 = difference // 2, difference - difference // 2
    pad = (0, 0, pad1, pad2) if height <= width else (pad1, pad2, 0, 0)
    padded = F.pad(pixels, pad, "constant", value=0)
    padded_height, padded_width = padded.shape[1:]
    boxes = torch.from_numpy(np.loadtxt(label_path).reshape(-1, 5))
    x1, x2 = (width * (boxes[:, 1] + sign * boxes[:, 3] / 2) + pad[0] for sign in (-1, 1))
    y1, y2 = (height * (boxes[:, 2] + sign * boxes[:, 4] / 2) + pad[2] for sign in (-1, 1))
    relative = torch.stack([x1 / padded_width, y1 / padded_height, x2 / padded_width, y2 / padded_height], 1)
    return F.interpolate(padded[None], size=size, mode="nearest")[0], relative * size


@pytest.mark.parametrize("width, height", SHAPES)
@pytest.mark.parametrize("size", [32, 96])
def test_pixels_and_boxes_are_the_reference_s(tmp_path, width, height, size):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image)
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .4 .3 .2\n0 .1 .1 .1 .2\n")
    pixels, boxes = as_the_reference_reads(tmp_path / "images" / "a.png", tmp_path / "labels" / "a.txt", size)
    found, rows = ListDataset(tmp_path / "images", (size, size), 1, to_canvas=reference_square)[0]
    assert torch.equal(found.float() / 255, pixels)
    rows = torch.cat([torch.zeros(len(rows), 1), rows], 1)
    assert torch.allclose(truth_by_image(rows, 1, size, size)[0][:, 1:].double(), boxes, atol=1e-4)


def test_each_scorer_sees_the_pixels_that_its_help_promises(tiny_data):
    data = parse_data_config(tiny_data)
    scorers = ("standard", "compat", "reference")
    read = {scorer: ReadOptions(scorer=scorer) for scorer in scorers}
    pixels = {scorer: dataset(own, data, "valid", (64, 64))[0][0] for scorer, own in read.items()}
    assert torch.equal(pixels["standard"], pixels["compat"])
    assert not torch.equal(pixels["standard"], pixels["reference"])
    assert (pixels["reference"][:, 0] == 0).all() and (pixels["standard"][:, 0] == 127).all()  # the borders
    images = [dataset(read[scorer], data, "train", (64, 64))[0][0] for scorer in ("standard", "reference")]
    assert torch.equal(*images)  # what is learnt from stays letterboxed


def test_an_input_that_is_no_square_is_refused(tiny_data):
    with pytest.raises(ValueError, match="found an input of 96x64, expected a square"):
        dataset(ReadOptions(scorer="reference"), parse_data_config(tiny_data), "valid", (96, 64))


def test_the_result_says_on_which_pixels_it_was_taken(tmp_path):
    loader = [(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([[0, 0, 0.5, 0.5, 0.5, 0.5]]))]
    predict = lambda images: torch.tensor([[[16, 16, 16, 16, 0.9, 0.9]]])  # noqa: E731
    net = torch.nn.Linear(1, 1)
    words = {scorer: evaluate(net, loader, ("hand",), ScoreOptions(scorer=scorer), quiet=True,
                              predict=predict).to_dict() for scorer in ("compat", "reference")}
    assert words["compat"]["map50"] == words["reference"]["map50"] == 1
    low = evaluate(net, loader, ("hand",), ScoreOptions(iou_thres=0.3), quiet=True, predict=predict).to_dict()
    assert low["iou_thres"] == 0.3 and low["scorer"].startswith("map50: area") and "from 0.3 on" in low["scorer"]
    assert words["compat"]["iou_thres"] == 0.5
    assert "letterboxed" in words["compat"]["scorer"] and "reference's input" in words["reference"]["scorer"]
