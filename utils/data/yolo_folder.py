"""YOLO labels: a text file a picture, in the layouts of Darknet, ultralytics, Roboflow, CVAT and labelImg."""

from pathlib import Path

from utils.data.annotations import BAD_INPUT, Annotations, Box, Sample, finite, hull, part_of_folders
from utils.data.data_config import parse_data_config, read_options
from utils.data.datasets import IMAGE_SUFFIXES
from utils.data.folders import files_below
from utils.data.source import Source, locate
from utils.data.yolo_labels import DataError, label_path, label_places
from utils.limits import MOST_LABEL_BYTES
from utils.loading import read_names
from utils.parse_config import CfgError
from utils.text import HASH_FIRST, TextError, read_lines, shown

NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt", "labels.txt", "_darknet.labels")
PART_KEYS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}


def found(source: Source) -> list[Path]:
    """What shows that labels are YOLO's: a data file, a list, or the labels of pictures."""
    if source.path.is_file():
        return source.with_suffix(".yaml", ".yml", ".data", ".txt")
    return _data_files(source)[:1] or [label for image in source.pictures[:200] if (label := find_label(image))]


def _data_files(source: Source) -> list[Path]:
    """YAML files with names, and Darknet's .data files, those nearest to the top first."""
    if source.path.is_file():
        return source.with_suffix(".yaml", ".yml", ".data")
    paths = [path for path in source.with_suffix(".yaml", ".yml", ".data") if _describes_data(path)]
    return sorted(paths, key=lambda path: (len(path.parts), path))


def _describes_data(path: Path) -> bool:
    try:
        options = read_options(path)
    except (CfgError, TextError):
        return False
    return "names" in options and any(key in options for keys in PART_KEYS.values() for key in keys)


def read(source: Source) -> Annotations:
    """All pictures of the source's lists, else all pictures; those without a label file show no object."""
    data_file = next(iter(_data_files(source)), None)
    options = read_options(data_file) if data_file else {}
    names = _names(options, data_file, source)
    pictures = _listed_pictures(options, data_file, source)
    notes = []
    if not pictures:
        pictures = [(path, part_of_folders(path, source.root)) for path in source.pictures]
        if data_file:
            notes.append(f"{data_file.name} names no list or folder that is there: all pictures below it are taken")
    samples, unlabelled = [], 0
    for image, part in pictures:
        label = find_label(image)
        unlabelled += label is None
        if label is None and source.background is False:
            continue
        try:
            boxes = read_label(label, names, "kpt_shape" in options) if label else []
        except BAD_INPUT as error:
            source.faults.add(error)
            continue
        samples.append(Sample(image, boxes, str(label or image), (1.0, 1.0), part))
    if pictures and unlabelled == len(pictures):
        raise DataError(f"{source.path}: found no label file for {len(pictures):,} pictures, expected one such as "
                        f"{label_path(pictures[0][0])}")
    if unlabelled and source.background is not False:
        notes.append(f"pictures without a label file, as background (--no-background leaves them out): {unlabelled:,}")
    return Annotations(names or _numbered(samples), samples, notes)


def _numbered(samples: list[Sample]) -> list[str]:
    """class0, class1, ... up to the highest that a box is of."""
    highest = max((int(box.name[5:]) for sample in samples for box in sample.boxes), default=0)
    return [f"class{i}" for i in range(highest + 1)]


def _names(options: dict, data_file: Path | None, source: Source) -> list[str]:
    """Class names by number: of the data file, the file it names, or a file such as classes.txt; empty without any."""
    if "names" in options:
        named = options["names"]
        folders = [data_file.parent, data_file.parent.parent, Path()]
        return list(parse_data_config(data_file, locate(named, folders) if isinstance(named, str) else None).names)
    paths = [path for path in source.files if path.name.lower() in NAME_FILES or path.suffix.lower() == ".names"]
    return read_names(paths[0]) if paths else []


def _listed_pictures(options: dict, data_file: Path | None, source: Source) -> list[tuple[Path, str]]:
    """(picture, part) of the lists and folders that the data file names, or of train.txt, valid.txt, ... beside it."""
    here = data_file.parent if data_file else source.root
    bases = ([here / str(options["path"])] if options.get("path") else []) + [here, here.parent, Path()]
    pictures = []
    for part, keys in PART_KEYS.items():
        values = [options[key] for key in keys if options.get(key)] if options else [f"{key}.txt" for key in keys]
        for value in [item for value in values for item in (value if isinstance(value, list) else [value])]:
            path = locate(str(value), bases) if options else here / value
            if path is not None and path.exists():
                pictures += [(image, part) for image in _pictures_of(path, source)]
    if not pictures and source.path.suffix.lower() == ".txt":
        pictures = [(image, None) for image in _pictures_of(source.path, source)]
    return [(image, part) for (image, part) in dict.fromkeys(pictures)]


def _pictures_of(path: Path, source: Source) -> list[Path]:
    """Pictures of a folder or of a list file; what is missing is a fault."""
    if path.is_dir():
        return files_below(path, IMAGE_SUFFIXES).files
    pictures = []
    for i, line in enumerate(read_lines(path, "a list of images", HASH_FIRST), start=1):
        if not line.strip() or line.lstrip()[0] == "#":
            continue
        image = locate(line, [path.parent, source.root, path.parent.parent, Path()])
        if image is None or not image.is_file():
            source.faults.add(f"{path}:{i}: found {shown(line.strip())}, which is not there, expected a picture")
        else:
            pictures.append(image)
    return pictures


def find_label(image: Path) -> Path | None:
    """The label file of a picture: in `labels` beside `images` (or JPEGImages), else beside the picture."""
    return next((path for path in label_places(image) if path.is_file()), None)


def read_label(path: Path, names: list[str], has_keypoints: bool = False) -> list[Box]:
    """Boxes of a label file, as fractions: `class cx cy w h` (keypoints may follow) or a polygon `class x y x y ...`.

    Without names, classes are called class0, class1, ... Raises DataError.
    """
    boxes = []
    for i, line in enumerate(read_lines(path, "labels (class cx cy w h)", most_bytes=MOST_LABEL_BYTES), start=1):
        if line.strip():
            boxes.append(_read_line(line.split(), names, has_keypoints, f"{path}:{i}"))
    return boxes


def _read_line(words: list[str], names: list[str], has_keypoints: bool, place: str) -> Box:
    label, *values = finite(words, None, place)
    if label % 1 or label < 0 or (names and label >= len(names)):
        highest = f" to {len(names) - 1}" * bool(names)
        raise DataError(f"{place}: found class {label:g}, expected a whole number from 0{highest}")
    if has_keypoints and len(values) > 4:
        values = values[:4]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(f"{place}: found {len(values)} numbers after the class, expected cx cy w h, or x and y of "
                        "three or more points")
    if not all(-0.5 <= value <= 1.5 for value in values):
        raise DataError(f"{place}: found {shown(' '.join(words))}, expected fractions of the image, not pixels")
    if len(values) == 4:
        cx, cy, w, h = values
        corners, flags = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), ()
    else:
        corners, flags = hull(values, place), ("rotated" if len(values) == 8 else "polygon",)
    return Box(names[int(label)] if names else f"class{int(label)}", *corners, flags)
