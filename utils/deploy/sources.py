"""What --source can name: images, films (videos, GIFs, cameras, streams), and folders, globs and lists of them."""

import contextlib
import glob
import math
import os
import queue
import re
import threading
from pathlib import Path
from typing import Iterator, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageSequence

from utils.data.decoding import TooLargeError, require_size
from utils.data.folders import files_below
from utils.data.image_files import IMAGE_SUFFIXES, read_image, read_image_list
from utils.data.yolo_labels import DataError
from utils.deploy.opencv_log import quiet_opencv
from utils.text import is_whole

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".mts"}
VISUAL = IMAGE_SUFFIXES | VIDEO_SUFFIXES | {".gif"}
_GLOB = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}  # part of a pattern -> regular expression
PATIENCE_MS = 10_000  # how long a stream may be silent, at its start and later
MASK = "***"  # in the place of a password
LEAST_RATE, USUAL_RATE, MOST_RATE = 1.0, 25.0, 240.0  # frames per second that a film may have
WHOLE = 0.95  # share of the frames that a header announces, which is a guess in some formats
EXPECTED = ("an image, a video, a GIF, a folder or glob of them, a list of images (.txt), a camera number or the "
            "address of a stream (rtsp://..., http://...)")


class Item(NamedTuple):
    """One image or film of a --source."""

    where: str  # path, address or camera number
    name: Path  # relative path, without suffix, for what is written about it
    is_film: bool

    @property
    def shown(self) -> str:
        """`where`, for everybody to see."""
        return masked(self.where)

    @property
    def path(self) -> Path | None:
        """Its file; None where it is a camera or a stream."""
        return None if is_live(self.where) else Path(self.where)


def is_camera(source: str) -> bool:
    """Whether a --source is the number of a camera."""
    return is_whole(source) and len(source) < 4


def is_live(source: str) -> bool:
    """Whether a --source is a camera number or an address, not a file."""
    return is_camera(source) or re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def masked(source: str) -> str:
    """A --source without what lets somebody in: the name and password of an address, and its query, which may hold
    them as well, as the path of some cameras does."""
    if is_camera(source) or not is_live(source):
        return source
    kind, _, rest = source.partition("://")
    address, query, _ = rest.partition("?")
    host, slash, path = address.partition("/")
    name, at, host = host.rpartition("@")
    path = re.sub(r"((?:user\w*|pass\w*|pwd|token|key)=)[^&/]*", rf"\1{MASK}", path, flags=re.IGNORECASE)
    return f"{kind}://{MASK if at else ''}{at}{host}{slash}{path}{query}{MASK if query else ''}"


def expand(source: str, out: Path) -> list[Item]:
    """The images and films of one --source; of folders and their sub-folders all but the hidden ones and `out`.

    out: the folder that results are written to. Raises DataError when there is none.
    """
    if is_live(source):
        return [Item(source, Path(_live_name(source)), True)]
    path = Path(source)
    if path.is_dir():
        base, files = _whole(path), _files_below(path, out)
    else:
        files = _named_files(path, out)
        base = Path(os.path.commonpath([_whole(file).parent for file in files])) if files else path
    if not files:
        raise DataError(f"--source {source}: found no image, expected {EXPECTED}")
    return [Item(str(file), _whole(file).relative_to(base).with_suffix(""), is_film(file)) for file in files]


def _whole(path: Path) -> Path:
    """The path from the root, without "..", so that no result lands beside `out`; links stay."""
    return Path(os.path.abspath(path))


def _named_files(path: Path, out: Path) -> list[Path]:
    """The file `path`, those of a list, or all images and films that a glob finds."""
    if path.is_file():
        return read_image_list(path) if path.suffix.lower() == ".txt" else [path]
    found = _glob(path.as_posix())
    inside = [file for folder in found if folder.is_dir() for file in _files_below(folder, out)]
    return sorted({*inside, *filter(_is_visual, found)})


def _glob(pattern: str) -> list[Path]:
    """What a pattern names; ** goes through linked folders too, each once (glob.glob goes round in circles)."""
    head, stars, tail = pattern.partition("**")
    if not stars:
        return [Path(match) for match in glob.glob(pattern)]
    start, _, prefix = head.rpartition("/")
    try:
        rest = _compiled(f"{prefix}**{tail}")
    except re.error:  # [z-a]: nothing is in it
        return []
    bases = [Path(match) for match in (glob.glob(start) if start else ["/" if head.startswith("/") else "."])]
    return [path for base in bases for path in files_below(base).files
            if rest.fullmatch(path.relative_to(base).as_posix())]


def _compiled(pattern: str) -> re.Pattern:
    """A glob with ** as a regular expression for paths with slashes."""
    parts = re.split(r"(\*\*/?|[*?]|\[!?[^/]\]|\[!?\]?[^]/]+\])", pattern)
    return re.compile("".join(_GLOB.get(part) or _character_set(part) or re.escape(part) for part in parts))


def _character_set(part: str) -> str:
    """[a-c] or [!a-c] of a glob as a regular expression; "" for anything else."""
    match = re.fullmatch(r"\[(!?)(.+)\]", part)
    if match is None:
        return ""
    signs = re.sub(r"([\[\]\\^&~|])", r"\\\1", match[2])  # what a regular expression would take otherwise
    return f"(?!/)[{'^' if match[1] else ''}{signs}]"


