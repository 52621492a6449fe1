"""Several pictures on one sheet."""

import math
from pathlib import Path

import cv2
import numpy as np

from utils.output import replacing

WIDEST = 1920  # pixels


def write_sheet(path: Path, images: list[np.ndarray]) -> None:
    """A square of equal (H, W, 3) RGB images as a JPG file, or a PNG file where `path` is one."""
    columns = math.ceil(math.sqrt(len(images)))
    images = images + [np.full_like(images[0], 114)] * (-len(images) % columns)
    whole = np.vstack([np.hstack(images[i:i + columns]) for i in range(0, len(images), columns)])
    if (zoom := WIDEST / whole.shape[1]) < 1:
        whole = cv2.resize(whole, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    kind = ".png" if path.suffix.lower() == ".png" else ".jpg"
    content = cv2.imencode(kind, cv2.cvtColor(whole, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    with replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())
