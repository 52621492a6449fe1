"""Pictures as files: which a list or a folder names, and how one is read. Needs no torch: importing starts at once."""

import os
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np

from utils.data.decoding import TooLargeError, cut_short, decode, picture_bytes
from utils.data.folders import files_below
from utils.data.yolo_labels import DataError
from utils.origin import origin
from utils.output import counted
from utils.text import HASH_FIRST, read_lines, shown

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
Source = str | os.PathLike | Sequence[str | os.PathLike]  # an image list, a folder of images, or several of them


def read_image_list(source: Source, notes: list[str] | None = None) -> list[Path]:
    """Image paths of a list file, a folder, or several; entries absolute, or relative to the working directory or the
    list.

    `notes` gets a line about what was left out. Raises DataError on an empty list or a missing image, TextError on a
    file that is no text.
    """
    if isinstance(source, (list, tuple)):
        return [path for part in source for path in read_image_list(part, notes)]
    source = Path(source)
    if source.is_dir():
        return _images_below(source, [] if notes is None else notes)
    if not source.is_file():
        raise DataError(f"{source}: no such image list or folder{origin(source)}")
    twice: list[Path] = []
    paths = [_resolve_entry(line, source, line_i, twice)
             for line_i, line in enumerate(read_lines(source, "a list of images", HASH_FIRST), start=1) if line.strip()]
    paths = [path for path in paths if path]
    if not paths:
        raise DataError(f"{source}:1: found an empty list, expected one image path per line")
    if twice and notes is not None:
        notes.append(f"{source}: {counted(len(twice), 'image')} in two places: {twice[0]}, from the working directory, "
                     f"is taken, not {source.parent / twice[0]}")
    return paths


def _images_below(folder: Path, notes: list[str]) -> list[Path]:
    """Images of a folder and its sub-folders, but for what has an image's name and is no file (a dangling link)."""
    found = files_below(folder, IMAGE_SUFFIXES)
    if not found.files:
        raise DataError(f"{folder}: found no image, expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    notes += [found.note()] if found.others else []
    return found.files


def _resolve_entry(line: str, source: Path, line_i: int, twice: list[Path]) -> Path | None:
    """The image that a line of a list names, None for a comment. A name that a file has may hold #, blanks and \\.

    `twice` gains an image of the working directory that is another one in the list's folder.
    """
    entry = line.strip()
    for name in dict.fromkeys([line, entry, entry.replace("\\", "/")]):
        path, beside = Path(name), source.parent / name
        if os.path.isfile(path):
            twice += [path] if os.path.isfile(beside) and not path.samefile(beside) else []
            return path
        if os.path.isfile(beside):
            return beside
    if entry.startswith("#"):
        return None
    raise DataError(f"{source}:{line_i}: found {shown(entry)}, which is a file neither in {Path.cwd()} nor in "
                    f"{source.parent.absolute()}; expected an image path, absolute or relative to one of these")


def read_image(path: Path, max_side: int | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, shrunk so that its longer side is at most `max_side`. Raises DataError when it cannot be
    decoded."""
    try:
        content = picture_bytes(path)
        image = decode(content)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected an image") from None
    except TooLargeError as error:
        raise DataError(f"{path}: {error}") from None
    if image is None:
        raise DataError(f"{path}: found a file that cannot be decoded{' (a JPEG cut short)' * cut_short(content)}, "
                        "expected an image")
    zoom = max_side / max(image.shape[:2]) if max_side else 1.0
    if zoom < 1:
        image = cv2.resize(
            image, [max(round(side * zoom), 1) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)  # in place: a large one is not copied
