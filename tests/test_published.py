"""The weights that the repository publishes: they load, are as small as is said, and find hands."""

import cv2
import pytest
import torch

from conftest import ROOT
from models import Darknet, load
from utils.data.datasets import ListDataset, evaluation_loader
from utils.deploy.runtimes import open_exported
from utils.evaluation.evaluate import ScoreOptions, evaluate
from utils.parse_config import parse_model_config
from utils.shapes import total_cost

NAMES = ("hands-slim", "hands-tiny")


def files(name):
    return ROOT / "config" / f"{name}.cfg", ROOT / "weights" / f"{name}.weights"


@pytest.fixture(scope="module", params=NAMES)
def slim(request):
    cfg, weights = files(request.param)
    net = Darknet(cfg).eval()
    net.load_darknet_weights(weights)
    net.cfg, net.weights = cfg, weights
    return net


def test_the_published_net_has_the_size_that_is_said(slim):
    dense = total_cost(parse_model_config(ROOT / "config" / "yolov3-hand-w25.cfg"))
    cost = total_cost(slim.module_defs)
    assert (
        cost.parameters < 0.15 * dense.parameters
        and cost.macs <= 0.3 * dense.macs
        and slim.weights.stat().st_size < 2e6
    )


def test_opencv_reads_the_published_pair_and_computes_the_same(slim):
    image = cv2.imread(str(ROOT / "data" / "samples" / "synth_test_00000.jpg"))
    blob = cv2.dnn.blobFromImage(image, 1 / 255, (256, 256), swapRB=True)
    net = cv2.dnn.readNetFromDarknet(str(slim.cfg), str(slim.weights))
    net.setInput(blob)
    with torch.no_grad():
        ours = slim.raw_maps(torch.from_numpy(blob))
    for raw, theirs in zip(ours, net.forward([f"conv_{i - 1}" for i in slim.head_layers()])):
        assert (raw - torch.from_numpy(theirs)).abs().max() <= 1e-4 * raw.abs().max()


def test_the_published_net_finds_hands_on_photographs(slim, shared):
    images = ListDataset(shared / "data" / "egohands" / "valid.txt", (256, 256), 1)
    images = torch.utils.data.Subset(images, range(0, len(images), 4))
    result = evaluate(slim, evaluation_loader(images, 16, 0), ("hand",), ScoreOptions())
    assert result.map50 > 0.88


def held_before_a_camera(shared):
    images = ListDataset(shared / "data" / "handviews" / "valid.txt", (256, 256), 1)
    return evaluation_loader(torch.utils.data.Subset(images, range(0, len(images), 2)), 16, 0)


@pytest.mark.parametrize("name", ["hands-slim", "hands-tiny"])
def test_hands_held_before_a_camera_are_found(shared, name):
    net = load(*files(name), device="cpu")
    loader = held_before_a_camera(shared)
    assert evaluate(Darknet(files(name)[0]).eval(), loader, ("hand",), predict=net.predict).map50 > 0.85


def test_the_int8_file_of_hands_tiny_is_small_and_finds_them_too(shared):
    pytest.importorskip("onnxruntime")
    path = ROOT / "weights" / "hands-tiny-int8.onnx"
    file = open_exported(path)
    assert path.stat().st_size < 300_000 and file.metadata.precision == "int8"
    assert evaluate(file, held_before_a_camera(shared), ("hand",), predict=file.predict).map50 > 0.85


def test_the_published_net_finds_a_hand_on_every_sample_picture():
    """What `python detect.py` alone shows a newcomer."""
    detector = load(*files("hands-slim"), device="cpu")
    samples = sorted((ROOT / "data" / "samples").glob("*.jpg"))
    assert len(samples) == 4 and all(len(detector.detect(path)) >= 1 for path in samples)
