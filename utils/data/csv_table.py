"""CSV: one row a box. TensorFlow's header, RetinaNet's rows without one, Open Images' fractions, AutoML's sets."""

import csv
from pathlib import Path
from typing import TextIO

from utils.data.annotations import (
    PART_WORDS,
    Annotations,
    Box,
    Sample,
    class_names,
    finite,
    part_of_file,
    sorted_corners,
)
from utils.data.image_files import IMAGE_SUFFIXES
from utils.data.source import Source
from utils.data.voc import unannotated
from utils.data.yolo_labels import DataError
from utils.text import read_lines

COLUMNS = {  # what is meant: what it is called, in lower case without _ and blanks
    "image": ("filename", "imageid", "image", "imagepath", "imagename", "file", "filepath", "path", "img", "frame"),
    "name": ("class", "labelname", "label", "classname", "category", "name"),
    "x1": ("xmin", "x1", "left"), "y1": ("ymin", "y1", "top"),
    "x2": ("xmax", "x2", "right"), "y2": ("ymax", "y2", "bottom"),
    "width": ("width", "imagewidth", "imgwidth"), "height": ("height", "imageheight", "imgheight"),
    "part": ("split", "set", "subset"),
    "crowd": ("isgroupof", "iscrowd"), "occluded": ("isoccluded", "occluded"),
    "truncated": ("istruncated", "truncated"),
    "depiction": ("isdepiction",), "inside": ("isinside",), "difficult": ("difficult",)}
NEEDED = ("image", "name", "x1", "y1", "x2", "y2")
RETINANET = ("image", "x1", "y1", "x2", "y2", "name")
AUTOML = ("part", "image", "name", "x1", "y1", "", "", "x2", "y2", "", "")
FLAG_COLUMNS = ("crowd", "occluded", "truncated", "depiction", "inside", "difficult")
OPEN_IMAGES = {"imageid", "labelname", "isgroupof"}  # columns that no other table has together


def found(source: Source) -> list[Path]:
    """CSV files with a row a box."""
    return [path for path in source.with_suffix(".csv", ".tsv") if _columns(_first_row(path))]


def read(source: Source) -> Annotations:
    """All files; classes in the order of `class_names`, Open Images' by their descriptions where these are there."""
    descriptions = _descriptions(source)
    samples, notes = [], []
    for path in found(source):
        try:
            table = _Table(path, source, descriptions)
        except DataError as error:
            source.faults.add(error)
            continue
        samples += table.samples()
        if table.absent:
            notes.append(f"{path.name}: pictures that are not here, left out with their boxes: {len(table.absent):,}")
    return Annotations(class_names(samples), samples + unannotated(source, samples), notes)


def _first_row(path: Path) -> list[str]:
    try:
        with _opened(path, errors="replace") as file:  # what it is in shows in its head; the rest is an error when read
            return next(_reader(file), [])
    except csv.Error:
        return []


def _opened(path: Path, errors: str = "strict") -> TextIO:
    with open(path, "rb") as file:
        mark = file.read(2)
    encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return open(path, encoding=encoding, errors=errors, newline="")


def _reader(file: TextIO):
    """Rows of a CSV file; the delimiter is what its first line has most of."""
    delimiter = max(",;\t", key=file.readline().count)
    file.seek(0)
    return csv.reader(file, delimiter=delimiter)


def _columns(row: list[str]) -> dict[str, int] | None:
    """Meaning -> index, from a header, or from the first row of a table that has none; None for another table."""
    heads = [_plain(cell) for cell in row]
    known = {meaning: next((name for name in names if name in heads), None) for meaning, names in COLUMNS.items()}
    columns = {meaning: heads.index(name) for meaning, name in known.items() if name is not None}
    if all(meaning in columns for meaning in NEEDED):
        return columns
    for layout in (RETINANET, AUTOML):
        if len(row) == len(layout) and _names_picture(row[layout.index("image")]):
            return {meaning: i for i, meaning in enumerate(layout) if meaning}
    return None


