"""OpenCV's own words, and FFmpeg's within it, which would stand beside the one line of ours."""

import os
from contextlib import contextmanager
from typing import Iterator

import cv2


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """In this block OpenCV logs nothing on stderr. FFmpeg, which asks but once, is quiet from then on."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
