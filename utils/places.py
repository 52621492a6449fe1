"""Whether files can be written at a place, to be asked before the work that makes them. Imports nothing that takes
time."""

from pathlib import Path


class OutputError(OSError):
    """A file could not be written; what was there before is whole."""


def require_file(path: Path) -> None:
    """Raise OutputError where a file to write has the name of a folder, or would lie below a file."""
    require_no_folder(path)
    require_folder(path.parent)


def require_no_folder(path: Path) -> None:
    """Raise OutputError where a folder has the name of a file that is to be written."""
    if path.is_dir():
        raise OutputError(f"{path}: found a folder, expected the name of a file to write")


def require_folder(path: Path) -> None:
    """Raise OutputError where a file stands in the way of a folder that is to be written to."""
    found = next((one for one in (path, *path.parents) if one.exists()), path)
    if found.exists() and not found.is_dir():
        raise OutputError(f"{found}: found a file, expected a folder to write to")
