"""Pictures that EXIF asks to be shown otherwise than they are stored: OpenCV turns them as it reads them."""

import cv2
import numpy as np

from utils.data.decoding import decode

TIFF_MARKS = (b"II*\0", b"MM\0*")
KEPT_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")  # of pictures that are written in their own format


def decode_stored(content: bytes) -> np.ndarray | None:
    """(H, W, 3) BGR as stored, whatever EXIF says; None where it cannot be decoded."""
    return decode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def is_turned(content: bytes) -> bool:
    """Whether a picture is shown otherwise than it is stored."""
    if b"exif" not in content.lower() and content[:4] not in TIFF_MARKS:
        return False
    stored, shown = decode_stored(content), decode(content)
    return stored.shape != shown.shape or bool((stored != shown).any())


def encode_stored(content: bytes, suffix: str) -> bytes:
    """The picture written anew without its turn: JPEG of quality 95, or the format that `suffix` names."""
    if suffix.lower() in KEPT_SUFFIXES:
        return cv2.imencode(suffix.lower(), decode_stored(content))[1].tobytes()
    return cv2.imencode(".jpg", decode_stored(content), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
