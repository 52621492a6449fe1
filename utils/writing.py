"""Output files: written beside their place, then renamed, so that a reader finds the whole old file or the whole new one."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write to: takes its place when the block ends, and is removed when the block raises. Makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content) -> None:
    """Write `content` as indented JSON; what JSON has no type for (a Path) becomes its text."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


@contextmanager
def replacing_all(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder inside `folder` to write several files to: they take their places, of the same names, when the block ends, and all are
    removed when it raises."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as temporary:
        yield Path(temporary)
        for path in sorted(Path(temporary).iterdir()):
            os.replace(path, folder / path.name)
