"""The folder or file that is imported: its files, and the pictures that annotations name."""

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from utils.data.annotations import Faults, part_of_folders
from utils.data.folders import files_below
from utils.data.image_files import IMAGE_SUFFIXES
from utils.data.yolo_labels import DataError


class Source:
    """What a reader of a format is given.

    background: pictures without an annotation show no object (else they are left out); None: as the format means it.
    """

    def __init__(self, path: Path, faults: Faults, images: Path | None = None, background: bool | None = None,
                 leave_out: Path | None = None):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if path.suffix.lower() in (".zip", ".gz", ".tgz", ".tar", ".rar", ".7z"):
            raise DataError(f"{path}: found an archive, expected a folder or an annotation file; unpack it first")
        if images is not None and not images.is_dir():
            raise DataError(f"{images}: no such folder of images")
        self.path, self.faults, self.images, self.background = path, faults, images, background
        self.root = path if path.is_dir() else path.parent
        self._leave_out = leave_out.resolve() if leave_out else None

    @cached_property
    def files(self) -> list[Path]:
        """All files of the folder (that the source lies in, where it is a file), sorted; no hidden ones, no output."""
        return self._walk(self.root)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Annotation files: those that end so; the one that was named, where it was."""
        if self.path.is_file():
            return [self.path] if self.path.suffix.lower() in suffixes else []
        return [path for path in self.files if path.suffix.lower() in suffixes]

    @cached_property
    def pictures(self) -> list[Path]:
        """All pictures of the source, and of --images."""
        files = self.files + (self._walk(self.images) if self.images else [])
        return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]

    def find(self, name: str, near: list[Path], place: str, part: str | None = None) -> Path:
        """The picture that an annotation calls `name`: that very path below --images or a `near` folder, else the one
        whose path ends most like it, whatever its ending.

        part: the side that the annotations are of, whose folder is preferred among equals. Raises DataError (`place:
        found, expected`) where there is none, and where several are as near.
        """
        parts = [part for part in str(name).replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts or "\0" in name:
            raise DataError(f"{place}: found the image name {name!r}, expected a file name")
        folders = ([self.images] if self.images else []) + near
        for found in [folder.joinpath(*parts) for folder in folders] + [Path(name)] * os.path.isabs(name):
            if os.path.isfile(found):
                return found
        return self._search(parts, folders, place, part)

    def _search(self, parts: list[str], near: list[Path], place: str, part: str | None) -> Path:
        """The picture whose path ends most like `parts`, by name, else by stem; of equals the one in a folder named
        after `part`, else in the first of the folders `near`, else nearest to that."""
        name = parts[-1].lower()
        beside = [path for folder in near if os.path.isfile(path := folder / parts[-1])]
        nearness = {path: -i for i, path in reversed([*enumerate(beside)])}
        said = part_of_folders(Path(*parts[-3:]), Path())
        for key in (name, PurePosixPath(name).stem):
            sides = {path: self._side(path) for path in [*beside, *self._by_name.get(key, [])]}
            ranks = {path: (_common_tail(path, parts), part is not None and side == part,
                            nearness.get(path, -len(beside)), _common_head(path, near[0]))
                     # test/1.jpg is not train/1.jpg, even where that alone is there
                     for path, side in sides.items() if said is None or side in (None, said)}
            first = max(ranks.values(), default=None)
            best = [path for path, rank in ranks.items() if rank == first]
            if any(not path.samefile(best[0]) for path in best):
                raise DataError(f"{place}: found {len(best)} pictures called {parts[-1]!r} ({best[0]}, {best[1]}), "
                                "expected one; name their folder with --images")
            if best:
                return best[0]
        raise DataError(f"{place}: found no picture {'/'.join(parts)!r} (looked in {near[0]} and everywhere below "
                        f"{self.images or self.root}), expected it; name its folder with --images")

    def _side(self, picture: Path) -> str | None:
        """The split that the picture's folders are named after, below --images where it lies there."""
        inside = self.images is not None and picture.is_relative_to(self.images)
        return part_of_folders(picture, self.images if inside else self.root)

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Pictures by name and, for names with another ending or none, by stem."""
        index = defaultdict(list)
        for path in self.pictures:
            index[path.name.lower()].append(path)
            index[path.stem.lower()].append(path)
        return index

    def _walk(self, root: Path) -> list[Path]:
        found = files_below(root, leave_out=self._leave_out)
        if found.others:
            print(f"note: {found.note('files')}")
        return found.files


def locate(value: str, folders: list[Path]) -> Path | None:
    """A path as another machine wrote it: under one of the folders, its leading parts dropped as far as needed."""
    parts = [part for part in value.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    if os.path.isabs(value) and os.path.exists(value):
        return Path(value)
    for skipped in range(max(len(parts), 1)):  # "." is the first folder itself
        for folder in folders:
            if os.path.exists(found := folder.joinpath(*parts[skipped:])):
                return found
    return None


def _common_tail(path: Path, parts: list[str]) -> int:
    """How many of the last folders agree."""
    return _common_start([part.lower() for part in path.parts[-2::-1]], [part.lower() for part in parts[-2::-1]])


def _common_head(path: Path, folder: Path) -> int:
    """How many of the first folders agree."""
    return _common_start(path.parts, folder.parts)


def _common_start(ones, others) -> int:
    """How many elements agree before the first that differ."""
    pairs = zip(ones, others)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(ones), len(others)))
