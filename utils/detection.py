"""The steps of detect.py: a loaded detector, sources of pictures, drawing."""

import argparse
import glob
import math
import os
import time
from pathlib import Path
from typing import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import nn

from utils.backends import Predict
from utils.datasets import IMAGE_SUFFIXES, DataError, read_image
from utils.letterbox import letterbox, planes, to_input
from utils.nms import non_max_suppression
from utils.data_config import parse_data_config, read_names
from utils.writing import replacing, write_json

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
PALETTE = [(46, 204, 113), (52, 152, 219), (231, 76, 60), (241, 196, 15), (155, 89, 182), (26, 188, 156), (230, 126, 34)]


class Detector:
    """A network ready for inference, its class names and its thresholds.

    model: a Darknet on its device; size: (width, height) of its input in pixels; predict: what runs it (utils.backends), by default
    the model itself with its batch norms folded.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], size: tuple[int, int], predict: Predict | None = None,
                 conf_thres: float = 0.5, nms_thres: float = 0.5):
        self.names, self.size = list(names), size
        self.device = next(model.parameters()).device
        self.predict = predict or model.optimize()
        self.conf_thres, self.nms_thres = conf_thres, nms_thres

    @torch.inference_mode()
    def detect(self, image: np.ndarray | str | os.PathLike) -> np.ndarray:
        """(H, W, 3) RGB uint8, or the path of an image -> (n, 6): x1, y1, x2, y2 in its pixels, score, class; best first."""
        if isinstance(image, (str, os.PathLike)):
            image = read_image(Path(image))
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"found an image of shape {image.shape} and type {image.dtype}, expected (height, width, 3) RGB of type uint8")
        canvas, fit = letterbox(image, self.size)
        predictions = self.predict(to_input(planes(canvas)[None], self.device)).float()
        rows = non_max_suppression(predictions, self.conf_thres, self.nms_thres)[0].cpu()
        rows = rows[rows[:, 4] >= self.conf_thres]
        return torch.cat([fit.to_image(rows[:, :4]), rows[:, 4:6]], dim=1).numpy()

    __call__ = detect


def class_names(path: str | None, data: str | None, known: Sequence[str] | None, classes: int) -> list[str]:
    """Names of the names file `path`, or of the data description `data`, else those that the net is known by, else class0, class1, ...

    Raises ValueError on a wrong count.
    """
    names = read_names(path) if path else parse_data_config(data).names if data else known or numbered_names(classes)
    if len(names) != classes:
        raise ValueError(f"{path or data}: found {len(names)} names, expected {classes}, the net's class count")
    return list(names)


def numbered_names(classes: int) -> list[str]:
    """What classes are called that nobody named."""
    return [f"class{i}" for i in range(classes)]


def draw(image: np.ndarray, rows: np.ndarray, names: list[str]) -> np.ndarray:
    """A copy of the RGB image with its boxes, each labelled with class and score."""
    picture = image.copy()
    thick = max(round(max(image.shape[:2]) / 320), 1)
    scale = max(max(image.shape[:2]) / 1100, 0.35)
    for x1, y1, x2, y2, score, label in rows:
        colour = PALETTE[int(label) % len(PALETTE)]
        corner, opposite = (int(x1), int(y1)), (int(x2), int(y2))
        cv2.rectangle(picture, corner, opposite, colour, thick, cv2.LINE_AA)
        text = f"{names[int(label)]} {score:.2f}"
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        top = max(corner[1] - height - base, 0)
        left = max(min(corner[0], image.shape[1] - width), 0)
        cv2.rectangle(picture, (left, top), (left + width, top + height + base), colour, -1)
        cv2.putText(picture, text, (left, top + height), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def run_source(detector: Detector, names: list[str], source: str, args: argparse.Namespace, taken: set[str]) -> list[dict]:
    """Detect in one --source; drawn pictures go to args.out, under names not in `taken` (which grows). Returns a result a
    picture or frame."""
    args.out.mkdir(parents=True, exist_ok=True)
    if is_video(source):
        return _run_video(detector, names, source, args, taken)
    return _run_images(detector, names, image_paths(source), args, taken)


def is_video(source: str) -> bool:
    """Whether a --source is a camera number or a video file."""
    return source.isdigit() or Path(source).suffix.lower() in VIDEO_SUFFIXES


def expected_images(sources: list[str], max_frames: int = 0) -> float:
    """How many pictures and frames there are in all; a camera never ends, unless max_frames ends it."""
    return sum(_frame_count(source, max_frames or math.inf) if is_video(source) else len(image_paths(source)) for source in sources)


def _frame_count(source: str, limit: float) -> float:
    frames = math.inf if source.isdigit() else cv2.VideoCapture(source).get(cv2.CAP_PROP_FRAME_COUNT)
    return min(max(frames, 0), limit)  # a damaged file may count below 0


def image_paths(source: str) -> list[Path]:
    """Images of a file, folder (not its subfolders) or glob. Raises DataError when there is none."""
    path = Path(source)
    if path.is_file():
        return [path]
    found = path.iterdir() if path.is_dir() else map(Path, glob.glob(source, recursive=True))
    images = sorted(p for p in found if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"--source {source}: found no image, expected an image, a folder, a glob, a video or a camera number")
    return images


def _run_images(detector: Detector, names: list[str], paths: list[Path], args: argparse.Namespace, taken: set[str]) -> list[dict]:
    sources = {path.resolve() for path in paths}
    results = []
    for path in paths:
        try:
            image = read_image(path)
        except DataError as error:
            if not args.skip_bad:
                raise
            print(f"skipped: {error}")
            continue
        started = time.perf_counter()
        rows = detector(image)
        seconds = time.perf_counter() - started
        name = f"{path.stem}.png" if path.suffix.lower() in (".png", ".bmp") else f"{path.stem}.jpg"
        target = _free_path(args.out / name, taken, sources)
        write_picture(target, draw(image, rows, names))
        print(f"{path}: {len(rows)} found in {1e3 * seconds:.0f} ms -> {target}")
        results.append(_result(path.as_posix(), image, rows, names))
    return results


def _free_path(path: Path, taken: set[str], sources: set[Path]) -> Path:
    """`path`, with _ before its name while that is `taken` (which grows) or would overwrite a source: two folders may hold files of the
    same name, and the output folder may be one of them."""
    while path.name in taken or path.resolve() in sources:
        path = path.with_name(f"_{path.name}")
    taken.add(path.name)
    return path


def _frames(source: str, limit: int) -> Iterator[tuple[int, np.ndarray, float]]:
    """(number, RGB frame, frames a second) of a video file or camera."""
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise DataError(f"--source {source}: cannot be opened, expected a {'camera' if source.isdigit() else 'video'}")
    rate, number = capture.get(cv2.CAP_PROP_FPS) or 25.0, 0
    try:
        while (not limit or number < limit) and (step := capture.read())[0]:
            yield number, cv2.cvtColor(step[1], cv2.COLOR_BGR2RGB), rate
            number += 1
    finally:
        capture.release()


def _run_video(detector: Detector, names: list[str], source: str, args: argparse.Namespace, taken: set[str]) -> list[dict]:
    name = f"camera{source}" if source.isdigit() else Path(source).stem
    target = _free_path(args.out / f"{name}_detected.mp4", taken, {Path(source).resolve()})
    writer, results, started = None, [], time.perf_counter()
    try:
        for number, frame, rate in _frames(source, args.max_frames):
            rows = detector(frame)
            if writer is None:
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter_fourcc(*"mp4v"), rate, (frame.shape[1], frame.shape[0]))
                if not writer.isOpened():
                    raise DataError(f"{target}: cannot be written as a video")
            writer.write(cv2.cvtColor(draw(frame, rows, names), cv2.COLOR_RGB2BGR))
            results.append(_result(source, frame, rows, names) | {"frame": number})
    except KeyboardInterrupt:  # the way to end a camera: what was seen so far is kept
        print("stopped")
    finally:
        if writer is not None:
            writer.release()
    if not results:
        raise DataError(f"--source {source}: found no frame that can be read, expected a video")
    print(f"{source}: {len(results)} frames, {len(results) / (time.perf_counter() - started):.1f} a second -> {target}")
    return results


def write_picture(path: Path, image: np.ndarray) -> None:
    """Encode an RGB image by its suffix."""
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise DataError(f"{path}: cannot be encoded")
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _result(source: str, image: np.ndarray, rows: np.ndarray, names: list[str]) -> dict:
    boxes = [{"box_xyxy_px": [round(float(x), 2) for x in row[:4]], "score": round(float(row[4]), 5), "class": int(row[5]),
              "name": names[int(row[5])]} for row in rows]
    return {"source": source, "width": image.shape[1], "height": image.shape[0], "detections": boxes}


def write_results(results: list[dict], out: Path) -> None:
    """detections.json of all pictures and frames."""
    path = out / "detections.json"
    write_json(path, results)
    print(f"{sum(len(result['detections']) for result in results)} detections in {len(results)} pictures: {path}")
