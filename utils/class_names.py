"""Names of classes: read from a file, or made up."""

import os
from pathlib import Path

from utils.limits import MOST_NAMES_BYTES
from utils.origin import missing
from utils.text import CfgError, read_lines


def read_names(path: str | os.PathLike) -> list[str]:
    """Class names, one a line; blank lines are skipped. Raises FileNotFoundError, TextError, or CfgError when empty."""
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file() raises on a name that is too long
        raise missing(path, "class names file")
    names = [line.strip() for line in read_lines(path, "class names", most_bytes=MOST_NAMES_BYTES) if line.strip()]
    if not names:
        raise CfgError(f"{path}:1: found no name, expected one class name a line")
    return names


def numbered_names(classes: int) -> tuple[str, ...]:
    """What classes are called that nobody named."""
    return tuple(f"class{i}" for i in range(classes))
