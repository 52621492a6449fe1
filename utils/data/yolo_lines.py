"""Lines of YOLO label files as other tools write them: boxes, polygons, and boxes with keypoints behind them."""

from collections import Counter
from pathlib import Path

from utils.data.annotations import Box, finite, hull
from utils.data.yolo_labels import DataError
from utils.limits import MOST_LABEL_BYTES
from utils.text import is_whole, read_lines, shown

INSIDE = 0.02  # how far, as a fraction of the picture, a keypoint may lie outside its box
REMEDY = "leave out confidences and track numbers; for keypoints, the data's YAML needs kpt_shape"


class LabelLines:
    """Reads the label files of one set, and counts what tells whether their longer lines are polygons.

    keypoints: how many numbers follow a box, 0 where none do. Polygons have no other mark than the count of their
    numbers, which boxes with two keypoints, or with a confidence and a track number, have as well.
    """

    def __init__(self, keypoints: int = 0):
        self.keypoints, self.with_keypoints = keypoints, 0
        self._lengths, self._are_polygons, self._first = Counter(), False, ""

    def read(self, path: Path, names: list[str]) -> list[Box]:
        """Boxes of a label file, as fractions: `class cx cy w h` (keypoints may follow) or `class x y x y x y ...`.

        Without names, classes are called class0, class1, ... Raises DataError or TextError.
        """
        lines = enumerate(read_lines(path, "labels (class cx cy w h)", most_bytes=MOST_LABEL_BYTES), start=1)
        return [self._read_line(line.split(), names, f"{path}:{i}") for i, line in lines if line.strip()]

    def require_polygons(self) -> None:
        """Raise DataError where every line that was read as a polygon could be a box with something behind it: all are
        of one length, and their first four numbers are a box that holds what follows."""
        if len(self._lengths) == 1 and not self._are_polygons:
            (length, count), = self._lengths.items()
            raise DataError(f"{self._first}: found {length} numbers after the class in each of {count:,} lines, which "
                            f"may be boxes with keypoints or a confidence; expected class cx cy w h ({REMEDY}), or "
                            "polygons that can be told from such: repeat their first point at their end")

    def _read_line(self, words: list[str], names: list[str], place: str) -> Box:
        label, *values = finite(words, None, place)
        if label % 1 or label < 0 or (names and label >= len(names)):
            highest = f" to {len(names) - 1}" * bool(names)
            raise DataError(f"{place}: found class {label:g}, expected a whole number from 0{highest}")
        if self.keypoints and len(values) == 4 + self.keypoints:
            self.with_keypoints += 1
            values = values[:4]
        self._require_count(len(values), place)
        if not all(-0.5 <= value <= 1.5 for value in values):
            raise DataError(f"{place}: found {shown(' '.join(words))}, expected fractions of the image, not pixels"
                            + f" ({REMEDY})" * (len(values) > 4))
        name = names[int(label)] if names else f"class{int(label)}"
        if len(values) == 4:
            cx, cy, w, h = values
            return Box(name, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        self._lengths[len(values)] += 1
        self._are_polygons |= not may_be_box(values)
        self._first = self._first or place
        return Box(name, *hull(values, place), ("rotated" if len(values) == 8 else "polygon",))

    def _require_count(self, count: int, place: str) -> None:
        """Raise DataError unless so many numbers are a box, or a polygon in a set without keypoints."""
        if self.keypoints and count != 4:
            raise DataError(f"{place}: found {count} numbers after the class, expected 4, or {4 + self.keypoints} as "
                            "kpt_shape says")
        if count != 4 and (count < 6 or count % 2):
            raise DataError(f"{place}: found {count} numbers after the class, expected cx cy w h, or x and y of three "
                            f"or more points; {REMEDY}")


def may_be_box(values: list[float]) -> bool:
    """Whether a polygon's numbers x, y, x, y, ... may be cx, cy, w, h with something behind: points within that box,
    with 0, 1 or 2 for how visible each is or without, or a confidence and a track number."""
    cx, cy, w, h, *more = values
    x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    if values[:2] == values[-2:] or min(w, h) <= 0 or min(x1, y1) < -INSIDE or max(x2, y2) > 1 + INSIDE:
        return False

    def inside(x: float, y: float) -> bool:
        return x == y == 0 or (x1 - INSIDE <= x <= x2 + INSIDE and y1 - INSIDE <= y <= y2 + INSIDE)

    pairs = all(map(inside, more[::2], more[1::2]))
    triples = len(more) % 3 == 0 and set(more[2::3]) <= {0, 1, 2} and all(map(inside, more[::3], more[1::3]))
    return pairs or triples or (len(more) == 2 and more[1] % 1 == 0)


def keypoint_numbers(shape: object, place: str) -> int:
    """How many numbers follow a box by `kpt_shape: [points, 2 or 3]`; None: none. Raises DataError."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, str) and is_whole(n) and len(n) < 7
                                                                 for n in shape):
        raise DataError(f"{place}: found kpt_shape {shown(shape)}, expected how many keypoints of how many numbers, "
                        "such as [17, 3]")
    return int(shape[0]) * int(shape[1])
