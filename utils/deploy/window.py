"""The window of detect.py --show."""

import contextlib
import os
import sys

import cv2
import numpy as np

from utils.signals import Notice

TITLE = "detect.py (q ends)"
ENDING = {ord("q"), ord("Q"), 27}  # 27: Esc
MOST_SIDE_PX = 1280  # of a window when it opens
LOOK_MS = 40  # between two looks at the keys and the signals


class Window(contextlib.AbstractContextManager):
    """Shows drawn pictures, where it is `wanted`. notice: of a signal, which ends as well.

    ends: whether the user closed it, or pressed q or Esc, or a signal came. Raises ValueError without a screen.
    """

    def __init__(self, wanted: bool, notice: Notice):
        on_linux = sys.platform.startswith("linux")  # where OpenCV would end the process
        if wanted and on_linux and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise ValueError("--show: found no screen here (DISPLAY is not set), expected one; without --show what is "
                             "drawn goes to files alone")
        self.wanted, self.notice, self._is_open, self._closed = wanted, notice, False, False

    @property
    def ends(self) -> bool:
        """Whether no more is to be detected."""
        return self._closed or self.notice.number is not None

    def show(self, image: np.ndarray, still: bool) -> None:
        """Show an (H, W, 3) RGB image; still: until a key is pressed, as a picture; a film goes on at once."""
        if not self.wanted:
            return
        if not self._is_open:
            self._open(image)
        cv2.imshow(TITLE, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        key = self._key(1)
        while still and key < 0 and not self.ends:
            key = self._key(LOOK_MS)

    def _open(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        zoom = min(MOST_SIDE_PX / max(height, width), 1)
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error:
            raise ValueError("--show: found an OpenCV without windows, expected the package opencv-python: pip "
                             "uninstall opencv-python-headless, then pip install --force-reinstall opencv-python"
                             ) from None
        cv2.resizeWindow(TITLE, round(width * zoom), round(height * zoom))
        self._is_open = True

    def _key(self, wait_ms: int) -> int:
        """The key that was pressed within `wait_ms`, -1 for none."""
        key = cv2.waitKey(wait_ms)
        self._closed = key in ENDING or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
        return key

    def __exit__(self, *error) -> None:
        if self._is_open:
            cv2.destroyAllWindows()
