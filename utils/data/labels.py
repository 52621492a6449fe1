"""Samples -> YOLO labels: boxes as fractions of the picture as it is written, clipped, and what was wrong counted."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from utils.data.annotations import Box, Sample
from utils.data.pictures import Picture
from utils.data.yolo_labels import DataError
from utils.limits import MOST_BOXES

MIN_SIDE_PX = 1e-3  # a box thinner than this has no area
BORDER_PX = 0.01  # how far over the border is rounding
SHAPE_TOLERANCE = 0.02  # how far two aspect ratios may be apart to be one picture at two sizes


class Row(NamedTuple):
    """A label: class name, centre and size as fractions of the picture."""

    name: str
    cx: float
    cy: float
    w: float
    h: float


@dataclass
class Entry:
    """A picture of the new set."""

    sample: Sample
    picture: Picture
    rows: list[Row]
    as_stored: bool  # its boxes belong to the picture without its EXIF turn
    name: str = ""  # file name in images/
    part: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels as written."""
        return self.picture.stored if self.as_stored else (self.picture.width, self.picture.height)


def fit(sample: Sample, picture: Picture, exif: str, counts: Counter) -> Entry:
    """The labels of a sample. `counts` gains what was mended: clipped, outside, empty, repeated, resized, turned.

    exif: boxes belong to the picture as "shown" or as "stored"; "auto": as the annotated size tells, else as shown.
    Raises DataError when the picture has another shape than was annotated.
    """
    as_stored = picture.turned and (exif == "stored" or (exif == "auto" and _is_stored_size(sample, picture)))
    entry = Entry(sample, picture, [], as_stored)
    width, height = frame = sample.size or entry.size
    if frame not in ((1.0, 1.0), entry.size):
        _check_shape(sample, frame, entry.size)
        counts["resized"] += 1
    counts["turned"] += as_stored
    if len(sample.boxes) > MOST_BOXES:
        raise DataError(f"{sample.place}: found {len(sample.boxes):,} boxes for {sample.image}, expected at most "
                        f"{MOST_BOXES:,}")
    seen = set()
    for box in sample.boxes:
        row = _row(box, width, height, entry.size, counts)
        if row is not None:
            counts["repeated"] += row in seen
            seen.add(row)
            entry.rows.append(row)
    return entry


def _is_stored_size(sample: Sample, picture: Picture) -> bool:
    return sample.size == picture.stored != (picture.width, picture.height)


def _check_shape(sample: Sample, frame: tuple[float, float], size: tuple[int, int]) -> None:
    """Raise DataError unless two sizes are of one picture, shrunk or grown."""
    across, down = size[0] / frame[0], size[1] / frame[1]
    if abs(across - down) > SHAPE_TOLERANCE * max(across, down):
        raise DataError(f"{sample.place}: found an annotated size of {frame[0]:g} x {frame[1]:g} where {sample.image} "
                        f"has {size[0]} x {size[1]} pixels, expected one shape")


def _row(box: Box, width: float, height: float, pixels: tuple[int, int], counts: Counter) -> Row | None:
    """Fractions of a box, clipped; None where nothing is left of it."""
    x1, x2, y1, y2 = box.x1 / width, box.x2 / width, box.y1 / height, box.y2 / height
    if min((x2 - x1) * pixels[0], (y2 - y1) * pixels[1]) < MIN_SIDE_PX:
        counts["empty"] += 1
        return None
    over = max(-x1 * pixels[0], (x2 - 1) * pixels[0], -y1 * pixels[1], (y2 - 1) * pixels[1])
    x1, x2, y1, y2 = (min(max(value, 0.0), 1.0) for value in (x1, x2, y1, y2))
    if min((x2 - x1) * pixels[0], (y2 - y1) * pixels[1]) < MIN_SIDE_PX:
        counts["outside"] += 1
        return None
    counts["clipped"] += over > BORDER_PX
    return Row(box.name, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)


def label_text(rows: list[Row], names: list[str]) -> str:
    """A label file: `class cx cy w h` a line."""
    number = {name: i for i, name in enumerate(names)}
    return "".join(f"{number[row.name]} {row.cx:.8f} {row.cy:.8f} {row.w:.8f} {row.h:.8f}\n" for row in rows)
