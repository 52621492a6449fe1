"""COCO object detection: JSON with images, annotations and categories (cocodataset.org, data format)."""

from collections import defaultdict
from pathlib import Path

from utils.data.annotations import Annotations, Box, Sample, finite, hull, part_of_file, require_pixels
from utils.data.documents import read_json
from utils.data.source import Source
from utils.data.yolo_labels import DataError
from utils.text import is_whole

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
    categories, parents, samples = [], set(), []
    for path in found(source):
        try:
            table = _read_table(path)
            own = _categories(table["categories"], path)
            samples += _samples(table, own, path, source)
        except DataError as error:
            source.faults.add(error)
            continue
        categories += own.items()
        parents |= _parents(table["categories"])
    # Roboflow lists the project itself as a category above the others: where none of all files has a box of it, it is
    # no class
    parents -= {box.name for sample in samples for box in sample.boxes}
    names = list(dict.fromkeys(name for _, name in sorted(categories, key=_id_order)))
    classes = [name for name in names if name not in parents] or names
    gone = sorted(set(names) - set(classes))
    notes = [f"categories above others, without a box, left out: {', '.join(gone)}"] if gone else []
    if source.background is False:
        listed, samples = len(samples), [sample for sample in samples if sample.boxes]
        notes += [f"images without an annotation, left out: {listed - len(samples):,}"] if listed > len(samples) else []
    return Annotations(classes, samples, notes)


def _read_table(path: Path) -> dict:
    table = read_json(path)
    if not isinstance(table, dict) or not all(isinstance(table.get(key), list) for key in NEEDED):
        raise DataError(f"{path}: found {_keys(table)}, expected lists called images, annotations and categories")
    for name, keys in (("images", ("id",)), ("annotations", ("image_id", "category_id")), ("categories", ("id",))):
        for row in table[name]:
            for key in keys:
                if _has_id(row, key):
                    row[key] = _number(row[key])
    return table


def _number(key: int | float | str) -> int | float | str:
    """An id that is a number written as text as that number: some tools write the same id both ways."""
    return int(key) if isinstance(key, str) and is_whole(key) and len(key) < 19 and str(int(key)) == key else key


def _samples(table: dict, categories: dict, path: Path, source: Source) -> list[Sample]:
    """All images of a file with their boxes, but for those at fault."""
    boxes, broken = _boxes(table["annotations"], categories, path, source)
    samples, seen = [], {}
    part, near = part_of_file(path, source.root), picture_folders(path)
    for i, image in enumerate(table["images"]):
        try:
            sample = _sample(image, f"{path}: images[{i}]", seen, near, source, part)
        except DataError as error:
            source.faults.add(error)
            continue
        sample.boxes = boxes.pop(image["id"], [])
        if image["id"] not in broken:
            samples.append(sample)
    for image_id in [key for key, found_boxes in boxes.items() if found_boxes and key not in seen]:
        source.faults.add(f"{path}: annotations: found a {boxes[image_id][0].name} of image {image_id!r}, "
                          "expected an id that is in images")
    require_pixels(samples, f"{path}: annotations")
    return samples


def picture_folders(path: Path) -> list[Path]:
    """Where pictures lie, seen from annotations/instances_train2017.json or train/_annotations.coco.json."""
    name = path.stem.rpartition("_")[2]
    here, above = path.parent, path.parent.parent
    return [here / name, above / name, above / "images" / name, here, here / "images", above / "images", above]


def _has_id(row, key: str) -> bool:
    """Whether a row is an object with an id under `key`."""
    return isinstance(row, dict) and isinstance(row.get(key), IDS)


def _keys(table) -> str:
    return ", ".join(map(str, list(table)[:8])) or "nothing" if isinstance(table, dict) else type(table).__name__


def _categories(rows: list, path: Path) -> dict:
    """Category id -> name."""
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
    return categories


def _id_order(category: tuple) -> tuple:
    """A key that sorts (id, name) by id: numbers, and texts that are such, by value, before other texts."""
    key = category[0]
    if isinstance(key, str) and is_whole(key) and len(key) < 19:
        key = int(key)
    return isinstance(key, str), key


def _parents(rows: list[dict]) -> set[str]:
    """Names of the categories that stand above others, less those that stand above themselves, as COCO's person."""
    above = {(row["supercategory"].strip(), str(row["name"]).strip()) for row in rows
             if isinstance(row.get("supercategory"), str)}
    return {parent for parent, _ in above} - {parent for parent, name in above if parent == name}


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
        x, y, w, h = finite(row["bbox"], 4, f"{place}.bbox")
        if min(w, h) < 0:
            raise DataError(f"{place}.bbox: found a size of {w:g} x {h:g}, expected x, y, width, height in pixels")
        corners = x, y, x + w, y + h
    elif isinstance(segments, list) and segments and all(isinstance(segment, list) for segment in segments):
        points = [value for segment in segments for value in finite(segment, None, f"{place}.segmentation")]
        corners, flags = hull(points, f"{place}.segmentation"), flags + ("polygon",)
    else:
        raise DataError(f"{place}: found no bbox and no polygon, expected bbox: x, y, width, height")
    return Box(categories[category], *corners, flags)


def _sample(row, place: str, seen: dict, near: list[Path], source: Source, part: str | None) -> Sample:
    """A sample without its boxes; `seen` remembers image ids."""
    if not _has_id(row, "id") or not isinstance(row.get("file_name"), str):
        raise DataError(f"{place}: found {str(row)[:80]}, expected id and file_name")
    if row["id"] in seen:
        raise DataError(f"{place}: found the id {row['id']!r} again, expected it once (in {seen[row['id']]})")
    seen[row["id"]] = place
    size = None
    if row.get("width") and row.get("height"):
        size = tuple(finite((row["width"], row["height"]), 2, place))
        if min(size) <= 0:
            raise DataError(f"{place}: found a size of {size[0]:g} x {size[1]:g}, expected pixels")
    return Sample(source.find(row["file_name"], near, f"{place}.file_name", part), [], place, size, part)
