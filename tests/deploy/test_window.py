"""detect.py --show: what a user does in its window."""

import signal

import cv2
import numpy as np
import pytest
from PIL import Image

from utils import signals
from utils.deploy import window
from utils.deploy.detection import Options, run
from utils.deploy.sources import expand

PICTURES = ("a.png", "b.png", "c.png")


class OneBox:
    """A stand-in for a net: one box in every picture."""

    names = ["hand"]

    def detect(self, image):
        return np.array([[2, 2, 20, 20, 0.9, 0]], np.float32)


class Screen:
    """A stand-in for OpenCV's windows. keys: what the user presses, "" for nothing, "x" closes the window."""

    error, WINDOW_NORMAL, WINDOW_KEEPRATIO, WINDOW_GUI_NORMAL, WND_PROP_VISIBLE = cv2.error, 0, 0, 16, 4
    COLOR_RGB2BGR, cvtColor = cv2.COLOR_RGB2BGR, cv2.cvtColor

    def __init__(self, keys):
        self.keys, self.shown, self.sizes, self.visible = list(keys), [], [], 0

    def namedWindow(self, title, flags):
        self.visible = 1

    def resizeWindow(self, title, width, height):
        self.sizes.append((width, height))

    def imshow(self, title, image):
        self.shown.append(image)

    def waitKey(self, wait_ms):
        key = self.keys.pop(0)
        self.visible = int(key != "x")
        return ord(key) if key not in ("", "x") else -1

    def getWindowProperty(self, title, name):
        return self.visible

    def destroyAllWindows(self):
        self.visible = 0


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Runs detect.py's loop with --show on sources while the user presses `keys`: the screen and what was written."""
    def show(items, keys, net=OneBox()):
        screen = Screen(keys)
        monkeypatch.setattr(window, "cv2", screen)
        monkeypatch.setenv("DISPLAY", ":0")
        run(net, items, Options(tmp_path / "out", show=True))
        return screen, sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json")
    return show


@pytest.fixture
def pictures(tmp_path):
    """Three pictures, one of them larger than a window gets."""
    for i, name in enumerate(PICTURES):
        Image.fromarray(np.full((40, 2560 if i == 1 else 60, 3), 90, np.uint8)).save(tmp_path / name)
    return [item for name in PICTURES for item in expand(str(tmp_path / name), tmp_path / "out")]


def test_a_picture_stays_until_a_key_is_pressed(shown, pictures):
    screen, written = shown(pictures, ["", "", "n", "", "n", "n"])
    assert written == list(PICTURES) and len(screen.shown) == 3 and not screen.keys and not screen.visible
    assert screen.shown[0].shape == (40, 60, 3) and (screen.shown[0] != 90).any()  # the box is drawn
    assert screen.sizes == [(60, 40)]


def test_a_window_is_no_larger_than_a_screen(shown, pictures):
    screen, _ = shown(pictures[1:2], ["n"])
    assert screen.sizes == [(1280, 20)]


@pytest.mark.parametrize("end", ["q", "Q", "\x1b", "x"])
def test_q_escape_and_closing_the_window_end_it_and_keep_what_was_found(shown, pictures, end):
    screen, written = shown(pictures, ["n", "", end])
    assert written == list(PICTURES[:2]) and len(screen.shown) == 2 and not screen.visible


def test_a_film_does_not_wait(shown, tmp_path):
    images = [Image.fromarray(np.full((32, 48, 3), 20 * i + 10, np.uint8)) for i in range(5)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
    screen, written = shown(expand(str(tmp_path / "a.gif"), tmp_path / "out"), ["", "n", "", "q"])
    assert written == ["a_detected.mp4"] and len(screen.shown) == 4
    assert cv2.VideoCapture(str(tmp_path / "out/a_detected.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4


def test_a_signal_ends_the_wait_for_a_key(shown, pictures):
    class Ended(OneBox):
        def detect(self, image):
            signal.raise_signal(signal.SIGTERM)
            return super().detect(image)

    with pytest.raises(signals.Ended):
        shown(pictures, [""], Ended())


def test_without_a_screen_or_windows_it_says_so_before_anything_is_done(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(window.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="--show: found no screen here .*, expected one"):
        run(OneBox(), pictures, Options(tmp_path / "out", show=True))
    assert not (tmp_path / "out").exists()


def test_an_opencv_without_windows_is_named(shown, pictures, monkeypatch):
    def none(self, title, flags):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(Screen, "namedWindow", none)
    with pytest.raises(ValueError, match="--show: found an OpenCV without windows, expected the package opencv-python"):
        shown(pictures, [])
