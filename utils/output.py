"""Output files: written beside their place, then renamed, so that a reader finds the whole old file or the whole new
one."""

import csv
import json
import os
import platform
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import torch
from terminaltables import AsciiTable, GithubFlavoredMarkdownTable


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write to: takes its place when the block ends, and is removed when the block raises.
    Makes the folder."""
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
    """A folder inside `folder` to write several files to: they take their places, of the same names, when the block
    ends, and all are removed when it raises."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as temporary:
        yield Path(temporary)
        for path in sorted(Path(temporary).iterdir()):
            os.replace(path, folder / path.name)


def environment() -> dict:
    """What a number was measured on: versions, processor, threads, git commit."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                                cwd=Path(__file__).parent, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"torch": torch.__version__, "python": platform.python_version(), "processor": _processor(), "gpu": gpu,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "commit": commit}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_csv(path: Path, rows: list[dict]) -> None:
    """Rows of equal keys as a CSV file."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def ascii_table(rows: list[list], first_column_left: bool = True) -> str:
    """Rows (the first is the header) as a boxed table, numbers to the right."""
    table = AsciiTable([[str(cell) for cell in row] for row in rows])
    table.justify_columns = {i: "left" if i == 0 and first_column_left else "right" for i in range(len(rows[0]))}
    return table.table


def markdown_table(rows: list[list]) -> str:
    """The same as a Markdown table."""
    return GithubFlavoredMarkdownTable([[str(cell) for cell in row] for row in rows]).table


def change(before: float, after: float) -> str:
    """"-83.1 % (5.9x)": what a size or a time lost; "-" where there was nothing."""
    if not before or not after:
        return "-"
    return f"{100 * (after / before - 1):+.1f} % ({before / after:.2f}x)"


def counted(count: int, noun: str, plural: str = "") -> str:
    """"1 epoch", "2,000 epochs": a count and its noun; plural: where it is not the noun and an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
