"""How a picture becomes the network's input: the one place, so that training, scoring, detection and exports agree.

    image = read_image(path)                     # (H, W, 3) uint8 RGB
    canvas, fit = letterbox(image, size)         # (height, width, 3) uint8, and the way of boxes there and back
    images = to_input(planes(canvas)[None], device)   # (1, 3, height, width) float32 in 0..1
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BRIGHTNESS = (0.299, 0.587, 0.114)  # shares of red, green and blue
GREY = 127  # letterbox border, as Darknet's 0.5


def fitting_scale(width: int, height: int, size: tuple[int, int]) -> float:
    """Input pixels per image pixel of a (width, height) image that just fits in (width, height) `size`."""
    return min(size[0] / width, size[1] / height)


@dataclass(frozen=True)
class Letterbox:
    """How an image of (width, height) pixels lies in the network's input: resized by `scale`, border on both sides.

    The resized image has a whole number of pixels, so its two axes are scaled by slightly different factors
    (`scale_x`, `scale_y`). Boxes go through these, which makes the way there and back exact.
    """

    scale: float  # network pixels per image pixel, before rounding to whole pixels
    pad_x: int  # network pixels left of the image; an odd remainder lies on the right
    pad_y: int  # network pixels above the image; an odd remainder lies below
    width: int  # of the original image, pixels
    height: int

    @classmethod
    def fit(cls, width: int, height: int, size_w: int, size_h: int) -> "Letterbox":
        """The largest centred placement of a (width, height) image in a (size_w, size_h) input, aspect kept."""
        if min(width, height, size_w, size_h) < 1:
            raise ValueError(f"cannot fit {width} x {height} pixels in {size_w} x {size_h}; all sides must be >= 1")
        scale = fitting_scale(width, height, (size_w, size_h))
        resized_w, resized_h = cls(scale, 0, 0, width, height).resized
        return cls(scale, (size_w - resized_w) // 2, (size_h - resized_h) // 2, width, height)

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) of the resized image in whole network pixels, at least 1 each."""
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))

    @property
    def scale_x(self) -> float:
        """Network pixels per image pixel along x, after rounding."""
        return self.resized[0] / self.width

    @property
    def scale_y(self) -> float:
        """Network pixels per image pixel along y, after rounding."""
        return self.resized[1] / self.height

    def to_input(self, boxes_xyxy_px: Tensor) -> Tensor:
        """(..., 4) x1, y1, x2, y2 in pixels of the image -> the same boxes in pixels of the network's input."""
        return boxes_xyxy_px * self._factors(boxes_xyxy_px) + self._offsets(boxes_xyxy_px)

    def to_image(self, boxes_xyxy_px: Tensor, clipped: bool = True) -> Tensor:
        """(..., 4) x1, y1, x2, y2 in pixels of the network's input -> pixels of the image, clipped to the image."""
        boxes = (boxes_xyxy_px - self._offsets(boxes_xyxy_px)) / self._factors(boxes_xyxy_px)
        if not clipped:
            return boxes
        return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([self.width, self.height] * 2))

    def _factors(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.scale_x, self.scale_y] * 2)

    def _offsets(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.pad_x, self.pad_y] * 2)


def letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """Fit an RGB image, centred on grey, into (width, height) `size`: (H, W, 3) uint8, and how boxes go there and back.

    One resize straight from the image as decoded: shrunk by area (linear sampling would alias), enlarged linearly.
    """
    fit = Letterbox.fit(image.shape[1], image.shape[0], *size)
    width, height = fit.resized
    shrinks = width < image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    canvas = np.full((size[1], size[0], 3), GREY, np.uint8)
    canvas[fit.pad_y:fit.pad_y + height, fit.pad_x:fit.pad_x + width] = resized
    return canvas, fit


def planes(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 image -> (3, H, W) uint8 tensor, a view of it where that can be: as channels last, which
    `to_input` wants, nothing has to be moved."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a net takes: 3, as every net that does not say, or 1, brightness alone."""
    return getattr(model, "channels", 3)


def input_device(model: nn.Module) -> torch.device:
    """Where a net takes its images: its own `device` where it names one, as an exported file does, else that of its
    parameters."""
    return getattr(model, "device", None) or next(model.parameters()).device


def to_input(images: Tensor, device: torch.device, channels: int = 3) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> (B, channels, H, W) float32 in 0..1 on `device`, channels last.

    channels: `input_channels` of the net. Brightness is that of ITU-R BT.601, as in OpenCV and so in Darknet, but not
    rounded to whole levels.
    """
    images = images.to(device, non_blocking=True)
    pixels = images.to(dtype=torch.float32, memory_format=torch.channels_last) / 255
    if channels == 1:
        shares = pixels.new_tensor(BRIGHTNESS)
        return torch.einsum("bchw,c->bhw", pixels, shares)[:, None].contiguous(memory_format=torch.channels_last)
    return pixels


@dataclass(frozen=True)
class Square:
    """How an image of (width, height) pixels lies in the reference's input of `size` x `size` pixels."""

    width: int
    height: int
    size: int

    @property
    def pad(self) -> tuple[int, int]:
        """Border left of the image and above it, in pixels of the image."""
        side = max(self.width, self.height)
        return (side - self.width) // 2, (side - self.height) // 2

    def to_input(self, boxes_xyxy_px: Tensor) -> Tensor:
        """(..., 4) x1, y1, x2, y2 in pixels of the image -> the same boxes in pixels of the network's input."""
        return (boxes_xyxy_px + boxes_xyxy_px.new_tensor(self.pad * 2)) * (self.size / max(self.width, self.height))


def reference_square(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Square]:
    """The reference's input: (H, W, 3) RGB padded with black to a square, then resized by nearest neighbour.

    size: (width, height), both the same. Commit 9b0cf5b, utils/data/datasets.py: pad_to_square, then F.interpolate,
    whose choice of neighbours is kept by calling it. Returns (size, size, 3) uint8 and the way of boxes, like
    `letterbox.letterbox`.
    """
    height, width = image.shape[:2]
    fit = Square(width, height, size[0])
    left, top = fit.pad
    canvas = np.zeros((max(width, height), max(width, height), 3), np.uint8)
    canvas[top:top + height, left:left + width] = image
    resized = F.interpolate(torch.from_numpy(canvas).permute(2, 0, 1)[None], size=size[0], mode="nearest")[0]
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy()), fit
