"""What every format is read into: pictures with named boxes, and the faults met on the way."""

import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from utils.data.yolo_labels import DataError
from utils.text import TextError, is_whole, shown

# what a source may say of a box, whatever it calls it: COCO iscrowd and Open Images IsGroupOf are "crowd"
FLAGS = ("crowd", "difficult", "truncated", "occluded", "depiction", "inside", "rotated", "polygon")
PARTS = ("train", "valid", "test")
BAD_INPUT = (DataError, TextError)  # what a reader raises for one file or row
PART_WORDS = {"train": "train", "training": "train", "trainval": "train", "valid": "valid", "val": "valid",
              "validation": "valid", "validate": "valid", "dev": "valid", "test": "test", "testing": "test"}


class Box(NamedTuple):
    """An upright box: class name, corners in the units of its sample's frame, x to the right, y down."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    flags: tuple[str, ...] = ()


@dataclass
class Sample:
    """A picture and its boxes."""

    image: Path
    boxes: list[Box]
    place: str  # where the source speaks of it, for messages
    size: tuple[float, float] | None = None  # width, height of the boxes' frame; (1, 1): fractions; None: the picture's
    part: str | None = None  # the source's own split: train, valid, test
    group: str | None = None  # what has to stay on one side of a split, where the format knows it

    @property
    def path(self) -> str:
        """The picture's path in one spelling: annotations may say ../images/1.jpg of it."""
        return os.path.abspath(self.image)


@dataclass
class Annotations:
    """All samples of a source and its classes in order."""

    names: list[str]
    samples: list[Sample]
    notes: list[str] = field(default_factory=list)  # what was decided for the reader of the report to know


class Faults:
    """Counts what is wrong with a source, one line each on stderr."""

    SHOWN = 20
    MOST = 1000  # then it is over, unless faults are skipped

    def __init__(self, skip_bad: bool = False):
        self.skip_bad, self.count, self.first = skip_bad, 0, ""

    def add(self, error: Exception | str) -> None:
        """One more fault; its image is left out."""
        self.count += 1
        self.first = self.first or str(error).partition(": ")[0]
        if self.count <= self.SHOWN:
            print(("left out: " if self.skip_bad else "") + " ".join(str(error).split()), file=sys.stderr)
        elif self.count == self.SHOWN + 1:
            print("... further faults are counted, not shown", file=sys.stderr)
        if self.count >= self.MOST:
            self.stop()

    def stop(self) -> None:
        """Raise DataError if there was a fault and faults are not to be skipped."""
        if self.count and not self.skip_bad:
            faults = "1 fault" if self.count == 1 else f"{self.count:,} faults"
            raise DataError(f"found {faults} (above, from {self.first} on), expected none; nothing was imported: mend "
                            "the source, or leave such pictures out with --skip-bad")


def class_names(samples: list[Sample]) -> list[str]:
    """The classes of all boxes in alphabetical order, those that are numbers first and by their value."""
    def key(name: str) -> tuple:
        digits = name.lstrip("0") if is_whole(name) else ""
        return not is_whole(name), len(digits), digits, name

    return sorted({box.name for sample in samples for box in sample.boxes}, key=key)


def require_pixels(samples: list[Sample], place: str) -> None:
    """Raise DataError where all boxes lie within 0 and 1: fractions, in a format that counts pixels."""
    corners = (corner for sample in samples for box in sample.boxes for corner in box[1:5])
    if any(sample.boxes for sample in samples) and all(0 <= corner <= 1 for corner in corners):
        raise DataError(f"{place}: found boxes whose corners all lie within 0 and 1, expected pixels; multiply them by "
                        "the width and height of their pictures")


def finite(values, count: int | None, place: str) -> list[float]:
    """Numbers or their texts as `count` floats (None: any count). Raises DataError where one is not finite."""
    try:
        found = [float(value) for value in values] if not isinstance(values, (str, dict)) else [math.nan]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if not all(map(math.isfinite, found)) or count not in (None, len(found)):
        raise DataError(f"{place}: found {shown(values)}, expected {count if count is not None else 'finite'} numbers")
    return found


def hull(xy: list[float], place: str) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around points x, y, x, y, ... Raises DataError unless they are pairs."""
    if len(xy) < 4 or len(xy) % 2:
        raise DataError(f"{place}: found {len(xy)} coordinates, expected at least two points, x and y each")
    return min(xy[::2]), min(xy[1::2]), max(xy[::2]), max(xy[1::2])


def sorted_corners(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    """Opposite corners in any order -> x1 <= x2, y1 <= y2."""
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def part_of_folders(path: Path, root: Path) -> str | None:
    """The split that a folder between `root` and the file is named after: train, val2017, test-images."""
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else path.parts[-2:-1]
    for name in reversed(folders):
        match = re.fullmatch(r"(?:images?[_-]?)?([a-z]+?)(?:[_-]?(?:set|data|images?|\d{4}))?", name.lower())
        if match and match[1] in PART_WORDS:
            return PART_WORDS[match[1]]
    return None


def part_of_file(path: Path, root: Path) -> str | None:
    """The split that a file's name or folder speaks of: instances_val2017.json, test/_annotations.csv."""
    words = [PART_WORDS[word] for word in re.findall(r"[a-z]+", path.stem.lower()) if word in PART_WORDS]
    return words[-1] if words else part_of_folders(path, root)