def _files_below(folder: Path, out: Path) -> list[Path]:
    """Images and films in `folder` and its sub-folders; not the hidden ones, nor those of an `out` below it."""
    found = files_below(folder, VISUAL, leave_out=out if folder.resolve() in out.resolve().parents else None)
    if found.others:
        print(f"note: {found.note()}")
    return found.files


def _is_visual(path: Path) -> bool:
    return path.suffix.lower() in VISUAL and os.path.isfile(path)


def _live_name(source: str) -> str:
    """A file name for what a camera or a stream shows, without the password that an address may hold."""
    if is_camera(source):
        return f"camera{source}"
    address = masked(source).partition("://")[2].partition("?")[0].removeprefix(f"{MASK}@")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", address).strip("-.") or "stream"


def is_film(path: Path) -> bool:
    """Whether a file is a video, or a GIF that moves."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEO_SUFFIXES
    try:
        with _opened_gif(path) as gif:
            return gif.n_frames > 1
    except Exception:  # Pillow raises many kinds for a damaged file
        return False  # read_picture says what is wrong with it


def _opened_gif(path: Path) -> Image.Image:
    """A GIF, open, once its header is known to claim no more pixels than can be decoded. Raises TooLargeError, and what
    Pillow raises for a damaged one."""
    with open(path, "rb") as file:
        require_size(file.read(64))
    return Image.open(path)


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, a GIF too. Raises DataError when it cannot be decoded."""
    return next(_gif_frames(path))[0] if path.suffix.lower() == ".gif" else read_image(path)


def frame_count(item: Item) -> float:
    """How many frames an item has: without end where it is live, 0 where it cannot be read."""
    if item.path is None:
        return math.inf
    if not item.is_film:
        return 1
    return max(_open(item).get(cv2.CAP_PROP_FRAME_COUNT), 0)  # a damaged file may count below 0


def frames(item: Item) -> Iterator[tuple[np.ndarray, float | None]]:
    """(RGB frame, frames per second) of a film until it ends; None per second where they come as they are made, the
    newest each time. Raises DataError when it has none."""
    return _gif_frames(item.path) if item.path and item.path.suffix.lower() == ".gif" else _video_frames(item)


def _gif_frames(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    number = 0
    try:
        with _opened_gif(path) as gif:
            rate = 1000 / max(gif.info.get("duration") or 100, 10)  # milliseconds per frame, 0 read as browsers do
            for frame in ImageSequence.Iterator(gif):
                picture = np.array(frame.convert("RGB"))
                number += 1
                yield picture, rate
    except TooLargeError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file; what came before the damage counts
        if not number:
            raise DataError(f"{path}: found a file that cannot be decoded ({error}), expected a GIF") from None
    if not number:
        raise DataError(f"{path}: found no picture in it, expected a GIF")


def _video_frames(item: Item) -> Iterator[tuple[np.ndarray, float | None]]:
    capture, number = _open(item), 0
    if not capture.isOpened():
        raise DataError(f"--source {item.shown}: {_why_closed(item)}")
    rate, announced = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    endless = item.path is None and announced <= 0  # an address may be that of a whole film
    rate = None if endless else rate if LEAST_RATE <= rate <= MOST_RATE else USUAL_RATE
    with contextlib.closing(newest(capture) if endless else _all(capture)) as shown:
        for frame in shown:
            number += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), rate
    if not number:
        raise DataError(f"--source {item.shown}: found no frame that can be read, expected a video")
    if item.path and number < WHOLE * announced:
        print(f"warning: {item.shown}: {number} of {announced:.0f} frames can be read, the film breaks off there")


def _all(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The frames of a film, one after another."""
    try:
        while (step := capture.read())[0]:
            yield step[1]
    finally:
        capture.release()


def newest(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The newest frame of a camera or stream whenever one is wanted, the last one for certain; those that come in
    between are passed over. Read one after another they would come later and later, the detector being slower."""
    waiting, left = queue.Queue(maxsize=1), threading.Event()

    def read() -> None:
        try:
            while not left.is_set() and (step := capture.read())[0]:
                with contextlib.suppress(queue.Empty):
                    waiting.get_nowait()
                waiting.put(step[1])
        finally:
            waiting.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (frame := waiting.get()) is not None:
            yield frame
    finally:
        left.set()
        while reader.is_alive():  # it may wait for room, or for the camera
            with contextlib.suppress(queue.Empty):
                waiting.get_nowait()
            reader.join(0.05)
        capture.release()


def _open(item: Item) -> cv2.VideoCapture:
    """OpenCV's reader of a film. What it and FFmpeg print about one that fails is left to our one line."""
    with quiet_opencv():
        if is_camera(item.where):
            return cv2.VideoCapture(int(item.where))
        patience = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE_MS]
        return cv2.VideoCapture(item.where) if item.path else cv2.VideoCapture(item.where, cv2.CAP_FFMPEG, patience)


def _why_closed(item: Item) -> str:
    if is_camera(item.where):
        return "cannot be opened, expected the number of a camera that is there and not in use"
    if item.path:
        return "cannot be opened, expected a video"
    return (f"no stream answers there ({PATIENCE_MS / 1000:.0f} s at most are waited), expected the address of one "
            "that runs; check it with a player such as ffplay or VLC")
