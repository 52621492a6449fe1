"""The one place where pictures are decoded: bounded by the size that their headers claim, before memory is reserved."""

import io
import os
import struct
import warnings

import cv2
import numpy as np
from PIL import Image

from utils.limits import MOST_PICTURE_BYTES, MOST_PICTURE_PX

Image.MAX_IMAGE_PIXELS = MOST_PICTURE_PX  # Pillow's own bound, for what it decodes itself (GIF)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what it warns of is refused here


class TooLargeError(ValueError):
    """A picture has more pixels than are decoded; the message says how many, without the file's name."""


def decode(content: bytes | np.ndarray, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """The picture in a file's bytes as OpenCV gives it by its `flags`, (H, W, 3) BGR or (H, W); None where it cannot
    be decoded or is a JPEG cut short. Raises TooLargeError."""
    content = np.frombuffer(content, np.uint8)
    if cut_short(content) or chunks_overrun(content) or not len(content):
        return None
    require_size(content)
    try:
        return cv2.imdecode(content, flags)
    except (cv2.error, MemoryError):  # formats whose header Pillow does not know
        raise TooLargeError("found a picture that cannot be decoded in this machine's memory, expected at most "
                            f"{MOST_PICTURE_PX:,} pixels") from None


def picture_bytes(path: str | os.PathLike) -> np.ndarray:
    """A picture file's bytes, uint8. Raises TooLargeError, OSError."""
    if (size := os.stat(path).st_size) > MOST_PICTURE_BYTES:
        raise TooLargeError(f"found {size:,} bytes, expected a picture of at most {MOST_PICTURE_BYTES:,}")
    return np.fromfile(path, np.uint8)  # not imread: it cannot open every path on Windows


def cut_short(content: np.ndarray) -> bool:
    """Whether a JPEG lacks its end marker: OpenCV fills what is missing with grey and says nothing. That of a thumbnail
    in the header is another's; much may follow the picture's own (the film of a motion photo)."""
    return content[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in content[_scan_start(content):].tobytes()


def _scan_start(content: np.ndarray) -> int:
    """Where the header of a JPEG ends: marker, length and content of each segment, up to the first scan."""
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF and content[start + 1] != 0xDA:
        is_fill = content[start + 1] == 0xFF
        start += 1 if is_fill else 2 + int.from_bytes(content[start + 2:start + 4].tobytes(), "big")
    return start


def chunks_overrun(content: np.ndarray) -> bool:
    """Whether a PNG's chunk claims to reach beyond the file: OpenCV reserves what it claims, up to 4 GB."""
    if content[:8].tobytes() != b"\x89PNG\r\n\x1a\n":
        return False
    start = 8
    while start + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[start:start + 8].tobytes())
        if kind == b"IEND":
            return False
        start += 12 + length  # length, kind and checksum are 12 bytes
    return start > len(content)


def require_size(content: bytes | np.ndarray) -> None:
    """Raise TooLargeError where the header claims too many pixels."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        raise TooLargeError(f"found more than {2 * MOST_PICTURE_PX:,} pixels, expected at most "
                            f"{MOST_PICTURE_PX:,}") from None
    except Exception:  # a header that Pillow does not know, or whatever a damaged one leads it to: OpenCV decides
        return
    if width * height > MOST_PICTURE_PX:
        raise TooLargeError(f"found a picture of {width}x{height} pixels, expected at most {MOST_PICTURE_PX:,} in all")
