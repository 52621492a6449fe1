"""Pascal VOC: an XML file per picture, in the VOC layout, labelImg's flat folder, or folders named train and valid."""

import os
import re
from collections import defaultdict
from math import cos, sin
from pathlib import Path, PurePosixPath

from utils.data.annotations import (
    BAD_INPUT,
    Annotations,
    Box,
    Sample,
    class_names,
    finite,
    hull,
    part_of_folders,
    require_pixels,
    sorted_corners,
)
from utils.data.documents import Element, read_xml
from utils.data.image_files import IMAGE_SUFFIXES
from utils.data.source import Source
from utils.data.yolo_labels import DataError
from utils.text import read_lines

FLAG_TAGS = ("difficult", "truncated", "occluded")
MAIN_LISTS = {"trainval.txt": "train", "train.txt": "train", "val.txt": "valid", "test.txt": "test"}  # a later one wins


def found(source: Source) -> list[Path]:
    """XML files whose root is an annotation, and files without a byte that lie beside such: annotations cut short."""
    paths = source.with_suffix(".xml")
    annotations = {path for path in paths if _is_annotation(path)}
    folders = {path.parent for path in annotations}
    return [path for path in paths
            if path in annotations or (path.parent in folders and not path.stat().st_size)]


def _is_annotation(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(4096).replace(b"\0", b"")
    return b"<annotation" in head and b"<annotations" not in head


def read(source: Source) -> Annotations:
    """All files; classes in the order of `class_names`."""
    samples, unlisted, stems = [], 0, defaultdict(set)
    for path in (paths := found(source)):
        stems[path.parent].add(path.stem)
    lists = {folder: _image_sets(folder, known) for folder, known in stems.items()}
    for path in paths:
        listed = lists[path.parent]
        if listed and path.stem not in listed:
            unlisted += 1
            continue
        try:
            sample = _sample(path, source)
        except BAD_INPUT as error:
            source.faults.add(error)
            continue
        sample.part = listed[path.stem] if listed else sample.part
        samples.append(sample)
    require_pixels(samples, str(source.path))
    absent = sum(not (folder / f"{stem}.xml").is_file() for folder, listed in lists.items()
                 for stem in listed.keys() - stems[folder])  # where one file was named, the others are there
    notes = [f"annotations in no list of ImageSets/Main, left out: {unlisted:,}"] if unlisted else []
    notes += [f"names in lists of ImageSets/Main without an annotation, left out: {absent:,}"] if absent else []
    return Annotations(class_names(samples), samples + unannotated(source, samples), notes)


def unannotated(source: Source, samples: list[Sample]) -> list[Sample]:
    """Pictures without an annotation, as samples without a box, where that is what they mean (--background)."""
    if not source.background:
        return []
    known = {sample.path for sample in samples}
    return [Sample(path, [], str(path), part=part_of_folders(path, source.root))
            for path in source.pictures if os.path.abspath(path) not in known]


def _image_sets(folder: Path, stems: set[str]) -> dict[str, str]:
    """Stem -> part, from ImageSets/Main beside the folder of XML files, which have `stems`; empty where there is none.

    Without train.txt, val.txt, ... the lists of single classes (hand_train.txt) tell: all of them hold all pictures.
    """
    main = folder.parent / "ImageSets" / "Main"
    parts = {}
    for pattern in ("", "*_"):
        for name, part in MAIN_LISTS.items():
            for path in sorted(main.glob(pattern + name)):
                lines = read_lines(path, "stems of pictures")
                parts |= {_listed_stem(line.strip(), stems): part for line in lines if line.strip()}
        if parts:
            break
    return parts


def _listed_stem(line: str, stems: set[str]) -> str:
    """The stem that a line of a list names, with an ending or not, and with 1, 0 or -1 behind it or not: whether the
    picture shows the list's class, which its annotation tells as well."""
    for text in (line, re.sub(r"\s+(-1|0|1)$", "", line)):
        name = PurePosixPath(text.replace("\\", "/")).name
        stem = PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES | {".xml"} else name
        if stem in stems:
            break
    return stem


def _sample(path: Path, source: Source) -> Sample:
    root = read_xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path}:{root.line}: found <{root.tag}>, expected <annotation>")
    # pixels of the VOC sets count from 1, both ends within the box; labelImg and others write plain coordinates
    database = (root.child("source") or root).value("database") or ""
    offset = 1.0 if "VOC" in database.upper() else 0.0
    boxes = [_box(element, offset, path) for element in root.children if element.tag == "object"]
    part = part_of_folders(path, source.root)
    return Sample(_picture(root, path, source, part), boxes, str(path), _size(root, path), part)


