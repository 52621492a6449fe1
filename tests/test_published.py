"""The weights that the repository publishes: they load, are as small as is said, and find hands."""

import cv2
import pytest
import torch

from benchmarks.hands import hand_free
from conftest import ROOT
from models import Darknet, load
from utils.boxes import cxcywh_to_xyxy
from utils.data.datasets import ListDataset, evaluation_loader
from utils.data.image_files import read_image
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


@pytest.mark.parametrize("name, most_bytes", [("hands-slim", 400_000), ("hands-tiny", 300_000)])
def test_the_8_bit_files_are_small_and_find_them_too(shared, name, most_bytes):
    pytest.importorskip("onnxruntime")
    path = ROOT / "weights" / f"{name}-int8.onnx"
    file = open_exported(path)
    assert path.stat().st_size < most_bytes and file.metadata.precision == "int8"
    assert evaluate(file, held_before_a_camera(shared), ("hand",), predict=file.predict).map50 > 0.85


def test_all_published_files_take_less_than_3_mb():
    assert sum(path.stat().st_size for name in NAMES for path in (*files(name), ROOT / "weights" / f"{name}-int8.onnx")
               ) < 3e6


@pytest.mark.parametrize("name, most", [("hands-slim", 0.1), ("hands-tiny", 0.3)])
def test_pictures_without_hands_hardly_alarm(shared, name, most):
    detect, alarms, pictures = load(*files(name), device="cpu").detect, 0, 0
    for part in ("egohands", "handviews"):
        photographs = ListDataset(shared / "data" / part / "valid.txt", (256, 256), 1)
        for path, labels in list(zip(photographs.images, photographs.labels))[::5]:
            image = read_image(path)
            boxes = cxcywh_to_xyxy(torch.from_numpy(labels[:, 1:])).numpy() * (image.shape[1::-1] * 2)
            if (empty := hand_free(image, boxes)) is not None:
                pictures, alarms = pictures + 1, alarms + len(detect(empty))
    assert pictures > 50 and alarms < most * pictures


def test_the_published_net_finds_a_hand_on_every_sample_picture():
    """What `python detect.py` alone shows a newcomer."""
    detector = load(*files("hands-slim"), device="cpu")
    samples = sorted((ROOT / "data" / "samples").glob("*.jpg"))
    assert len(samples) == 4 and all(len(detector.detect(path)) >= 1 for path in samples)
