"""The snippets of docs/deploy.md, taken out of the page, compiled or run as they stand there, find what detect.py
finds."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import detect
from conftest import HANG, ROOT
from models import Darknet
from utils.boxes import box_iou
from utils.deploy.metadata import BuiltInNms, metadata_of
from utils.deploy.ncnn_export import write_ncnn
from utils.deploy.onnx_export import write_onnx
from utils.deploy.openvino_export import write_openvino
from utils.letterbox import Letterbox

SIZE = (256, 256)
CFG, WEIGHTS = ROOT / "config" / "hands-tiny.cfg", ROOT / "weights" / "hands-tiny.weights"
# what a block of C++ stands in: declarations before it, its boxes as JSON rows x, y, width, height, score after it
PROGRAM = """
#include <algorithm>
#include <iostream>
#include <vector>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
{includes}
int main() {{
    std::vector<int> classes, kept; std::vector<float> scores; std::vector<{box}> boxes;
    {picture}
    {block}
    if (kept.empty()) for (int i = 0; i < (int)classes.size(); i++) kept.push_back(i);
    std::cout << "[";
    for (size_t i = 0; i < kept.size(); i++) {{
        auto box = boxes[kept[i]];
        std::cout << (i ? "," : "") << "[" << box.x << "," << box.y << "," << box.width << "," << box.height << ","
                  << scores[kept[i]] << "]";
    }}
    std::cout << "]" << std::endl;
}}
"""


def blocks():
    """Title -> code of the page's snippets."""
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^([^\n]+?)(?: \([^\n]*\))?:\n```\w+\n(.*?)^```", text, re.M | re.S))


def need(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {package}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture that is not square, and the published pair, by the names of the page."""
    path = tmp_path_factory.mktemp("snippets")
    picture = cv2.imread(str(ROOT / "data" / "samples" / "synth_test_00001.jpg"))
    cv2.imwrite(str(path / "picture.jpg"), picture[: picture.shape[0] * 7 // 8])
    shutil.copy(CFG, path / "net.cfg")
    shutil.copy(WEIGHTS, path / "net.weights")
    return path


@pytest.fixture(scope="module")
def expected(folder):
    """(n, 5) x1, y1, x2, y2, score of detect.py."""
    with pytest.MonkeyPatch.context() as patch:
        words = ["--cfg", CFG, "--weights", WEIGHTS, "--source", folder / "picture.jpg", "--out", folder / "out",
                 "--conf_thres", "0.25", "--backend", "torch", "--device", "cpu"]
        patch.setattr(sys, "argv", ["detect.py", *map(str, words)])
        detect.main()
    [found] = json.loads((folder / "out" / "detections.json").read_text())
    rows = [[*box["box_xyxy_px"], box["score"]] for box in found["detections"]]
    assert len(rows) >= 2, "a picture that shows something"
    return torch.tensor(rows)


@pytest.fixture(scope="module")
def net():
    model = Darknet(CFG).eval()
    model.load_darknet_weights(WEIGHTS)
    return model


def assert_same(rows, expected, folder, iou=0.9, score=0.05):
    """rows: (n, 5) x1, y1, x2, y2 in the square, score; each has its twin, and nothing is found besides."""
    picture = cv2.imread(str(folder / "picture.jpg"))
    rows = torch.as_tensor(np.asarray(rows, dtype=np.float32)).reshape(-1, 5)
    rows = torch.cat([Letterbox.fit(*picture.shape[1::-1], *SIZE).to_image(rows[:, :4]), rows[:, 4:]], 1)
    best, twin = box_iou(expected[:, :4], rows[:, :4]).max(dim=1)
    assert len(rows) == len(expected) and best.min() > iou, (rows, expected)
    assert (rows[twin, 4] - expected[:, 4]).abs().max() < score, (rows, expected)


def corners(boxes):
    """x, y, width, height -> x1, y1, x2, y2."""
    boxes = np.asarray(boxes, dtype=np.float32)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def run_python(title, folder, monkeypatch):
    """The names that the picture's block and this one leave behind."""
    monkeypatch.chdir(folder)
    names = {}
    exec(blocks()["The picture, Python"] + blocks()[title], names)  # noqa: S102  (the project's own page)
    return names


def test_opencv_in_python(folder, expected, monkeypatch):
    found = run_python("OpenCV, Python", folder, monkeypatch)
    assert_same(np.hstack([corners(found["boxes"]), np.reshape(found["scores"], (-1, 1))]), expected, folder)


def test_onnx_runtime_in_python(folder, expected, net, monkeypatch):
    need("onnx", "onnxscript", "onnxruntime")
    from dataclasses import replace

    write_onnx(net, folder / "net.onnx", replace(metadata_of(net, None, SIZE, "float32"), nms=BuiltInNms(0.25, 0.5)))
    found = run_python("ONNX Runtime, Python", folder, monkeypatch)
    rows = np.hstack([found["boxes"], found["scores"][:, None]])
    assert_same(rows[rows[:, 4] >= 0.25], expected, folder, iou=0.98, score=0.01)


def test_openvino_in_python(folder, expected, net, monkeypatch):
    need("openvino")
    write_openvino(net, folder / "net.xml", metadata_of(net, None, SIZE, "float32"))
    found = run_python("OpenVINO, Python", folder, monkeypatch)
    rows = np.hstack([corners(found["boxes"]), found["scores"][:, None]])[found["kept"]]
    assert_same(rows, expected, folder, iou=0.98, score=0.01)


# ---- C++

def flags_of(*packages):
    """Words for the compiler; skips where one of them, or the compiler, is not there."""
    if not shutil.which("g++") or not shutil.which("pkg-config"):
        pytest.skip("no g++ with pkg-config here: apt install g++ pkg-config")
    words = []
    for package, source in packages:
        done = subprocess.run(["pkg-config", "--cflags", "--libs", package], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the headers of {package} are not here: {source}")
        words += done.stdout.split()
    return words


def run_cpp(title, folder, flags, includes, box):
    """The rows that the compiled block prints."""
    found, source, program = blocks(), folder / "block.cpp", folder / "block"
    source.write_text(PROGRAM.format(includes=includes, box=box, picture=found["The picture, C++"], block=found[title]))
    done = subprocess.run(["g++", "-std=c++17", str(source), "-o", str(program), *flags], capture_output=True,
                          text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr[:2000]
    done = subprocess.run([str(program)], cwd=folder, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = np.asarray(json.loads(done.stdout), dtype=np.float32).reshape(-1, 5)
    return np.hstack([corners(rows[:, :4]), rows[:, 4:]])


def test_opencv_in_cpp(folder, expected):
    flags = flags_of(("opencv4", "apt install libopencv-dev"))
    assert_same(run_cpp("OpenCV, C++", folder, flags, "", "cv::Rect"), expected, folder)


def test_ncnn_in_cpp(folder, expected, net):
    flags = flags_of(("opencv4", "apt install libopencv-dev"), ("ncnn", "build ncnn with cmake and install it"))
    need("pnnx")
    write_ncnn(net, folder / "net.ncnn.param", metadata_of(net, None, SIZE, "float32"))
    rows = run_cpp("ncnn, C++", folder, [*flags, "-fopenmp"], "#include <net.h>", "cv::Rect2d")
    assert_same(rows, expected, folder, iou=0.97, score=0.02)
