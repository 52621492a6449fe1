"""YOLO labels: where those of an image lie, and how they are read for training and scoring."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.limits import MOST_BOXES, MOST_LABEL_BYTES
from utils.text import read_lines, shown

IMAGE_FOLDERS = ("images", "jpegimages")  # in any case; Darknet swaps both for `labels`


class DataError(ValueError):
    """An image, a label or a list is not usable; the message starts with `file:` or `file:line:`."""


@dataclass
class Doubtful:
    """Boxes of label files that someone should look at, counted."""

    without_area: int = 0
    repeated: int = 0
    first: str = ""  # the place of the first, file:line

    def add(self, place: str, without_area: bool, repeated: bool) -> None:
        """Count a box that stands at `place`."""
        self.without_area += without_area
        self.repeated += repeated
        if without_area or repeated:
            self.first = self.first or place

    def describe(self) -> str:
        """The counts in words; "" where there is none."""
        counts = {"without area (left out)": self.without_area,
                  "repeated (kept: each counts in a score)": self.repeated}
        words = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
        return f"boxes: {words}; the first is {self.first}" if words else ""


def label_places(image: Path) -> list[Path]:
    """Where the labels of an image may lie, the likeliest first.

    That is the last folder called `images` or `JPEGImages`, in whatever case, swapped for `labels` (its capitals kept,
    or not), and the image's own folder, where Darknet looks last.
    """
    parts = image.with_suffix(".txt").parts
    swapped = [i for i in range(len(parts) - 1) if parts[i].lower() in IMAGE_FOLDERS]
    if not swapped:
        return [Path(*parts)]
    i = swapped[-1]
    own = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}.get(parts[i], "labels")
    names = dict.fromkeys([own, "labels", "Labels"])
    return [Path(*parts[:i], name, *parts[i + 1:]) for name in names] + [Path(*parts)]


def label_path(image: Path) -> Path:
    """The label file of one image: the first of its places where one is, else the likeliest (many: `LabelFinder`)."""
    places = label_places(image)
    return next((place for place in places if os.path.isfile(place)), places[0])


class LabelFinder:
    """`label_path` for many images: every folder is listed once, instead of asking for each image in each place."""

    def __init__(self):
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, image: Path) -> Path:
        """The label file of an image, or where it would likeliest be."""
        places = label_places(image)
        return next((place for place in places if place.name in self._listing(place.parent)), places[0])

    def _listing(self, folder: Path) -> frozenset[str]:
        """Names of what lies in a folder; empty where it is none."""
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
        return self._names[folder]


def read_labels(path: Path, classes: int, doubtful: Doubtful | None = None) -> np.ndarray:
    """(n, 5) float32 class, cx, cy, w, h in 0..1; empty when there is no file (an image without objects).

    Boxes a little over the edge are clipped, boxes without area are left out. They and repetitions, which stay (as in
    Darknet and in the reference, so that scores compare), are counted in `doubtful`. Raises DataError or TextError.
    """
    try:
        lines = read_lines(path, "labels (class cx cy w h)", most_bytes=MOST_LABEL_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return np.zeros((0, 5), np.float32)
    rows, seen, doubtful = [], set(), Doubtful() if doubtful is None else doubtful
    for line_i, line in enumerate(lines, start=1):
        if words := line.split():
            place = f"{path}:{line_i}"
            row = _read_box(words, classes, place)
            doubtful.add(place, without_area=row is None, repeated=row is not None and row in seen)
            seen.add(row)
            rows += [] if row is None else [row]
            if len(rows) > MOST_BOXES:
                raise DataError(f"{place}: found more than {MOST_BOXES:,} boxes, expected those of one image")
    return np.array(rows, np.float32).reshape(-1, 5)


def _read_box(words: list[str], classes: int, place: str) -> tuple[float, ...] | None:
    """One label line as class, cx, cy, w, h, clipped to the image; None for a box of no area."""
    try:
        label, *box = [float(word) for word in words]
    except ValueError:
        label, box = -1.0, []
    if len(box) != 4 or not np.isfinite(box).all():
        way = "; data/import_dataset.py makes boxes of polygons" * (len(box) > 4)
        raise DataError(f"{place}: found {shown(' '.join(words))}, expected class cx cy w h{way}")
    if label % 1 or not 0 <= label < classes:
        raise DataError(f"{place}: found class {label:g}, expected a whole number from 0 to {classes - 1}")
    if not (-0.5 <= min(box) and max(box) <= 1.5):
        raise DataError(f"{place}: found {shown(' '.join(words))}, expected cx cy w h between 0 and 1 (not in pixels)")
    cx, cy, w, h = box
    x1, x2 = (min(max(x, 0.0), 1.0) for x in (cx - w / 2, cx + w / 2))
    y1, y2 = (min(max(y, 0.0), 1.0) for y in (cy - h / 2, cy + h / 2))
    return (label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) if x2 > x1 and y2 > y1 else None
