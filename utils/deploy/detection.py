"""The loop of detect.py: in each picture and film detect, draw, show and write."""

import contextlib
import itertools
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np

from utils import signals
from utils.data.yolo_labels import DataError
from utils.deploy.detector import Detector
from utils.deploy.drawing import draw
from utils.deploy.film import film
from utils.deploy.results import Results, result_of, write_labels, write_picture
from utils.deploy.sources import Item, frame_count, frames, read_picture
from utils.deploy.window import Window
from utils.output import counted

SECONDS_BETWEEN_LINES = 10.0  # about a camera or stream, which has no end


@dataclass(frozen=True)
class Options:
    """What detect.py writes and shows; see its --help."""

    out: Path
    max_frames: int = 0  # where to end a film; 0: at its end
    skip_bad: bool = False
    pictures: bool = True
    save_txt: bool = False
    show: bool = False


def expected_images(items: Sequence[Item], max_frames: int = 0) -> float:
    """How many pictures and frames there are in all; a camera never ends, unless max_frames ends it."""
    return sum(min(frame_count(item), (max_frames or math.inf) if item.is_film else 1) for item in items)


def run(detector: Detector, items: Sequence[Item], options: Options) -> None:
    """Detect in all `items`; what is drawn, and detections.json of all of them, go to `options.out`.

    Raises DataError on what cannot be read, after writing what was found before it; with skip_bad says so and goes on.
    Told to end by a signal it ends after the picture or frame under way, writes what was found so far and raises
    signals.Ended, unless it was Ctrl-C at the last item and that is live: nothing else ends a camera without a window.
    """
    with signals.held() as notice:
        with Results(options.out / "detections.json") as results, Window(options.show, notice) as window:
            detection = Detection(detector, options, results, window)
            failure = detection.all(items)
            if failure and not results.count:
                raise failure
        print(results.words)
        if failure:
            raise failure
        if notice.number == signal.SIGINT and detection.item is items[-1] and detection.item.path is None:
            print("stopped")
            notice.number = None


class Detection:
    """Detects in items, one after another. item: the one under way."""

    def __init__(self, detector: Detector, options: Options, results: Results, window: Window):
        self.detector, self.options, self.results, self.window = detector, options, results, window
        self.item, self.taken = None, set()

    def all(self, items: Sequence[Item]) -> DataError | None:
        """Detect in all of them, or until the window ends it; returns what could not be read, where that ended it."""
        self.taken = {item.path.resolve() for item in items if item.path}  # no source is overwritten where `out` has it
        skipped = 0
        for item in items:
            self.item = item
            try:
                self.film() if self.item.is_film else self.picture()
            except DataError as error:
                if not self.options.skip_bad:
                    return error
                print(f"skipped: {error}")
                skipped += 1
            if self.window.ends:
                break
        if skipped:
            print(f"{skipped} of {len(items)} sources skipped")
        return None

    def picture(self) -> None:
        """Detect in the item, a picture."""
        image = read_picture(self.item.path)
        started = time.perf_counter()
        rows = self.detector.detect(image)
        words = f"{self.item.shown}: {len(rows)} found in {1e3 * (time.perf_counter() - started):.0f} ms"
        drawn = self.drawn(image, rows)
        if self.options.pictures:
            suffix = ".png" if self.item.path.suffix.lower() in (".png", ".bmp", ".gif") else ".jpg"
            target = self.free(self.options.out / f"{self.item.name}{suffix}")
            write_picture(target, drawn)
            words += f" -> {target}"
        self.note(image, rows)
        print(words)
        self.window.show(drawn, still=True)

    def film(self) -> None:
        """Detect in the item, a film."""
        target = self.free(self.options.out / f"{self.item.name}_detected.mp4")
        pace = Pace(self.item)
        with film(target) if self.options.pictures else contextlib.nullcontext() as writer:
            shown = itertools.islice(frames(self.item), self.options.max_frames or None)
            for number, (frame, rate) in enumerate(shown):
                rows = self.detector.detect(frame)
                drawn = self.drawn(frame, rows)
                if writer:
                    writer.write(drawn, rate)
                self.note(frame, rows, number)
                self.window.show(drawn, still=False)
                pace.step(len(rows))
                if self.window.ends:
                    break
        print(f"{pace.words()} -> {target}" if self.options.pictures else pace.words())

    def drawn(self, image: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The picture with its boxes, where anybody wants to see it."""
        wanted = self.options.pictures or self.options.show
        return draw(image, rows, self.detector.names) if wanted else image

    def note(self, image: np.ndarray, rows: np.ndarray, frame: int | None = None) -> None:
        """Write what was found in a picture, or in a frame of a film."""
        number = {} if frame is None else {"frame": frame}
        self.results.add(result_of(self.item, image, rows, self.detector.names) | number)
        if self.options.save_txt:
            end = "" if frame is None else f"_{frame:06}"
            write_labels(self.free(self.options.out / "labels" / f"{self.item.name}{end}.txt"), image, rows)

    def free(self, path: Path) -> Path:
        """`path`, with _ before its name while it is taken, as where two sources hold files of one name."""
        while path.resolve() in self.taken:
            path = path.with_name(f"_{path.name}")
        self.taken.add(path.resolve())
        return path


class Pace:
    """How many frames of a film are done, and how fast; says so now and then of one that has no end."""

    def __init__(self, item: Item):
        self.item, self.count, self.started = item, 0, time.perf_counter()
        self.said = self.started

    def step(self, found: int) -> None:
        """A frame is done in which so many were `found`."""
        self.count += 1
        if self.item.path is None and time.perf_counter() - self.said >= SECONDS_BETWEEN_LINES:
            self.said = time.perf_counter()
            print(f"{self.words()}, {found} found in the last", flush=True)

    def words(self) -> str:
        """Frames and frames per second so far."""
        rate = self.count / (time.perf_counter() - self.started)
        return f"{self.item.shown}: {counted(self.count, 'frame')}, {rate:.1f} per second"
