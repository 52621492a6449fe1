r"""Hand detectors beside MediaPipe's palm detector: how many hands they find, and how often they alarm where there is
none.

    python -m benchmarks.hands --data data/hands/egohands.data data/hands/handviews.data \
        --net config/hands-slim.cfg weights/hands-slim.weights --file weights/hands-tiny-int8.onnx --palm package

A detection is right where the centre of its box lies in a labelled hand that no better detection took: boxes of palms
and of whole hands are measured alike by it. Each detector is taken at its own score, the one from which on 90 % of its
detections are right. Hand-free pictures are cut from the same photographs, beside their hands. --palm: a .tflite file
or the unpacked folder of `npm pack @mediapipe/hands`; needs the package ai-edge-litert.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torchvision.ops import nms

from benchmarks.run_deploy import palm_models
from models import load
from utils import cli
from utils.boxes import cxcywh_to_xyxy
from utils.data.data_config import parse_data_config
from utils.data.datasets import ListDataset
from utils.data.image_files import read_image
from utils.deploy.detector import Detector
from utils.deploy.runtimes import open_exported
from utils.letterbox import letterbox
from utils.output import ascii_table, environment, markdown_table, write_csv, write_text
from utils.progress import Progress

RIGHT = 0.9  # share of detections, from the score on at which a detector is taken
LEAST_SCORE = 0.01
BESIDE = 0.05  # of a picture's side: how far a hand-free picture keeps from a labelled hand
LEAST_SIDE, LEAST_SHARE = 96, 0.2  # of a hand-free picture: pixels, and of the photograph's area
PALM_STRIDES = (8, 16, 16, 16)  # of its maps, two anchors each in every cell
PALM_OVERLAP = 0.3  # above which the weaker of two palms goes
COLUMNS = ("data", "detector", "images", "hands", "score", "recall", "hand-free", "alarms per image")
Detect = Callable[[np.ndarray], np.ndarray]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    p = cli.Parser(prog="python -m benchmarks.hands", description=__doc__)
    p.add_argument("--data", nargs="+", required=True, metavar="FILE", help="whose validation images count, one by one")
    p.add_argument("--net", nargs=2, action="append", default=[], metavar=("CFG", "WEIGHTS"), help="a net; repeatable")
    p.add_argument("--file", action="append", default=[], metavar="FILE", help="a file of export.py; repeatable")
    p.add_argument("--palm", type=Path, metavar="PATH", help="MediaPipe's palm detector")
    cli.add_threads_flag(p)
    p.add_argument("--out", type=cli.out_folder, metavar="DIR", help="for hands.csv and hands.md (default: none)")
    return p.parse_args(argv)


def main() -> None:
    """Run every detector on the validation images of every --data, and on the hand-free parts of these."""
    args = parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    detectors = {Path(weights).name: load(cfg, weights, "cpu", conf_thres=LEAST_SCORE).detect
                 for cfg, weights in args.net}
    detectors |= {Path(file).name: exported(file) for file in args.file}
    if args.palm:
        detectors |= {f"MediaPipe {Path(name).stem}": palm_detector(content, torch.get_num_threads())
                      for name, content in palm_models(args.palm).items()}
    rows = [row for data in args.data for row in compared(data, detectors)]
    table = [COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]
    print(ascii_table(table))
    if args.out:
        write_csv(args.out / "hands.csv", [{name: row[name] for name in COLUMNS} for row in rows])
        write_text(args.out / "hands.md", f"{markdown_table(table)}\n\n{environment()['processor']}\n")


def exported(file: str) -> Detect:
    """The detector that a file of export.py is."""
    net = open_exported(file)
    return Detector(net, net.metadata.names, net.size, net.predict, conf_thres=LEAST_SCORE).detect


def compared(data: str, detectors: dict[str, Detect]) -> list[dict]:
    """A row for each detector."""
    config = parse_data_config(data)
    photographs = ListDataset(config.valid, (256, 256), len(config.names))
    found = {name: ([], []) for name in detectors}  # scores and hits; scores of alarms
    hands = free = 0
    for index in Progress(range(len(photographs)), len(photographs), data):
        image = read_image(photographs.images[index])
        boxes = cxcywh_to_xyxy(torch.from_numpy(photographs.labels[index][:, 1:])).numpy() * (image.shape[1::-1] * 2)
        empty = hand_free(image, boxes)
        hands, free = hands + len(boxes), free + (empty is not None)
        for name, detect in detectors.items():
            rows = detect(image)
            found[name][0].append(np.stack([rows[:, 4], hits(centres(rows), boxes)], axis=1))
            found[name][1].extend(detect(empty)[:, 4] if empty is not None else ())
    return [{"data": Path(data).stem, "detector": name, "images": len(photographs), "hands": hands,
             "hand-free": free} | at_score(np.concatenate(judged), np.array(alarms), hands, free)
            for name, (judged, alarms) in found.items()]


# ---- what is right

def centres(rows: np.ndarray) -> np.ndarray:
    """(n, 4 or more) x1, y1, x2, y2, ... -> (n, 2)."""
    return (rows[:, :2] + rows[:, 2:4]) / 2


def hits(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each of the (n, 2) points, best first, lies in one of the (m, 4) xyxy boxes that none before it took; of
    several it takes the smallest."""
    order = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    inside = ((points[:, None] >= boxes[None, order, :2]) & (points[:, None] <= boxes[None, order, 2:])).all(axis=2)
    free, right = np.ones(len(boxes), bool), np.zeros(len(points), bool)
    for point, candidates in enumerate(inside):
        if (candidates & free).any():
            free[np.argmax(candidates & free)], right[point] = False, True
    return right


