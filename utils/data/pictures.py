"""Pictures: measured once (size, EXIF turn, hash), remembered in a journal, and placed in the new set."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Iterator

from utils.data.duplicates import difference_hash
from utils.data.exif import decode_stored, encode_stored, is_turned
from utils.data.image_files import read_image
from utils.data.yolo_labels import DataError
from utils.output import replacing
from utils.progress import Progress

JOURNAL = ".import.jsonl"
WORKERS = min(os.cpu_count() or 1, 8)


@dataclass(frozen=True)
class Picture:
    """What there is to know of a picture file. width, height: pixels as shown, that is with its EXIF turn applied."""

    width: int
    height: int
    turned: bool  # EXIF asks for it to be shown otherwise than it is stored
    stored: tuple[int, int]  # width, height as stored
    hash: str  # 256-bit difference hash, 64 hexadecimal digits


def measure(path: Path) -> Picture:
    """Decode a picture and measure it. Raises DataError where it is damaged."""
    image = read_image(path)
    height, width = image.shape[:2]
    content = path.read_bytes()
    turned = is_turned(content)
    stored = decode_stored(content).shape[1::-1] if turned else (width, height)
    return Picture(width, height, turned, stored, difference_hash(image))


class Journal:
    """Measurements that an earlier run made of unchanged files: a line a picture, appended as it is measured."""

    def __init__(self, path: Path):
        self.path = path
        self._known = dict(self._entries()) if path.is_file() else {}

    def _entries(self) -> Iterator[tuple[tuple, Picture]]:
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                picture = entry["picture"]
                yield tuple(entry["key"]), Picture(**picture | {"stored": tuple(picture["stored"])})
            except (ValueError, KeyError, TypeError):
                continue  # the line that a killed run was writing

    def measure(self, paths: list[Path], fail: Callable[[DataError], None]) -> dict[Path, Picture]:
        """Measurements of all pictures that can be read; `fail` is told of the others."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found, todo = {}, []
        for path in paths:
            known = self._known.get(_key(path))
            found[path] = known
            todo += [path] * (known is None)
        with open(self.path, "a", encoding="utf-8", newline="\n") as file, ThreadPoolExecutor(WORKERS) as pool:
            file.write("\n" * bool(todo and self._known))
            results = pool.map(_measured, todo)
            for path, picture in Progress(zip(todo, results), len(todo), "pictures"):
                if isinstance(picture, DataError):
                    fail(picture)
                else:
                    found[path] = picture
                    file.write(json.dumps({"key": _key(path), "picture": asdict(picture)}) + "\n")
                    file.flush()
        return {path: picture for path, picture in found.items() if picture is not None}


def _key(path: Path) -> tuple:
    """What tells that a file is the one that was measured."""
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def _measured(path: Path) -> Picture | DataError:
    try:
        return measure(path)
    except OSError as error:
        return DataError(f"{path}: {error.strerror}, expected a picture")
    except DataError as error:
        return error


def place(source: Path, target: Path, how: str, as_stored: bool = False) -> None:
    """Put a picture at `target`: how = link (hard link, a copy where the system refuses), symlink or copy.

    as_stored: write it anew without its EXIF turn, for boxes that belong to the stored picture.
    """
    if not as_stored and _is_placed(source, target, how):
        return
    with replacing(target) as temporary:
        temporary.unlink(missing_ok=True)
        if as_stored:
            temporary.write_bytes(encode_stored(source.read_bytes(), source.suffix))
        elif how == "symlink":
            temporary.symlink_to(source.resolve())
        elif how == "copy" or not _linked(source, temporary):
            shutil.copy2(source, temporary)
        if target.is_file():
            target.unlink()  # renaming one link of a file over another would leave both


def _is_placed(source: Path, target: Path, how: str) -> bool:
    """Whether an earlier run put this very picture there."""
    if not target.is_file() or target.is_symlink() != (how == "symlink"):
        return False
    if target.samefile(source):
        return how != "copy"
    there, here = target.stat(), source.stat()
    return how != "symlink" and (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True
