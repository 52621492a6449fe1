"""YOLO labels: a text file a picture, in the layouts of Darknet, ultralytics, Roboflow, CVAT and labelImg."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Callable, NamedTuple

from utils.class_names import numbered_names, read_names
from utils.data.annotations import BAD_INPUT, Annotations, Sample, part_of_folders
from utils.data.data_config import PART_KEYS, parse_data_config, read_options
from utils.data.folders import files_below
from utils.data.image_files import IMAGE_SUFFIXES
from utils.data.source import Source, locate
from utils.data.yolo_labels import DataError, label_path, label_places
from utils.data.yolo_lines import LabelLines, keypoint_numbers
from utils.text import HASH_FIRST, CfgError, TextError, read_lines, shown

NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt", "labels.txt", "_darknet.labels")


class YoloSet(NamedTuple):
    """What one data file describes. names: empty where it names none; missing: parts, and the lists and folders that
    are named for them and not there; faults: entries of lists that are not there."""

    file: Path | None
    names: list[str]
    pictures: list[tuple[Path, str | None]]  # with their parts
    keypoints: int = 0  # numbers that follow a box
    missing: tuple[tuple[str, str], ...] = ()
    faults: tuple[str, ...] = ()


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
    notes, samples, unlabelled = [], [], 0
    sets, classes = _sets(source, notes), ClassNames(source)
    for one in sets:
        lines = LabelLines(one.keypoints)
        for image, part in one.pictures:
            label = find_label(image)
            unlabelled += label is None
            if label is None and source.background is False:
                continue
            names = one.names or (classes.of(label, image) if label else [])
            try:
                boxes = lines.read(label, names) if label else []
            except BAD_INPUT as error:
                source.faults.add(error)
                continue
            samples.append(Sample(image, boxes, str(label or image), (1.0, 1.0), part))
        lines.require_polygons()
        notes += [f"boxes whose keypoints were left out: {lines.with_keypoints:,}"] * bool(lines.with_keypoints)
    pictures = [image for one in sets for image, _ in one.pictures]
    if pictures and unlabelled == len(pictures):
        raise DataError(f"{source.path}: found no label file for {len(pictures):,} pictures, expected one such as "
                        f"{label_path(pictures[0])}")
    if unlabelled and source.background is not False:
        notes.append(f"pictures without a label file, as background (--no-background leaves them out): {unlabelled:,}")
    return Annotations(sets[0].names or classes.used() or _numbered(samples), samples, notes + classes.notes())


def _numbered(samples: list[Sample]) -> list[str]:
    """class0, class1, ... up to the highest that a box is of."""
    highest = max((int(box.name[5:]) for sample in samples for box in sample.boxes), default=0)
    return list(numbered_names(highest + 1))


# ---- classes

class ClassNames:
    """Class names by number from files such as classes.txt, of which labelImg writes one to each folder of labels."""

    def __init__(self, source: Source):
        self._files, self._by_folder = defaultdict(list), {}
        for path in source.files:
            if path.name.lower() in NAME_FILES or path.suffix.lower() == ".names":
                self._files[_folder(path)].append(path)

    def of(self, label: Path, image: Path) -> list[str]:
        """Names for a label file: of the nearest file beside or above it, or its picture, else of all files; empty
        where there is none. Raises DataError where several of them differ."""
        if label.parent not in self._by_folder:
            above = [folder for path in (label, image) for folder in (_folder(path), *_folder(path).parents)]
            nearest = next((folder for folder in above if folder in self._files), None)
            files = self._files[nearest] if nearest else [path for paths in self._files.values() for path in paths]
            several = [(path, read_names(path)) for path in files]
            for path, names in several[1:]:
                if names != several[0][1]:
                    raise DataError(f"{path}: found other class names than in {several[0][0]}, expected one file for "
                                    f"{label.parent}; leave the right one there")
            self._by_folder[label.parent] = several[0][1] if several else []
        return self._by_folder[label.parent]

    def used(self) -> list[str]:
        """All names that were asked for, each once."""
        return list(dict.fromkeys(name for names in self._by_folder.values() for name in names))

    def notes(self) -> list[str]:
        """A line that says so where folders number their classes otherwise."""
        several = {tuple(names) for names in self._by_folder.values()}
        return [f"files of class names differ ({len(several)} lists): the nearest to each label counts"] * (
            len(several) > 1)


def _folder(path: Path) -> Path:
    return Path(os.path.abspath(path.parent))


def _names(options: dict, data_file: Path) -> list[str]:
    """Class names by number, of the data file or the file that it names; empty without any."""
    if "names" not in options:
        return []
    named = options["names"]
    folders = [data_file.parent, data_file.parent.parent, Path()]
    return list(parse_data_config(data_file, locate(named, folders) if isinstance(named, str) else None).names)


# ---- pictures

def _sets(source: Source, notes: list[str]) -> list[YoloSet]:
    """The list that is the source, else what the data files describe, else train.txt, valid.txt, ..., else all
    pictures. Raises DataError where a training or validation side is not there, and where two files disagree."""
    if source.path.suffix.lower() == ".txt":
        pictures = dict.fromkeys(_pictures_of(source.path, source, source.faults.add))
        return [YoloSet(None, [], [(image, None) for image in pictures])]
    described = [_described(path, source) for path in _data_files(source)]
    there = [one for one in described if one.pictures] or described[:1]
    notes += [f"{one.file}: names no picture that is there, left aside" for one in described if one not in there]
    for one in there:
        for fault in one.faults:
            source.faults.add(fault)
        for part, value in one.missing:
            if part != "test":
                raise DataError(f"{one.file}: found {part} {shown(value)}, which is not there, expected a list or "
                                "folder of pictures; mend or remove that entry")
            notes.append(f"{one.file}: names {shown(value)} for test, which is not there")
    there = there or [YoloSet(None, [], _listed(source))]
    if any(one.pictures for one in there):
        merged = [one for one in _merged(there) if one.pictures]
        if len(merged) > 1:
            notes.append(f"read as one set: {', '.join(str(one.file) for one in merged)}")
        return merged
    names, file = [], there[0].file
    if file:
        notes.append(f"{file.name} names no pictures: all below it are taken")
        names = _names(read_options(file), file)
    pictures = [(path, part_of_folders(path, source.root)) for path in source.pictures]
    return [there[0]._replace(names=names, pictures=pictures)]


def _merged(sets: list[YoloSet]) -> list[YoloSet]:
    """The sets, each picture once. Raises DataError unless they have the same classes, and agree on each picture."""
    alone = "import each alone, by naming its file as the source"
    owners, merged = {}, []
    for one in sets:
        if sorted(one.names) != sorted(sets[0].names):
            raise DataError(f"{one.file}: found classes {shown(', '.join(one.names))}, expected those of "
                            f"{sets[0].file}, {shown(', '.join(sets[0].names))}; {alone}")
        fresh = {}
        for image, part in dict.fromkeys(one.pictures):
            whole = os.path.abspath(image)
            other, side = owners.get(whole, (one, part))
            if other is one:
                fresh[image, part] = whole
            elif (side, other.names) != (part, one.names):
                raise DataError(f"{one.file}: found {image} for {part} with classes {shown(', '.join(one.names))}, "
                                f"expected {side} and {shown(', '.join(other.names))}, as in {other.file}; {alone}")
        owners |= {whole: (one, part) for (_, part), whole in fresh.items()}
        merged.append(one._replace(pictures=list(fresh)))
    return merged


def _described(data_file: Path, source: Source) -> YoloSet:
    """What a data file names: its classes, and the pictures of its lists and folders."""
    options, here = read_options(data_file), data_file.parent
    bases = ([here / str(options["path"])] if options.get("path") else []) + [here, here.parent, Path()]
    named = [(part, str(item)) for part, keys in PART_KEYS.items() for key in keys if (value := options.get(key))
             for item in (value if isinstance(value, list) else [value])]
    paths = {value: locate(value, bases) for _, value in named}
    pictures, missing, faults = [], [], []
    for part, value in named:
        others = [path for other, path in paths.items() if path and other != value]
        if paths[value] is None or _is_another(paths[value], value, others):
            missing.append((part, value))
        else:
            pictures += [(image, part) for image in _pictures_of(paths[value], source, faults.append)]
    keypoints = keypoint_numbers(options.get("kpt_shape"), str(data_file))
    names = _names(options, data_file) if pictures else []  # a file that is left aside may have lost those too
    return YoloSet(data_file, names, pictures, keypoints, tuple(missing), tuple(faults))


def _is_another(path: Path, value: str, others: list[Path]) -> bool:
    """Whether what was found for `value` is a folder that is not meant: with its first parts lost, valid/images would
    be any folder `images`, of the other side or around the folders that other entries name."""
    named = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if not path.is_dir() or not named or list(path.parts[-len(named):]) == named:
        return False
    sides = [part_of_folders(Path(*parts, "picture"), Path()) for parts in (named, path.absolute().parts[1:])]
    return sides[0] not in (None, sides[1]) or any(other.is_relative_to(path) for other in others)


def _listed(source: Source) -> list[tuple[Path, str | None]]:
    """(picture, part) of train.txt, valid.txt, ... in the source."""
    lists = [(source.root / f"{key}.txt", part) for part, keys in PART_KEYS.items() for key in keys]
    return [(image, part) for path, part in lists if path.exists()
            for image in _pictures_of(path, source, source.faults.add)]


def _pictures_of(path: Path, source: Source, fail: Callable[[str], None]) -> list[Path]:
    """Pictures of a folder or of a list file; `fail` is told of each entry that is not there."""
    if path.is_dir():
        return files_below(path, IMAGE_SUFFIXES).files
    pictures = []
    for i, line in enumerate(read_lines(path, "a list of images", HASH_FIRST), start=1):
        if not line.strip() or line.lstrip()[0] == "#":
            continue
        image = locate(line, [path.parent, source.root, path.parent.parent, Path()])
        if image is None or not image.is_file():
            fail(f"{path}:{i}: found {shown(line.strip())}, which is not there, expected a picture")
        else:
            pictures.append(image)
    return pictures


def find_label(image: Path) -> Path | None:
    """The label file of a picture: in `labels` beside `images` (or JPEGImages), else beside the picture."""
    return next((path for path in label_places(image) if path.is_file()), None)
