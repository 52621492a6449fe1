"""COCO object detection: JSON with images, annotations and categories (cocodataset.org, data format)."""

from collections import defaultdict
from pathlib import Path

from utils.data.annotations import Annotations, Box, Sample, hull, numbers, part_of_file
from utils.data.documents import read_json
from utils.data.source import Source
from utils.data.yolo_labels import DataError

NEEDED = {"images", "annotations", "categories"}
IDS = (int, float, str)  # as pandas writes them: 1.0 is 1
FLAG_KEYS = {"iscrowd": "crowd", "ignore": "crowd", "difficult": "difficult", "truncated": "truncated",
             "occluded": "occluded"}


def found(source: Source) -> list[Path]:
    """The JSON files that hold boxes: instances_*.json where there are such (others of COCO's repeat their images)."""
    paths = [path for path in source.with_suffix(".json") if is_coco(path)]
    return [path for path in paths if path.name.startswith("instances_")] or paths


def is_coco(path: Path) -> bool:
    """Whether a JSON file looks like COCO's: by its beginning and its end."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
        file.seek(max(path.stat().st_size - (1 << 16), 0))
        text = (head + file.read()).replace(b"\0", b"")
    keys = [b'"images"', b'"annotations"', b'"categories"', b'"file_name"', b'"image_id"', b'"category_id"']
    return b'"shapes"' not in head and sum(key in text for key in keys) > 1


def read(source: Source) -> Annotations:
    """All files in one: categories by name, in the order of their ids."""
    names, samples, notes = [], [], []
    for path in found(source):
        try:
            found_names, found_samples = _read_file(path, source)
        except DataError as error:
            source.faults.add(error)
            continue
        names = list(dict.fromkeys([*names, *found_names]))
        samples += found_samples
    return Annotations(names, samples, notes)


def _read_file(path: Path, source: Source) -> tuple[list[str], list[Sample]]:
    table = read_json(path)
    if not isinstance(table, dict) or not all(isinstance(table.get(key), list) for key in NEEDED):
        raise DataError(f"{path}: found {_keys(table)}, expected lists called images, annotations and categories")
    categories = _categories(table["categories"], path)
    boxes, broken = _boxes(table["annotations"], categories, path, source)
    samples, seen = [], {}
    part, near = part_of_file(path, source.root), picture_folders(path)
    for i, image in enumerate(table["images"]):
        try:
            sample = _sample(image, f"{path}: images[{i}]", seen, near, source)
        except DataError as error:
            source.faults.add(error)
            continue
        sample.boxes, sample.part = boxes.pop(image["id"], []), part
        if image["id"] not in broken:
            samples.append(sample)
    for image_id in [key for key, found_boxes in boxes.items() if found_boxes and key not in seen]:
        source.faults.add(f"{path}: annotations: found a {boxes[image_id][0].name} of image {image_id!r}, "
                          "expected an id that is in images")
    return _used_names(table["categories"], categories, table["annotations"]), samples


def picture_folders(path: Path) -> list[Path]:
    """Where pictures lie, seen from annotations/instances_train2017.json or train/_annotations.coco.json."""
    name = path.stem.rpartition("_")[2]
    above = path.parent.parent
    return [path.parent, path.parent / "images", above / name, above / "images" / name, above / "images", above]


def _has_id(row, key: str) -> bool:
    """Whether a row is an object with an id under `key`."""
    return isinstance(row, dict) and isinstance(row.get(key), IDS)


def _keys(table) -> str:
    return ", ".join(map(str, list(table)[:8])) or "nothing" if isinstance(table, dict) else type(table).__name__


def _categories(rows: list, path: Path) -> dict:
    """Category id -> name, ascending by id."""
    categories = {}
    for i, row in enumerate(rows):
        if not _has_id(row, "id") or not str(row.get("name", "")).strip():
            raise DataError(f"{path}: categories[{i}]: found {row!r}, expected id and name")
        name = str(row["name"]).strip()
        if categories.setdefault(row["id"], name) != name:
            raise DataError(f"{path}: categories[{i}]: found the id {row['id']} again, of {name}, expected it once "
                            f"(of {categories[row['id']]})")
    if not categories:
        raise DataError(f"{path}: categories: found none, expected at least one")
    return dict(sorted(categories.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _used_names(rows: list[dict], categories: dict, annotations: list) -> list[str]:
    """Names in order. Roboflow lists the project itself as a category above the others: without a box, it is none."""
    used = {str(row.get("category_id")) for row in annotations if isinstance(row, dict)}
    above = {str(row.get("supercategory")) for row in rows}
    names = [name for key, name in categories.items() if str(key) in used or name not in above]
    return list(dict.fromkeys(names or categories.values()))


def _boxes(rows: list, categories: dict, path: Path, source: Source) -> tuple[dict, set]:
    """Boxes by image id, and the ids of images one of whose annotations is at fault."""
    boxes, broken = defaultdict(list), set()
    for i, row in enumerate(rows):
        place = f"{path}: annotations[{i}]"
        try:
            if not _has_id(row, "image_id"):
                raise DataError(f"{place}: found {str(row)[:80]}, expected image_id, category_id and bbox")
            boxes[row["image_id"]].append(_box(row, categories, place))
        except DataError as error:
            source.faults.add(error)
            broken.add(row["image_id"] if _has_id(row, "image_id") else None)
    return boxes, broken


def _box(row: dict, categories: dict, place: str) -> Box:
    category = row.get("category_id")
    if not isinstance(category, IDS) or category not in categories:
        raise DataError(f"{place}.category_id: found {category!r}, expected one of {str(list(categories))[:80]}")
    flags = tuple(dict.fromkeys(flag for key, flag in FLAG_KEYS.items() if str(row.get(key)).lower() in ("1", "true")))
    segments = row.get("segmentation")
    if row.get("bbox") not in (None, []):
        x, y, w, h = numbers(row["bbox"], 4, f"{place}.bbox")
        if min(w, h) < 0:
            raise DataError(f"{place}.bbox: found a size of {w:g} x {h:g}, expected x, y, width, height in pixels")
        corners = x, y, x + w, y + h
    elif isinstance(segments, list) and segments and all(isinstance(segment, list) for segment in segments):
        points = [value for segment in segments for value in numbers(segment, None, f"{place}.segmentation")]
        corners, flags = hull(points, f"{place}.segmentation"), flags + ("polygon",)
    else:
        raise DataError(f"{place}: found no bbox and no polygon, expected bbox: x, y, width, height")
    return Box(categories[category], *corners, flags)


def _sample(row, place: str, seen: dict, near: list[Path], source: Source) -> Sample:
    """A sample without its boxes; `seen` remembers image ids."""
    if not _has_id(row, "id") or not isinstance(row.get("file_name"), str):
        raise DataError(f"{place}: found {str(row)[:80]}, expected id and file_name")
    if row["id"] in seen:
        raise DataError(f"{place}: found the id {row['id']!r} again, expected it once (in {seen[row['id']]})")
    seen[row["id"]] = place
    size = None
    if row.get("width") and row.get("height"):
        size = tuple(numbers((row["width"], row["height"]), 2, place))
        if min(size) <= 0:
            raise DataError(f"{place}: found a size of {size[0]:g} x {size[1]:g}, expected pixels")
    return Sample(source.find(row["file_name"], near, f"{place}.file_name"), [], place, size)
