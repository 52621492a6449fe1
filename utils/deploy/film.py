"""Films as detect.py writes them: MP4 files of drawn frames, whole or not at all."""

import contextlib
import time
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np

from utils.deploy.opencv_log import quiet_opencv
from utils.deploy.sources import LEAST_RATE, MOST_RATE, USUAL_RATE, Item, frame_count
from utils.output import counted, replacing_all
from utils.places import OutputError

MEASURED_FRAMES = 20  # of a camera, from which the rate of its film is known


class FilmWriter:
    """A film of RGB frames, all brought to the size of the first. where: its place, for errors."""

    def __init__(self, path: Path, where: Path):
        self.path, self.where, self.count = path, where, 0
        self.size, self.writer = None, None  # (width, height) in pixels, known from the first frame on
        self._waiting: list[tuple[float, np.ndarray]] = []  # (seconds, frame) that come before the rate is known

    def write(self, frame: np.ndarray, rate: float | None) -> None:
        """Add a frame, (H, W, 3); rate: per second, of which the first counts. None: as fast as the first frames come,
        so that a camera's film lasts as long as what it shows, however slow the detection. A stream may change its size
        on the way, a file may not. Raises OutputError where the film cannot be begun."""
        if self.writer is not None or rate is not None:
            self._add(frame, rate)
            return
        self._waiting.append((time.perf_counter(), frame))
        if len(self._waiting) == MEASURED_FRAMES:
            self._add_waiting()

    def _add_waiting(self) -> None:
        seconds = self._waiting[-1][0] - self._waiting[0][0]
        rate = round((len(self._waiting) - 1) / seconds, 2) if seconds else USUAL_RATE
        for _, frame in self._waiting:
            self._add(frame, min(max(rate, LEAST_RATE), MOST_RATE))
        self._waiting.clear()

    def _add(self, frame: np.ndarray, rate: float) -> None:
        if self.writer is None:
            self._open(frame.shape[1::-1], rate)
        if frame.shape[1::-1] != self.size:
            frame = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def _open(self, size: tuple[int, int], rate: float) -> None:
        self.size = size
        with quiet_opencv():
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
        if not self.writer.isOpened():
            raise OutputError(f"{self.where}: cannot be written as a film of {size[0]}x{size[1]} pixels, {rate:g} "
                              "frames per second; nothing was written")

    def close(self) -> None:
        """Finish the file."""
        if self._waiting:
            self._add_waiting()
        if self.writer is not None:
            self.writer.release()


@contextlib.contextmanager
def film(path: Path) -> Iterator[FilmWriter]:
    """What writes an MP4 file beside `path`, which gets that name when the block ends. Raises OutputError where frames
    are missing in it, as on a full disk, of which OpenCV says nothing."""
    # OpenCV tells the kind of a film by the end of its name, so that it is the folder which has another
    with replacing_all(path) as folder:
        writer = FilmWriter(folder / path.name, path)
        try:
            yield writer
        finally:
            writer.close()
        held = frame_count(Item(str(writer.path), path, True))
        if held < writer.count:
            raise OutputError(f"{path}: cannot be written: {held:.0f} of {counted(writer.count, 'frame')} can be read "
                              "back, expected all; is the disk full?")