def at_score(judged: np.ndarray, alarms: np.ndarray, hands: int, free: int) -> dict:
    """score: the lowest from which on a share RIGHT of the detections is right; recall: of the hands from it on;
    alarms per image: per hand-free picture. judged: (n, 2) scores and hits; alarms: scores."""
    judged = judged[np.argsort(-judged[:, 0], kind="stable")]
    right = judged[:, 1].cumsum()
    precise = np.flatnonzero(right >= RIGHT * np.arange(1, len(judged) + 1))
    if not len(precise):
        return {"score": "-", "recall": 0.0, "alarms per image": "-"}
    score = judged[precise[-1], 0]
    return {"score": round(float(score), 3), "recall": round(float(right[precise[-1]] / hands), 3),
            "alarms per image": round(float((alarms >= score).sum() / max(free, 1)), 3)}


def hand_free(image: np.ndarray, boxes: np.ndarray) -> np.ndarray | None:
    """The largest part of a picture on one side of all its (m, 4) xyxy boxes; None where it is small."""
    height, width = image.shape[:2]
    if not len(boxes):
        return image
    gap_x, gap_y = BESIDE * width, BESIDE * height
    left, above = (int(edge) for edge in boxes[:, :2].min(axis=0) - (gap_x, gap_y))
    right, below = (int(np.ceil(edge)) for edge in boxes[:, 2:].max(axis=0) + (gap_x, gap_y))
    parts = [image[:, :max(left, 0)], image[:, right:], image[:max(above, 0)], image[below:]]
    largest = max(parts, key=lambda part: part.shape[0] * part.shape[1])
    area = largest.shape[0] * largest.shape[1]
    return largest if min(largest.shape[:2]) >= LEAST_SIDE and area >= LEAST_SHARE * height * width else None


# ---- MediaPipe's palm detector

def palm_anchors(side: int) -> np.ndarray:
    """(n, 2) centres that its boxes are relative to, in shares of its square input of `side` pixels."""
    anchors = []
    for stride, maps in Counter(PALM_STRIDES).items():  # maps of one stride share their cells
        cells = (np.arange(side // stride) + 0.5) * stride / side
        anchors.append(np.repeat(np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2), 2 * maps, axis=0))
    return np.concatenate(anchors)


def palm_boxes(raw: np.ndarray, scores: np.ndarray, side: int) -> np.ndarray:
    """(n, 18) maps and (n,) logits -> (k, 5) x1, y1, x2, y2 in pixels of the input, score; best first, suppressed."""
    scores = 1 / (1 + np.exp(-scores.clip(-100, 100)))
    chosen = scores >= LEAST_SCORE
    centre = raw[chosen, :2] + palm_anchors(side)[chosen] * side
    rows = np.concatenate([centre - raw[chosen, 2:4] / 2, centre + raw[chosen, 2:4] / 2, scores[chosen, None]], axis=1)
    kept = nms(torch.from_numpy(rows[:, :4]), torch.from_numpy(rows[:, 4]), PALM_OVERLAP)  # best first
    return rows[kept.numpy()]


def palm_detector(content: bytes, threads: int) -> Detect:
    """The palm detector as a function image -> rows; its input is padded with black."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(model_content=content, num_threads=threads)
    net.allocate_tensors()
    [taken], outputs = net.get_input_details(), net.get_output_details()
    maps, logits = (next(out["index"] for out in outputs if out["shape"][-1] == last) for last in (18, 1))
    side = int(taken["shape"][1])

    def detect(image: np.ndarray) -> np.ndarray:
        canvas, fit = letterbox(image, (side, side))
        (width, height), black = fit.resized, np.zeros_like(canvas)
        inside = np.s_[fit.pad_y:fit.pad_y + height, fit.pad_x:fit.pad_x + width]
        black[inside] = canvas[inside]
        net.set_tensor(taken["index"], black[None].astype(np.float32) / 255)
        net.invoke()
        rows = palm_boxes(net.get_tensor(maps)[0], net.get_tensor(logits)[0, :, 0], side)
        rows[:, :4] = fit.to_image(torch.from_numpy(rows[:, :4])).numpy()
        return rows
    return detect


if __name__ == "__main__":
    cli.run(main)
