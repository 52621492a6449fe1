"""Output files: written beside their place, then renamed, so that a reader finds the whole old file or the whole new
one."""

import csv
import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Iterator

from terminaltables import AsciiTable, GithubFlavoredMarkdownTable

from utils.places import OutputError, require_folder, require_no_folder

_OURS = re.compile(r"-(\d+)-(\d+)\.(?:tmp|old)$")  # ends the names of files and folders in the making
_made: ContextVar[list[Path] | None] = ContextVar("made", default=None)  # in a block of `provisional`
_step: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("step", default=None)  # (written, its place), in order


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write to: takes its place when the block ends (in `one_step`: when that ends), and is
    removed when the block raises. Makes the folder. Raises OutputError where the disk is full or refuses."""
    path = Path(path)
    if _OURS.search(path.name):  # a file in the making, of the block around
        yield path
        return
    step, temporary = _step.get(), _temporary_name(path)
    try:
        with _speaking_of(path, temporary, path):
            make_folder(path.parent)
            require_no_folder(path)
            _remove_leftovers(path)
            yield temporary
            if step is None:
                note_made(path)
                os.replace(temporary, path)
            else:
                step.append((temporary, path))
    except BaseException:
        _remove(temporary)
        raise


@contextmanager
def _speaking_of(path: Path, temporary: Path, place: Path) -> Iterator[None]:
    """What is raised in this block speaks of `place` where it names `temporary`; where the disk is full or refuses it
    becomes an OutputError of `path`, which was to be written."""
    try:
        yield
    except Exception as error:
        spoken = lambda value: value.replace(str(temporary), str(place)) if isinstance(value, str) else value
        error.args = tuple(map(spoken, error.args))
        if not isinstance(error, OSError) or isinstance(error, OutputError):
            raise
        error.filename = spoken(error.filename)
        if error.errno not in _NOT_WRITTEN:
            raise
        reason = error.strerror or os.strerror(error.errno)
        left = "the file that was there before is whole" if path.exists() else "nothing was left there"
        raise OutputError(f"{path}: cannot be written ({reason}); {left}") from error


@contextmanager
def provisional() -> Iterator[None]:
    """Where this block raises before `settle` was called, the files and folders that were made in it, where there were
    none, go again."""
    made: list[Path] = []
    token = _made.set(made)
    try:
        yield
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # a folder that somebody else has put something into stays
                path.rmdir() if path.is_dir() else path.unlink()
        raise
    finally:
        _made.reset(token)


def settle() -> None:
    """What this block of `provisional` has made, and will make, stays."""
    if (made := _made.get()) is not None:
        made.clear()
        _made.set(None)


def note_made(path: Path) -> None:
    """To be called before `path` is made, for `provisional`."""
    if (made := _made.get()) is not None and not path.exists():
        made.append(path)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns those that were not there, the outermost first. Raises OutputError
    where one is a file."""
    require_folder(folder)
    missing = [one for one in (*reversed(folder.parents), folder) if not one.exists()]
    for one in missing:
        note_made(one)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def one_step() -> Iterator[None]:
    """A set of files: what `replacing` writes in this block takes its place when the block ends, one rename right after
    the other in the order of writing; where the block or a rename raises, all is as it was before."""
    if _step.get() is not None:  # a part of a larger step
        yield
        return
    pending: list[tuple[Path, Path]] = []
    token = _step.set(pending)
    try:
        yield
    except BaseException:
        for temporary, _ in pending:
            _remove(temporary)
        raise
    finally:
        _step.reset(token)
    _take_places(pending)


def _take_places(pending: list[tuple[Path, Path]]) -> None:
    """Rename all or none."""
    before = {path: _temporary_name(path, "old") for _, path in pending if path.exists()}
    done = []
    try:
        for path, old in before.items():
            with suppress(OSError):  # a file system without links has no way back
                os.link(path, old)
        for temporary, path in pending:
            note_made(path)
            os.replace(temporary, path)
            done.append(path)
    except BaseException:
        for path in reversed(done):
            if path not in before:
                _remove(path)
            elif before[path].exists():
                os.replace(before[path], path)
        raise
    finally:
        for name in [*before.values(), *(temporary for temporary, _ in pending)]:
            _remove(name)


