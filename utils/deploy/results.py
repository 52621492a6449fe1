"""What detect.py writes about what it found: detections.json, pictures and label files."""

import contextlib
import json
import textwrap
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np

from utils.data.yolo_labels import DataError
from utils.deploy.sources import Item
from utils.output import counted, replacing, write_text


class Results(contextlib.AbstractContextManager):
    """A JSON file of results, a list, at `path`, which gets that name when the block ends and is not written when it
    raises. Each result goes to the disk as it comes: a camera may run for days."""

    def __init__(self, path: Path):
        self.path, self.count, self.detections = path, 0, 0
        self._open, self._file = contextlib.ExitStack(), None

    def add(self, result: dict) -> None:
        """Write one result, such as `result_of` makes."""
        self._write((",\n" if self.count else "[\n") + textwrap.indent(json.dumps(result, indent=1), " "))
        self.count += 1
        self.detections += len(result["detections"])

    def _write(self, text: str) -> None:
        if self._file is None:
            temporary = self._open.enter_context(replacing(self.path))
            self._file = self._open.enter_context(open(temporary, "w", encoding="utf-8", newline="\n"))
        self._file.write(text)

    def __exit__(self, *error) -> None:
        if error[0] is not None:
            self._open.__exit__(*error)
            return
        with self._open:
            self._write("\n]\n" if self.count else "[]\n")

    @property
    def words(self) -> str:
        """How much was found, and where it stands."""
        return f"{counted(self.detections, 'detection')} in {counted(self.count, 'picture')}: {self.path}"


def result_of(item: Item, image: np.ndarray, rows: np.ndarray, names: Sequence[str]) -> dict:
    """What detections.json says of a picture or frame. rows: (n, 6) x1, y1, x2, y2 in pixels, score, class."""
    boxes = [{"box_xyxy_px": [round(float(x), 2) for x in row[:4]], "score": round(float(row[4]), 5),
              "class": int(row[5]), "name": names[int(row[5])]} for row in rows]
    source = item.path.as_posix() if item.path else item.shown
    return {"source": source, "width": image.shape[1], "height": image.shape[0], "detections": boxes}


def write_labels(path: Path, image: np.ndarray, rows: np.ndarray) -> None:
    """A label file as training reads it: lines of class cx cy w h, in shares of the (H, W, 3) image. rows: (n, 6)
    x1, y1, x2, y2 in pixels, score, class."""
    corners = rows[:, :4].astype(float) / np.tile(image.shape[1::-1], 2)
    boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    write_text(path, "".join(f"{int(row[5])} {' '.join(f'{x:.6f}' for x in box)}\n" for row, box in zip(rows, boxes)))


def write_picture(path: Path, image: np.ndarray) -> None:
    """Encode an RGB image by its suffix."""
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise DataError(f"{path}: cannot be encoded")
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