def _plain(head: str) -> str:
    return head.strip().lower().replace("_", "").replace(" ", "")


def _names_picture(cell: str) -> bool:
    return Path(cell.strip().replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _descriptions(source: Source) -> dict[str, str]:
    """Open Images' class codes (/m/0k65p) -> names, from class-descriptions*.csv."""
    names = {}
    for path in source.files:  # beside the table too, where that alone was named
        name = path.name.lower()
        if name.startswith(("class-descriptions", "oidv")) and name.endswith(".csv") and not _columns(_first_row(path)):
            names |= {row[0]: row[1] for row in csv.reader(read_lines(path, "class codes and names")) if len(row) == 2}
    return names


class _Table:
    """The rows of one file, gathered by picture as they are read."""

    def __init__(self, path: Path, source: Source, descriptions: dict[str, str]):
        self.path, self.source, self.descriptions = path, source, descriptions
        self.found: dict[str, Sample | None] = {}  # by what the table calls a picture; None: not to be had
        self.absent: set[str] = set()
        try:
            with _opened(path) as file:
                self._read(_reader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: found {error}, expected a table in UTF-8") from None

    def samples(self) -> list[Sample]:
        """Samples without a fault; boxes are fractions where all of the table's coordinates lie within 0 and 1."""
        samples = [sample for sample in self.found.values() if sample is not None]
        boxes = [box for sample in samples for box in sample.boxes]
        if self.is_open_images or (boxes and all(0 <= min(box[1:5]) and max(box[1:5]) <= 1 for box in boxes)):
            for sample in samples:
                sample.size = (1.0, 1.0)
        return samples

    def _read(self, rows) -> None:
        first = next(rows)
        columns = _columns(first)
        self.is_open_images = OPEN_IMAGES <= set(map(_plain, first))
        if any(map(_names_picture, first)):  # a table without a header begins with a row
            self._row(first, columns, 1)
        for row in rows:
            if any(cell.strip() for cell in row):
                self._row(row, columns, rows.line_num)

    def _row(self, row: list[str], columns: dict[str, int], line: int) -> None:
        place = f"{self.path}:{line}"
        cells = {meaning: row[i].strip() if i < len(row) else "" for meaning, i in columns.items()}
        name = cells["image"]
        try:
            if name not in self.found:
                self.found[name] = None
                self.found[name] = self._sample(cells, place)
            if self.found[name] is not None and (box := self._box(cells, place)) is not None:
                self.found[name].boxes.append(box)
        except DataError as error:
            self.found[name] = None
            self.source.faults.add(error)

    def _sample(self, cells: dict[str, str], place: str) -> Sample | None:
        near = [self.path.parent, self.path.parent / "images", self.source.root, self.source.root / "images"]
        part = PART_WORDS.get(cells.get("part", "").lower(), part_of_file(self.path, self.source.root))
        try:
            image = self.source.find(cells["image"], near, place, part)
        except DataError:
            if not self.is_open_images:  # whose tables list more pictures than anybody fetches
                raise
            self.absent.add(cells["image"])
            return None
        size = None
        if cells.get("width") and cells.get("height"):
            size = tuple(finite((cells["width"], cells["height"]), 2, place))
        return Sample(image, [], place, size if size and min(size) > 0 else None, part)

    def _box(self, cells: dict[str, str], place: str) -> Box | None:
        """The row's box; None for a row that says that its picture shows nothing."""
        corners = [cells[key] for key in ("x1", "y1", "x2", "y2")]
        if not cells["name"] and not any(corners):
            return None
        if not cells["name"]:
            raise DataError(f"{place}: found a box without a class, expected its name")
        flags = tuple(flag for flag in FLAG_COLUMNS if cells.get(flag, "").lower() in ("1", "true"))
        name = self.descriptions.get(cells["name"], cells["name"])
        return Box(name, *sorted_corners(*finite(corners, 4, place)), flags)
