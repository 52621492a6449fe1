"""Pascal VOC: an XML file per picture, in the VOC layout, labelImg's flat folder, or folders named train and valid."""

from math import cos, sin
from pathlib import Path

from utils.data.annotations import BAD_INPUT, Annotations, Box, Sample, hull, numbers, part_of_folders, sorted_corners
from utils.data.datasets import IMAGE_SUFFIXES
from utils.data.documents import Element, read_xml
from utils.data.source import Source
from utils.data.yolo_labels import DataError
from utils.text import read_lines

FLAGS = ("difficult", "truncated", "occluded")
MAIN_LISTS = {"trainval.txt": "train", "train.txt": "train", "val.txt": "valid", "test.txt": "test"}  # a later one wins


def found(source: Source) -> list[Path]:
    """XML files whose root is an annotation."""
    return [path for path in source.with_suffix(".xml") if _is_annotation(path)]


def _is_annotation(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(4096).replace(b"\0", b"")
    return b"<annotation" in head and b"<annotations" not in head


def read(source: Source) -> Annotations:
    """All files; classes in alphabetical order."""
    samples, unlisted, lists = [], 0, {}
    for path in found(source):
        if path.parent not in lists:
            lists[path.parent] = _image_sets(path.parent)
        listed = lists[path.parent]
        if listed and path.stem not in listed:
            unlisted += 1
            continue
        try:
            sample = _sample(path, source)
        except BAD_INPUT as error:
            source.faults.add(error)
            continue
        sample.part = listed[path.stem] if listed else part_of_folders(path, source.root)
        samples.append(sample)
    notes = [f"annotations in no list of ImageSets/Main, left out: {unlisted:,}"] if unlisted else []
    names = sorted({box.name for sample in samples for box in sample.boxes})
    return Annotations(names, samples + unannotated(source, samples), notes)


def unannotated(source: Source, samples: list[Sample]) -> list[Sample]:
    """Pictures without an annotation, as samples without a box, where that is what they mean (--background)."""
    if not source.background:
        return []
    known = {sample.image for sample in samples}
    return [Sample(path, [], str(path), part=part_of_folders(path, source.root))
            for path in source.pictures if path not in known]


def _image_sets(folder: Path) -> dict[str, str]:
    """Stem -> part, from ImageSets/Main beside the folder of XML files; empty where there is none."""
    parts = {}
    for name, part in MAIN_LISTS.items():
        path = folder.parent / "ImageSets" / "Main" / name
        if path.is_file():
            parts |= {line.strip(): part for line in read_lines(path, "stems of pictures") if line.strip()}
    return parts


def _sample(path: Path, source: Source) -> Sample:
    root = read_xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path}:{root.line}: found <{root.tag}>, expected <annotation>")
    # pixels of the VOC sets count from 1, both ends within the box; labelImg and others write plain coordinates
    database = (root.child("source") or root).value("database") or ""
    offset = 1.0 if "VOC" in database.upper() else 0.0
    boxes = [_box(element, offset, path) for element in root.children if element.tag == "object"]
    return Sample(_picture(root, path, source), boxes, str(path), _size(root, path))


def _picture(root: Element, path: Path, source: Source) -> Path:
    """The picture of the file's own stem (labelImg's rule, right where both were renamed), else the one it names."""
    above = path.parent.parent
    folders = [path.parent, above / "JPEGImages", above / "images", above / "Images", above]
    said = root.value("filename") or ""
    suffixes = dict.fromkeys([Path(said).suffix, ".jpg", ".JPG", *sorted(IMAGE_SUFFIXES)])
    for folder in folders:
        for suffix in suffixes:
            if suffix.lower() in IMAGE_SUFFIXES and (folder / (path.stem + suffix)).is_file():
                return folder / (path.stem + suffix)
    return source.find(said or path.stem, folders, f"{path}:{(root.child('filename') or root).line}")


def _size(root: Element, path: Path) -> tuple[float, float] | None:
    """Width and height of <size>; None where it is not there or says 0, as some tools write."""
    size = root.child("size")
    if size is None or not size.value("width") or not size.value("height"):
        return None
    width, height = numbers((size.value("width"), size.value("height")), 2, f"{path}:{size.line}: <size>")
    return (width, height) if width > 0 and height > 0 else None


def _box(element: Element, offset: float, path: Path) -> Box:
    """An <object>: bndbox (parts within it have their own, which are none of ours), robndbox or polygon."""
    name = element.value("name")
    if not name:
        raise DataError(f"{path}:{element.line}: found an <object> without a <name>, expected its class")
    flags = tuple(flag for flag in FLAGS if (element.value(flag) or "0").lower() in ("1", "true"))
    bndbox, rotated, polygon = (element.child(tag) for tag in ("bndbox", "robndbox", "polygon"))
    if rotated is not None:
        return Box(name, *_rotated_hull(rotated, path), flags + ("rotated",))
    if bndbox is not None:
        place = f"{path}:{bndbox.line}: <bndbox>"
        values = [bndbox.value(tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
        x1, y1, x2, y2 = sorted_corners(*numbers(values, 4, place))
        return Box(name, x1 - offset, y1 - offset, x2, y2, flags)
    if polygon is not None:
        place = f"{path}:{polygon.line}: <polygon>"
        axes = [[child.text for child in polygon.children if child.tag[:1] == axis] for axis in "xy"]
        points = zip(*(numbers(values, None, place) for values in axes))
        return Box(name, *hull([value for point in points for value in point], place), flags + ("polygon",))
    raise DataError(f"{path}:{element.line}: found an <object> without <bndbox>, expected xmin, ymin, xmax, ymax")


def _rotated_hull(element: Element, path: Path) -> tuple[float, float, float, float]:
    """Upright hull of roLabelImg's turned box: centre, size, angle in radians."""
    values = [element.value(tag) for tag in ("cx", "cy", "w", "h", "angle")]
    cx, cy, w, h, angle = numbers(values, 5, f"{path}:{element.line}: <robndbox>")
    dx = (abs(w * cos(angle)) + abs(h * sin(angle))) / 2
    dy = (abs(w * sin(angle)) + abs(h * cos(angle))) / 2
    return cx - dx, cy - dy, cx + dx, cy + dy
