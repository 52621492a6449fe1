"""The network's input is made in one place: whoever asks, the pixels are the same, bit for bit."""

import cv2
import numpy as np
import pytest
import torch

from models import Darknet
from utils.data.augmentations import AUGMENTATIONS, Augmentation
from utils.data.datasets import Draw, ListDataset, TrainSampler, evaluation_loader, training_loader
from utils.data.image_files import read_image
from utils.deploy.backends import make_backend
from utils.deploy.detector import Detector
from utils.evaluation.evaluate import ScoreOptions, collect_detections
from utils.letterbox import letterbox, planes, to_input

SIZE = (96, 64)
SHAPES = {  # (width, height)
    "larger": (640, 480), "much_larger": (1000, 370), "smaller": (40, 30), "odd": (97, 65), "portrait": (101, 203),
    "just": SIZE, "thin": (300, 2), "one_axis": (96, 31), "above_the_training_cache": (126, 84), "lossy": (333, 251)}


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures of every shape, full of detail, so that any other way of resizing shows."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name, (width, height) in SHAPES.items():
        suffix = "jpg" if name == "lossy" else "png"
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.{suffix}"), image)
    return tmp_path / "images"


class Recorder:
    """Stands where a network would and keeps what it is fed."""

    def __init__(self):
        self.fed = []

    def __call__(self, images):
        self.fed += list(images.clone())
        return torch.zeros(len(images), 1, 6)


def fed_by_test(source):
    """What evaluate() feeds, which test.py, train.py's validation and test_prune.py share."""
    recorder = Recorder()
    loader = evaluation_loader(ListDataset(source, SIZE, 1), 4, 0)
    collect_detections(recorder, torch.device("cpu"), loader, ScoreOptions(), quiet=True)
    return recorder.fed


def fed_by_detect(source):
    """What detect.py's Detector feeds."""
    detector = Detector(torch.nn.Linear(1, 1), ["hand"], SIZE, Recorder())
    for path in ListDataset(source, SIZE, 1).images:
        detector(read_image(path))
    return detector.predict.fed


def fed_by_training(source, augmentation, **options):
    """What a training step is fed, in the order of the pictures."""
    dataset = ListDataset(source, SIZE, 1, augmentation=augmentation, **options)
    sampler = TrainSampler(len(dataset), len(dataset), SIZE, seed=1)
    (images, _), = training_loader(dataset, sampler, 0)
    order = [draw.index for batch in sampler for draw in batch]
    images = to_input(images, torch.device("cpu"))
    return [images[order.index(i)] for i in range(len(order))]


def assert_same_pixels(found, expected):
    assert len(found) == len(expected) == len(SHAPES)
    assert all(torch.equal(one, other) for one, other in zip(found, expected))


def test_test_detect_and_unaugmented_training_see_the_same_pixels(pictures):
    expected = fed_by_detect(pictures)
    assert_same_pixels(fed_by_test(pictures), expected)
    assert_same_pixels(fed_by_training(pictures, AUGMENTATIONS["none"]), expected)
    assert_same_pixels(fed_by_training(pictures, None), expected)


def test_an_exported_net_is_fed_the_same_pixels(pictures, tiny_cfg, monkeypatch):
    """By test.py and by detect.py, at the door of the ONNX session itself."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    fed, run = [], onnxruntime.InferenceSession.run

    def watched(session, outputs, feed, *rest):
        fed.extend(torch.from_numpy(feed["images"].copy()))
        return run(session, outputs, feed, *rest)

    net, dataset = Darknet(tiny_cfg).eval(), ListDataset(pictures, SIZE, 1)
    _, predict = make_backend("onnxruntime", net, SIZE)
    detector = Detector(net, ["hand"], SIZE, predict)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", watched)
    for path in dataset.images:
        detector(read_image(path))
    by_detect, fed[:] = list(fed), []
    collect_detections(predict, torch.device("cpu"), evaluation_loader(dataset, 4, 0), ScoreOptions(), quiet=True)
    assert_same_pixels(by_detect, fed_by_detect(pictures))
    assert_same_pixels(fed, by_detect)


def test_grey_input_is_opencvs_brightness():
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    grey = to_input(planes(picture)[None], torch.device("cpu"), channels=1)
    assert grey.shape == (1, 1, 24, 32)
    assert np.abs(255 * grey[0, 0].numpy() - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).max() <= 0.51  # OpenCV rounds


def test_the_cache_changes_no_pixel(pictures):
    dataset = ListDataset(pictures, SIZE, 1, cache_gb=0.1, augmentation=AUGMENTATIONS["standard"])
    for i in range(len(dataset)):
        dataset[Draw(0, i, *SIZE)]  # fills the cache with pictures shrunk for augmentation
    expected = fed_by_detect(pictures)
    for _ in range(2):
        images = torch.stack([dataset[i][0] for i in range(len(dataset))])
        assert_same_pixels(to_input(images, torch.device("cpu")), expected)


def test_flipped_training_pictures_are_the_same_pixels_mirrored(pictures):
    flipped = fed_by_training(pictures, Augmentation(flip=1, scale=0, translate=0, hsv=(0, 0, 0)))
    assert_same_pixels([image.flip(2) for image in flipped], fed_by_detect(pictures))


def test_every_size_of_multi_scale_training_is_one_resize_of_the_whole_picture(pictures):
    dataset = ListDataset(pictures, SIZE, 1, augmentation=AUGMENTATIONS["none"], cache_gb=0.1)
    for size in ((64, 32), (96, 64), (128, 96), (64, 32)):
        for i, path in enumerate(dataset.images):
            canvas = letterbox(read_image(path), size)[0]
            assert np.array_equal(dataset[Draw(0, i, *size)][0].permute(1, 2, 0).numpy(), canvas)
