"""What lies in a folder and its sub-folders, linked ones too: files of some kinds, and what only has such a name."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Collection


@dataclass
class Found:
    """Files below a folder, sorted, and what is named like one of them and is none: dangling links, links in a circle,
    folders, pipes."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def note(self, what: str = "images") -> str:
        """How many of `what` were left out, in words; "" where none was."""
        if not self.others:
            return ""
        return (f"{self.folder}: {len(self.others):,} of {len(self.files) + len(self.others):,} {what} left out: no "
                f"files (dangling links, folders), such as {self.others[0]}")


def files_below(folder: Path, suffixes: Collection[str] | None = None, leave_out: Path | None = None) -> Found:
    """All files whose names end in one of `suffixes` (lower case; None: any), but for hidden ones.

    leave_out: a folder below, such as that of results. A folder that links lead to several times is visited once.
    """
    found, seen = Found(folder), {os.path.realpath(path) for path in (folder, leave_out) if path}

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        new = real not in seen
        seen.add(real)
        return new

    for place, folders, names in os.walk(folder, followlinks=True):
        named = [Path(place, name) for name in [*folders, *names] if name[0] != "."]
        for path in (path for path in named if suffixes is None or path.suffix.lower() in suffixes):
            if os.path.isfile(path):
                found.files.append(path)
            elif suffixes is not None or not os.path.isdir(path):
                found.others.append(path)
        folders[:] = sorted(name for name in folders
                            if name[0] != "." and name != "__MACOSX" and is_new(os.path.join(place, name)))
    found.files.sort()
    found.others.sort()
    return found