# a full disk or quota, a limit on sizes, a broken or read-only disk, a folder that forbids it
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)


def _temporary_name(path: Path, kind: str = "tmp") -> Path:
    """A name beside `path` that says whose it is: no other process, here or on a machine that shares the folder, takes
    it."""
    own = f"{platform.node()[:40]}-{os.getpid()}-{_short(threading.get_ident())}"
    name = path.name if len(path.name) < 150 else hashlib.sha256(path.name.encode()).hexdigest()
    return path.with_name(f".{name}.{own}.{kind}")


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that were killed left of `path`."""
    pattern = glob.escape(_temporary_name(path).name.split(f"-{os.getpid()}-")[0]) + "-*"
    for leftover in path.parent.glob(pattern):
        match = _OURS.search(leftover.name)
        if match and not _is_alive(int(match[1]), int(match[2])):
            _remove(leftover)


def _short(thread: int | None) -> int:
    return (thread or 0) % 10**6


def _is_alive(process: int, thread: int) -> bool:
    """Whether a file in the making has somebody who makes it."""
    if process == os.getpid():  # in a container every program may have the same number
        return thread in {_short(one.ident) for one in threading.enumerate()}
    if platform.system() == "Windows":  # which has no signal to ask with: 0 is Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 file whose lines end as in `text`, on Windows too."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, content) -> None:
    """Write `content` as indented JSON; what JSON has no type for (a Path) becomes its text."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


@contextmanager
def replacing_all(path: str | os.PathLike) -> Iterator[Path]:
    """A folder beside `path` to write it and what belongs to it: all take their places, of the same names, in one step
    when the block ends (data before the .param, .xml or .cfg that describes it), and are removed when it raises. Raises
    OutputError where the disk is full or refuses."""
    path = Path(path)
    folder, temporary = path.parent, _temporary_name(path.with_name("unfinished"))
    try:
        with _speaking_of(path, temporary, folder):
            make_folder(folder)
            require_no_folder(path)
            _remove_leftovers(folder / "unfinished")
            _remove(temporary)
            temporary.mkdir()
            yield temporary
            _take_places([(one, folder / one.name) for one in sorted(temporary.iterdir())])
    finally:
        _remove(temporary)


def environment() -> dict:
    """What a number was measured on: versions, processor, threads, git commit."""
    import torch  # not above: command lines are read before it is loaded
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


def user_cache() -> Path:
    """Folder for what can be measured or made again: yolo-slimming in $XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("XDG_CACHE_HOME", "")  # the standard leaves relative ones aside
    return Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache")) / "yolo-slimming"


def write_csv(path: Path, rows: list[dict]) -> None:
    """Rows of equal keys as a CSV file, UTF-8 with line ends \\n."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def ascii_table(rows: list[list]) -> str:
    """Rows (the first is the header) as a boxed table, numbers to the right."""
    table = AsciiTable([[str(cell) for cell in row] for row in rows])
    table.justify_columns = {i: "right" if i else "left" for i in range(len(rows[0]))}
    return table.table


def markdown_table(rows: list[list]) -> str:
    """Rows (the first is the header) as a Markdown table."""
    return GithubFlavoredMarkdownTable([[str(cell) for cell in row] for row in rows]).table


def change(before: float, after: float) -> str:
    """"-83.1 % (5.9x)": what a size or a time lost; "-" where there was nothing."""
    if not before or not after:
        return "-"
    return f"{100 * (after / before - 1):+.1f} % ({before / after:.2f}x)"


def counted(count: int, noun: str, plural: str = "") -> str:
    """"1 epoch", "2,000 epochs": a count and its noun; plural: where it is not the noun and an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