def _picture(root: Element, path: Path, source: Source, part: str | None) -> Path:
    """The picture of the file's own stem (labelImg's rule, right where both were renamed), else the one it names."""
    above = path.parent.parent
    folders = [path.parent, above / "JPEGImages", above / "images", above / "Images", above]
    said = root.value("filename") or ""
    suffixes = dict.fromkeys([Path(said).suffix, ".jpg", ".JPG", *sorted(IMAGE_SUFFIXES)])
    for folder in folders:
        for suffix in suffixes:
            if suffix.lower() in IMAGE_SUFFIXES and (folder / (path.stem + suffix)).is_file():
                return folder / (path.stem + suffix)
    return source.find(said or path.stem, folders, f"{path}:{(root.child('filename') or root).line}", part)


def _size(root: Element, path: Path) -> tuple[float, float] | None:
    """Width and height of <size>; None where it is not there or says 0, as some tools write."""
    size = root.child("size")
    if size is None or not size.value("width") or not size.value("height"):
        return None
    width, height = finite((size.value("width"), size.value("height")), 2, f"{path}:{size.line}: <size>")
    return (width, height) if width > 0 and height > 0 else None


def _box(element: Element, offset: float, path: Path) -> Box:
    """An <object>: bndbox (parts within it have their own, which are none of ours), robndbox or polygon."""
    name = element.value("name")
    if not name:
        raise DataError(f"{path}:{element.line}: found an <object> without a <name>, expected its class")
    flags = tuple(flag for flag in FLAG_TAGS if (element.value(flag) or "0").lower() in ("1", "true"))
    bndbox, rotated, polygon = (element.child(tag) for tag in ("bndbox", "robndbox", "polygon"))
    if rotated is not None:
        return Box(name, *_rotated_hull(rotated, path), flags + ("rotated",))
    if bndbox is not None:
        place = f"{path}:{bndbox.line}: <bndbox>"
        values = [bndbox.value(tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
        x1, y1, x2, y2 = sorted_corners(*finite(values, 4, place))
        return Box(name, x1 - offset, y1 - offset, x2, y2, flags)
    if polygon is not None:
        place = f"{path}:{polygon.line}: <polygon>"
        axes = [[child.text for child in polygon.children if child.tag[:1] == axis] for axis in "xy"]
        points = zip(*(finite(values, None, place) for values in axes))
        return Box(name, *hull([value for point in points for value in point], place), flags + ("polygon",))
    raise DataError(f"{path}:{element.line}: found an <object> without <bndbox>, expected xmin, ymin, xmax, ymax")


def _rotated_hull(element: Element, path: Path) -> tuple[float, float, float, float]:
    """Upright hull of roLabelImg's turned box: centre, size, angle in radians."""
    values = [element.value(tag) for tag in ("cx", "cy", "w", "h", "angle")]
    cx, cy, w, h, angle = finite(values, 5, f"{path}:{element.line}: <robndbox>")
    dx = (abs(w * cos(angle)) + abs(h * sin(angle))) / 2
    dy = (abs(w * sin(angle)) + abs(h * cos(angle))) / 2
    return cx - dx, cy - dy, cx + dx, cy + dy
