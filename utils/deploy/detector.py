"""The steps of detect.py: a net ready for inference, run on pictures and films, and what is written about them."""

import contextlib
import itertools
import math
import os
import signal
import time
from pathlib import Path
from typing import Iterator, Sequence

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

from utils import signals
from utils.class_names import numbered_names, read_names
from utils.cli import CONF_THRES
from utils.data.data_config import parse_data_config
from utils.data.datasets import DataError
from utils.data.net_classes import data_for_net
from utils.deploy.drawing import draw
from utils.deploy.onnx_runtimes import Predict
from utils.deploy.opencv_log import quiet_opencv
from utils.deploy.sources import Item, frame_count, frames, read_picture
from utils.evaluation.nms import non_max_suppression
from utils.letterbox import input_channels, input_device, letterbox, planes, to_input
from utils.output import counted, replacing, replacing_all, write_json
from utils.places import OutputError

LEAST_SIDE_PX = 0.01  # of a box in its picture: detections.json has hundredths


class Detector:
    """A network ready for inference, its class names and its thresholds.

    model: a Darknet on its device; size: (width, height) of its input in pixels; predict: what runs it
    (utils.deploy.backends), by default the model itself with its batch norms folded. An exported file
    (utils.deploy.runtimes) stands in for a model where its own `predict` is given.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], size: tuple[int, int], predict: Predict | None = None,
                 conf_thres: float = CONF_THRES, nms_thres: float = 0.5):
        for name, value in (("conf_thres", conf_thres), ("nms_thres", nms_thres)):
            if not 0 <= value <= 1:
                raise ValueError(f"found {name}={value}, expected a ratio from 0 to 1")
        self.names, self.size = list(names), size
        self.device, self.channels = input_device(model), input_channels(model)
        self.predict = model.optimize() if predict is None else predict
        self.conf_thres, self.nms_thres = conf_thres, nms_thres

    @torch.inference_mode()
    def detect(self, image: np.ndarray | Image.Image | str | os.PathLike) -> np.ndarray:
        """(H, W, 3) RGB uint8, a PIL image, or an image's path -> (n, 6): x1, y1, x2, y2 in its pixels, score, class;
        best first. Raises ValueError or TypeError for anything else."""
        image = rgb_array(image)
        canvas, fit = letterbox(image, self.size)
        predictions = self.predict(to_input(planes(canvas)[None], self.device, self.channels)).float()
        rows = non_max_suppression(predictions, self.conf_thres, self.nms_thres)[0].cpu()
        rows = rows[rows[:, 4] >= self.conf_thres]
        boxes = fit.to_image(rows[:, :4])
        seen = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE_PX).all(dim=1)  # one wholly in the border has no width left
        return torch.cat([boxes, rows[:, 4:6]], dim=1)[seen].numpy()

    __call__ = detect


def rgb_array(image: np.ndarray | Image.Image | str | os.PathLike) -> np.ndarray:
    """(H, W, 3) RGB uint8 of such an array, of a PIL image, or of an image's path. Raises ValueError for another array
    or more than 8 bits, TypeError for another type."""
    if isinstance(image, (str, os.PathLike)):
        return read_picture(Path(image))
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":  # Pillow would cut them to 255
            raise ValueError(f"found a PIL image of mode {image.mode}, expected one of 8 bits, such as RGB")
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"found a {type(image).__name__}, expected (height, width, 3) RGB of type uint8, a PIL image "
                        "or the path of an image")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"found an image of shape {image.shape} and type {image.dtype}, expected (height, width, "
                         "3) RGB of type uint8")
    return image


def class_names(path: str | None, data: str | None, known: Sequence[str] | None, classes: int,
                weights: str | os.PathLike) -> list[str]:
    """Names of the data description `data`, or in their place of the names file `path`, as the net meets them
    (utils.data.net_classes); else of `path` alone, else `known`, the net's own, else class0, ...; weights: its file,
    for errors.

    Raises ValueError on a wrong count.
    """
    if data:
        return list(data_for_net(parse_data_config(data, path), known, classes, weights).names)
    names = read_names(path) if path else list(known or numbered_names(classes))
    if len(names) != classes:
        raise ValueError(f"{path}: found {len(names)} names, expected {classes}, the net's class count")
    return names


def expected_images(items: Sequence[Item], max_frames: int = 0) -> float:
    """How many pictures and frames there are in all; a camera never ends, unless max_frames ends it."""
    return sum(min(frame_count(item), (max_frames or math.inf) if item.is_film else 1) for item in items)


def run(detector: Detector, items: Sequence[Item], out: Path, max_frames: int = 0,
        skip_bad: bool = False) -> list[dict]:
    """Detect in all `items`; the drawn pictures and films, and detections.json of all of them, go to `out`. Returns a
    result per picture or frame.

    max_frames: where to end a film, 0: at its end. Raises DataError on what cannot be read, after writing what was
    found before it; with skip_bad says so and goes on. Told to end by a signal it ends after the picture or frame under
    way, writes what was found so far and raises signals.Ended, unless it was Ctrl-C at the last item and that is live:
    nothing else ends a camera.
    """
    taken = {item.path.resolve() for item in items if item.path}  # no source is overwritten, should `out` hold it
    results, skipped = [], 0
    with signals.held() as notice:
        for item in items:
            try:
                results += (_run_film(detector, item, out, max_frames, taken, notice) if item.is_film else
                            [_run_image(detector, item, out, taken)])
            except DataError as error:
                if not skip_bad:
                    if results:
                        _write_results(results, out)
                    raise
                print(f"skipped: {error}")
                skipped += 1
            if notice.number is not None:
                break
        if skipped:
            print(f"{skipped} of {len(items)} sources skipped")
        _write_results(results, out)
        if notice.number == signal.SIGINT and item is items[-1] and item.path is None:
            print("stopped")
            notice.number = None
    return results


def _run_image(detector: Detector, item: Item, out: Path, taken: set[Path]) -> dict:
    image = read_picture(item.path)
    started = time.perf_counter()
    rows = detector.detect(image)
    seconds = time.perf_counter() - started
    suffix = ".png" if item.path.suffix.lower() in (".png", ".bmp", ".gif") else ".jpg"
    target = _free_path(out / f"{item.name}{suffix}", taken)
    write_picture(target, draw(image, rows, detector.names))
    print(f"{item.shown}: {len(rows)} found in {1e3 * seconds:.0f} ms -> {target}")
    return _result(item, image, rows, detector.names)


def _free_path(path: Path, taken: set[Path]) -> Path:
    """`path`, with _ before its name while it is `taken` (which grows), as where two sources hold files of one name."""
    while path.resolve() in taken:
        path = path.with_name(f"_{path.name}")
    taken.add(path.resolve())
    return path


def _run_film(detector: Detector, item: Item, out: Path, max_frames: int, taken: set[Path],
              notice: signals.Notice) -> list[dict]:
    target = _free_path(out / f"{item.name}_detected.mp4", taken)
    results, started = [], time.perf_counter()
    with film(target) as writer:
        for number, (frame, rate) in enumerate(itertools.islice(frames(item), max_frames or None)):
            rows = detector.detect(frame)
            writer.write(draw(frame, rows, detector.names), rate)
            results.append(_result(item, frame, rows, detector.names) | {"frame": number})
            if notice.number is not None:
                break
    rate = len(results) / (time.perf_counter() - started)
    print(f"{item.shown}: {counted(len(results), 'frame')}, {rate:.1f} per second -> {target}")
    return results


@contextlib.contextmanager
def film(path: Path) -> Iterator["FilmWriter"]:
    """What writes an MP4 file beside `path`, which gets that name when the block ends. Raises OutputError where frames
    are missing in it, as on a full disk, of which OpenCV says nothing."""
    # OpenCV tells the kind of a film by the end of its name, so that it is the folder which has another
    with replacing_all(path) as folder:
        writer = FilmWriter(folder / path.name, path)
        try:
            yield writer
        finally:
            writer.close()
        held = frame_count(Item(str(writer.path), path, True))
        if held < writer.count:
            raise OutputError(f"{path}: cannot be written: {held:.0f} of {counted(writer.count, 'frame')} can be read "
                              "back, expected all; is the disk full?")


class FilmWriter:
    """A film of RGB frames, all brought to the size of the first. where: its place, for errors."""

    def __init__(self, path: Path, where: Path):
        self.path, self.where, self.count = path, where, 0
        self.size, self.writer = None, None  # (width, height) in pixels, known from the first frame on

    def write(self, frame: np.ndarray, rate: float) -> None:
        """Add a frame, (H, W, 3); rate: per second, of which the first counts. A stream may change its size on the
        way, a file may not. Raises OutputError where the film cannot be begun."""
        if self.writer is None:
            self._open(frame.shape[1::-1], rate)
        if frame.shape[1::-1] != self.size:
            frame = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def _open(self, size: tuple[int, int], rate: float) -> None:
        self.size = size
        with quiet_opencv():
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
        if not self.writer.isOpened():
            raise OutputError(f"{self.where}: cannot be written as a film of {size[0]}x{size[1]} pixels, {rate:g} "
                              "frames per second; nothing was written")

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.release()


def write_picture(path: Path, image: np.ndarray) -> None:
    """Encode an RGB image by its suffix."""
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise DataError(f"{path}: cannot be encoded")
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _result(item: Item, image: np.ndarray, rows: np.ndarray, names: list[str]) -> dict:
    boxes = [{"box_xyxy_px": [round(float(x), 2) for x in row[:4]], "score": round(float(row[4]), 5),
              "class": int(row[5]), "name": names[int(row[5])]} for row in rows]
    source = item.path.as_posix() if item.path else item.shown
    return {"source": source, "width": image.shape[1], "height": image.shape[0], "detections": boxes}


def _write_results(results: list[dict], out: Path) -> None:
    """detections.json of all pictures and frames."""
    path = out / "detections.json"
    write_json(path, results)
    found = sum(len(result["detections"]) for result in results)
    print(f"{counted(found, 'detection')} in {counted(len(results), 'picture')}: {path}")
