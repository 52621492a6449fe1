"""LabelMe: a JSON file a picture, with shapes (rectangle, polygon, circle, turned rectangle)."""

from collections import Counter
from math import hypot
from pathlib import Path

from utils.data.annotations import Annotations, Box, Sample, class_names, finite, hull, part_of_folders, require_pixels
from utils.data.documents import read_json
from utils.data.source import Source
from utils.data.voc import unannotated
from utils.data.yolo_labels import DataError

TURNED = ("rotation", "oriented_rectangle", "rotated_rectangle")
HULLS = ("rectangle", "polygon", "linestrip", "mask", *TURNED)
WITHOUT_AREA = ("point", "points", "line")
NO_AREA = "points and lines, which have no area, left out"
JOINED = "shapes joined to another of their label and group_id, one box around all"


def found(source: Source) -> list[Path]:
    """JSON files with shapes."""
    return [path for path in source.with_suffix(".json") if is_labelme(path)]


def is_labelme(path: Path) -> bool:
    """Whether a JSON file looks like LabelMe's: by its beginning and its end, for the picture may be within it."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
        file.seek(max(path.stat().st_size - (1 << 16), 0))
        text = (head + file.read()).replace(b"\0", b"")
    return b'"shapes"' in text and b'"categories"' not in text


def read(source: Source) -> Annotations:
    """All files; classes in the order of `class_names`."""
    samples, counts = [], Counter()
    for path in found(source):
        try:
            samples.append(_sample(path, source, counts))
        except DataError as error:
            source.faults.add(error)
    require_pixels(samples, f"{source.path}: shapes")
    notes = [f"{what}: {counts[what]:,}" for what in (NO_AREA, JOINED) if counts[what]]
    return Annotations(class_names(samples), samples + unannotated(source, samples), notes)


def _sample(path: Path, source: Source, counts: Counter) -> Sample:
    """The sample of a file. `counts` gains the shapes without area and those that were joined."""
    table = read_json(path)
    if not isinstance(table, dict) or not isinstance(table.get("shapes"), list):
        raise DataError(f"{path}: found no list called shapes, expected LabelMe's JSON")
    size = None
    if table.get("imageWidth") and table.get("imageHeight"):
        size = tuple(finite((table["imageWidth"], table["imageHeight"]), 2, f"{path}: imageWidth, imageHeight"))
    objects = {}
    for i, shape in enumerate(table["shapes"]):
        kind = shape.get("shape_type") or "polygon" if isinstance(shape, dict) else None
        if kind in WITHOUT_AREA:
            counts[NO_AREA] += 1
            continue
        box = _box(shape, kind, f"{path}: shapes[{i}]")
        # shapes of one label and group_id are pieces of one object; some tools write "" where there is no group
        key = (box.name, str(shape["group_id"])) if shape.get("group_id") not in (None, "") else i
        counts[JOINED] += key in objects
        objects[key] = _joined(objects[key], box) if key in objects else box
    part = part_of_folders(path, source.root)
    return Sample(_picture(table, path, source, part), list(objects.values()), str(path), size, part)


def _picture(table: dict, path: Path, source: Source, part: str | None) -> Path:
    said, place = table.get("imagePath"), f"{path}: imagePath"
    try:
        return source.find(said if isinstance(said, str) and said else path.stem, [path.parent], place, part)
    except DataError:
        return source.find(path.stem, [path.parent], place, part)


def _box(shape, kind: str, place: str) -> Box:
    named = isinstance(shape, dict) and str(shape.get("label") or "").strip()
    if not named or not isinstance(shape.get("points"), list):
        raise DataError(f"{place}: found {str(shape)[:80]}, expected label and points")
    points = [value for i, point in enumerate(shape["points"]) for value in finite(point, 2, f"{place}.points[{i}]")]
    if kind == "circle" and len(points) == 4:
        x, y, radius = points[0], points[1], hypot(points[2] - points[0], points[3] - points[1])
        corners = x - radius, y - radius, x + radius, y + radius
    elif kind in HULLS:
        corners = hull(points, f"{place}.points")
    else:
        raise DataError(f"{place}.shape_type: found {kind!r}, expected one of circle, {', '.join(HULLS)}")
    flags = ("rotated",) if kind in TURNED else () if kind in ("rectangle", "mask") else ("polygon",)
    return Box(str(shape["label"]).strip(), *corners, flags + ("difficult",) * bool(shape.get("difficult")))


def _joined(one: Box, other: Box) -> Box:
    """The box around two."""
    corners = min(one.x1, other.x1), min(one.y1, other.y1), max(one.x2, other.x2), max(one.y2, other.y2)
    return Box(one.name, *corners, one.flags)
