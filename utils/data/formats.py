"""The formats that can be imported, and which of them a source is in."""

from types import ModuleType

from utils.data import classes, coco, csv_table, egohands, labelme, voc, yolo_folder
from utils.data.annotations import Annotations
from utils.data.source import Source
from utils.data.yolo_labels import DataError
from utils.limits import MOST_CLASSES

FORMATS: dict[str, ModuleType] = {"egohands": egohands, "coco": coco, "voc": voc, "labelme": labelme, "csv": csv_table,
                                  "yolo": yolo_folder}


def detect(source: Source) -> str:
    """Name of the format, by the content of the source's files. Raises DataError when it is none, or more than one."""
    found = {name: files for name, module in FORMATS.items() if (files := module.found(source))}
    if len(found) > 1:
        several = ", ".join(f"{name} ({files[0]})" for name, files in found.items())
        raise DataError(f"{source.path}: found annotations in more than one format: {several}; choose with --format")
    if not found:
        what = f"{len(source.files):,} files, {len(source.pictures):,} of them pictures, but " * source.path.is_dir()
        others = source.with_suffix(".csv", ".tsv", ".json", ".xml")
        known = f" that is known ({others[0]} is in no such format)" if source.path.is_dir() and others else ""
        raise DataError(f"{source.path}: found {what}no annotation{known}, expected one of {', '.join(FORMATS)}; "
                        "docs/data.md says what each looks like")
    return next(iter(found))


def read(name: str, source: Source) -> Annotations:
    """Read all of a source. Faults of single files go to source.faults; raises DataError when nothing is left."""
    annotations = FORMATS[name].read(source)
    source.faults.stop()
    if len(annotations.names) > MOST_CLASSES:
        raise DataError(f"{source.path}: found {len(annotations.names):,} classes, expected at most {MOST_CLASSES:,}")
    classes.rename(annotations, {name: classes.one_line(name) for name in annotations.names})
    if not all(annotations.names):
        raise DataError(f"{source.path}: found a class without a name, expected one for each of "
                        f"{len(annotations.names)}")
    if not annotations.samples:
        raise DataError(f"{source.path}: found no annotated picture in format {name}, expected at least one")
    return annotations
