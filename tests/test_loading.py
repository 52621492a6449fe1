"""A net from Python in three lines: models.load, and what the object it returns knows and finds."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from conftest import HANG, ROOT, randomise
from models import Darknet, load
from utils.boxes import box_iou
from utils.checkpoint import save_checkpoint, weights_content

PUBLISHED = ROOT / "config" / "hands-slim.cfg", ROOT / "weights" / "hands-slim.weights"
SAMPLE = ROOT / "data" / "samples" / "synth_test_00000.jpg"


@pytest.fixture
def pair(tiny_cfg, tmp_path):
    """A tiny random net as a Darknet pair."""
    torch.manual_seed(0)
    model = Darknet(tiny_cfg)
    randomise(model)
    model.save_darknet_weights(tmp_path / "net.weights")
    return tiny_cfg, tmp_path / "net.weights"


def test_three_lines_detect_in_an_array_and_in_a_file():
    net = load(*PUBLISHED, conf_thres=0.05)  # drawn hands are not what it was trained on
    image = cv2.cvtColor(cv2.imread(str(SAMPLE)), cv2.COLOR_BGR2RGB)
    found = net.detect(image)
    assert np.array_equal(found, net.detect(SAMPLE)) and np.array_equal(found, net.detect(str(SAMPLE)))
    assert net.names == ["hand"] and found.shape[1] == 6 and len(found) > 0
    height, width = image.shape[:2]
    assert (found[:, :4] >= 0).all() and (found[:, [0, 2]] <= width).all() and (found[:, [1, 3]] <= height).all()
    assert (found[:, 4] >= 0.05).all() and (np.diff(found[:, 4]) <= 0).all() and (found[:, 5] == 0).all()


def test_a_picture_without_an_object_gives_no_row():
    assert load(*PUBLISHED).detect(np.zeros((300, 200, 3), np.uint8)).shape == (0, 6)


def test_the_array_is_rgb_and_boxes_are_in_its_own_pixels(pair):
    """Against OpenCV's own letterboxed forward pass of the same pair."""
    net = load(*pair, conf_thres=0.0, nms_thres=1.0)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    reader = cv2.dnn.readNetFromDarknet(*map(str, pair))
    reader.setInput(cv2.dnn.blobFromImage(image, 1 / 255))
    rows = np.concatenate(reader.forward(reader.getUnconnectedOutLayersNames()))
    best = rows[rows[:, 4].argmax()]  # of some other nets it is not among the 300 that detect keeps
    centre, sides = best[:2] * 64, best[2:4] * 64
    box = torch.from_numpy(np.concatenate([centre - sides / 2, centre + sides / 2]).clip(0, 64))
    assert box_iou(torch.from_numpy(net.detect(image)[:, :4]), box[None].float()).max() > 0.99


def test_it_works_from_another_folder_with_nothing_but_sys_path(pair, tmp_path):
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom models import load\n"
            f"net = load('tiny-hand.cfg', {str(pair[1])!r}, conf_thres=0.0)\n"
            f"print(net.detect({str(SAMPLE)!r}).shape[1], net.names)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0 and done.stdout.split(maxsplit=1) == ["6", "['class0']\n"], done.stderr


def test_an_exported_file_is_loaded_alone_or_in_the_place_of_weights(tmp_path):
    """And gives the boxes of the net; so does the net in another runtime."""
    pytest.importorskip("openvino")
    flags = ["--cfg", PUBLISHED[0], "--weights", PUBLISHED[1], "--format", "openvino", "--out", tmp_path / "net.xml"]
    done = subprocess.run([sys.executable, ROOT / "export.py", *flags], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    wanted = load(*PUBLISHED, conf_thres=0.05).detect(SAMPLE)
    for net in (load(tmp_path / "net.xml", conf_thres=0.05), load(PUBLISHED[0], tmp_path / "net.xml", conf_thres=0.05),
                load(*PUBLISHED, backend="openvino", conf_thres=0.05)):
        np.testing.assert_allclose(net.detect(SAMPLE), wanted, atol=2e-2)


def test_a_cfg_without_weights_is_refused(pair):
    with pytest.raises(ValueError, match="expected load.cfg, weights. or an exported file$"):
        load(pair[0])


@pytest.mark.parametrize("options, words", [
    ({"backend": "tensorrt"}, "--backend tensorrt: found no such backend, expected one of auto, torch, "),
    ({"conf_thres": 30}, "found conf_thres=30, expected a ratio from 0 to 1"),
    ({"nms_thres": float("nan")}, "found nms_thres=nan, expected a ratio")])
def test_options_that_a_command_line_would_refuse_are_refused(pair, options, words):
    with pytest.raises(ValueError, match=words):
        load(*pair, **options)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8),
                                   np.zeros((8, 8, 3), np.float32)])
def test_an_array_of_another_kind_is_refused_with_what_was_found(pair, image):
    with pytest.raises(ValueError, match="expected .height, width, 3. RGB"):
        load(*pair).detect(image)


def test_names_come_from_the_checkpoint_or_the_file_beside_the_pair(pair, tmp_path):
    cfg, weights = pair
    save_checkpoint(tmp_path / "net.pth", weights_content(Darknet(cfg), str(cfg), "r", names=["paw"]))
    assert load(cfg, tmp_path / "net.pth").names == ["paw"]
    weights.with_suffix(".names").write_text("claw\n")
    assert load(cfg, weights).names == ["claw"] and load(cfg, tmp_path / "net.pth").names == ["paw"]
    weights.with_suffix(".names").write_text("left\nright\n")
    with pytest.raises(ValueError, match="net.names: found 2 names, expected 1"):
        load(cfg, weights)
