"""Films that detect.py writes, and what it shows of a camera that is faster than the detector."""

import threading

import cv2
import numpy as np
import pytest
from conftest import small_disk

from utils.deploy import film as film_module
from utils.deploy.film import film
from utils.deploy.sources import newest
from utils.places import OutputError


@pytest.mark.parametrize("rate", [1.0, 23.976, 240.0])
def test_a_film_holds_every_frame_at_any_rate(tmp_path, rate):
    with film(tmp_path / "new" / "a.mp4") as writer:
        for side in (48, 48, 96):  # a stream may change its size
            writer.write(np.full((side, side, 3), 90, np.uint8), rate)
    read = cv2.VideoCapture(str(tmp_path / "new" / "a.mp4"))
    assert read.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and read.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=1e-3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_a_film_that_does_not_fit_on_the_disk_is_an_error_and_the_one_before_stays(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")
    noise = np.random.default_rng(0)
    with pytest.raises(OutputError, match=r"a.mp4: cannot be written: 0 of 60 frames can be read back"):
        with film(tmp_path / "a.mp4") as writer:
            with small_disk(20_000):
                for _ in range(60):
                    writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8), 10)
                writer.close()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_film_that_cannot_be_begun_is_an_error_at_its_first_frame(tmp_path):
    with pytest.raises(OutputError, match="a.mp4: cannot be written as a film of 64x48 pixels"):
        with film(tmp_path / "a.mp4") as writer:
            writer.path = tmp_path / "no folder" / "a.mp4"
            writer.write(np.zeros((48, 64, 3), np.uint8), 10)
    assert not list(tmp_path.iterdir())


def test_a_film_under_way_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), film(tmp_path / "a.mp4") as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 10)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count, seconds, rate", [(60, 0.08, 12.5), (5, 0.25, 4.0), (30, 4.0, 1.0), (1, 0.1, 25.0)])
def test_a_cameras_film_lasts_as_long_as_what_it_shows(tmp_path, monkeypatch, count, seconds, rate):
    """Frames of which the camera says nothing come `seconds` apart: the film shows them so, each once."""
    clock = iter(np.arange(count + 1) * seconds)
    monkeypatch.setattr(film_module.time, "perf_counter", lambda: next(clock))
    with film(tmp_path / "a.mp4") as writer:
        for value in np.linspace(0, 250, count):
            writer.write(np.full((48, 64, 3), value, np.uint8), None)
    read = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert read.get(cv2.CAP_PROP_FRAME_COUNT) == count and read.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=0.01)
    shown = [read.read()[1].mean() for _ in range(count)]
    assert shown == pytest.approx(np.linspace(0, 250, count), abs=6)


class Camera:
    """A stand-in for a cv2.VideoCapture: `count` frames, of which number i is full of i; endless without a count.

    seen: set once number 9 was read.
    """

    def __init__(self, count):
        self.count, self.number, self.released, self.seen = count, 0, False, threading.Event()

    def read(self):
        if self.number == 10:
            self.seen.set()
        if self.number == self.count:
            return False, None
        self.number += 1
        return True, np.full((2, 2, 3), min(self.number - 1, 255), np.uint8)

    def release(self):
        self.released = True


def test_a_detector_slower_than_the_camera_sees_its_newest_frame():
    camera = Camera(10)
    shown = newest(camera)
    numbers = [next(shown)[0, 0, 0]]
    assert camera.seen.wait(60)  # the camera went on while the first frame was worked on
    numbers += [frame[0, 0, 0] for frame in shown]
    assert numbers[-1] == 9 and len(numbers) <= 3 and numbers == sorted(set(numbers))
    assert camera.released


def test_a_camera_is_left_when_nobody_wants_more():
    camera = Camera(None)
    shown = newest(camera)
    next(shown)
    threads = threading.active_count()
    shown.close()
    assert camera.released and threading.active_count() == threads - 1
