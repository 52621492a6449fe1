"""Training augmentations: image and boxes move together, randomness comes in as a generator.

Images are (H, W, 3) uint8 RGB; boxes are (n, 5) float32: class, x1, y1, x2, y2 in pixels of that image.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from utils.letterbox import GREY, fitting_scale

MIN_VISIBLE = 0.25  # a box of which less than this share of its area stays in view is no target
MIN_SIDE_PX = 2.0
CLOSE_UP = (0.3, 0.8)  # share of the input's side that the box of a close-up fills
# of a close-up, against the letterboxed image: a sliver at the edge of an image shows nothing when enlarged
MOST_ZOOM = 3.0


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the training augmentations; all zero is the plain letterbox."""

    flip: float = 0.5  # probability
    scale: float = 0.4  # zoom factor drawn from 1 - scale .. 1 + scale
    translate: float = 0.15  # shift up to this share of the side
    hsv: tuple[float, float, float] = (0.015, 0.6, 0.4)  # hue, saturation, value: relative gain up to
    mosaic: float = 0.0  # probability of a picture made of four
    close_up: float = 0.0  # probability of a zoom in which one box fills CLOSE_UP of the side
    grey: float = 0.0  # probability of a picture without colour
    blur: float = 0.0  # probability of a picture out of focus or in motion

    @property
    def warps(self) -> bool:
        """Whether single pictures are zoomed or shifted; else they are letterboxed, the very pixels of detection."""
        return bool(self.scale or self.translate or self.close_up)


AUGMENTATIONS = {
    "none": Augmentation(flip=0, scale=0, translate=0, hsv=(0, 0, 0)),
    "flip": Augmentation(scale=0, translate=0, hsv=(0, 0, 0)),
    "standard": Augmentation(),
    "strong": Augmentation(scale=0.5, translate=0.2, hsv=(0.02, 0.7, 0.5), close_up=0.2, grey=0.1, blur=0.1),
}


def letterbox_matrix(shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(2, 3) affine map that fits an image of (height, width) `shape`, centred, into (width, height) `size`."""
    zoom = fitting_scale(shape[1], shape[0], size)
    return np.array([[zoom, 0, (size[0] - zoom * shape[1]) / 2], [0, zoom, (size[1] - zoom * shape[0]) / 2]])


def jitter_matrix(rng: np.random.Generator, size: tuple[int, int], aug: Augmentation) -> np.ndarray:
    """(3, 3) random zoom about the centre and shift, in pixels of (width, height) `size`."""
    width, height = size
    zoom = rng.uniform(1 - aug.scale, 1 + aug.scale)
    shift_x, shift_y = rng.uniform(-aug.translate, aug.translate, 2) * (width, height)
    return np.array(
        [[zoom, 0, width / 2 * (1 - zoom) + shift_x], [0, zoom, height / 2 * (1 - zoom) + shift_y], [0, 0, 1]]
    )


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes under an axis-aligned affine map (2, 3); not clipped."""
    moved = boxes.copy()
    moved[:, [1, 3]] = boxes[:, [1, 3]] * matrix[0, 0] + matrix[0, 2]
    moved[:, [2, 4]] = boxes[:, [2, 4]] * matrix[1, 1] + matrix[1, 2]
    return moved


def clip_boxes(boxes: np.ndarray, window: tuple[float, float, float, float], clean: bool = True) -> np.ndarray:
    """Boxes cut to the window (x1, y1, x2, y2); with `clean`, those hardly visible in it are dropped."""
    clipped = boxes.copy()
    clipped[:, 1::2] = boxes[:, 1::2].clip(window[0], window[2])
    clipped[:, 2::2] = boxes[:, 2::2].clip(window[1], window[3])
    if not clean or not len(boxes):
        return clipped
    sides, whole = clipped[:, 3:5] - clipped[:, 1:3], boxes[:, 3:5] - boxes[:, 1:3]
    visible = sides.prod(1) >= MIN_VISIBLE * whole.prod(1)
    return clipped[visible & (sides.min(1) >= MIN_SIDE_PX)]


def place(image: np.ndarray, boxes: np.ndarray, matrix: np.ndarray, canvas: np.ndarray,
          window: tuple[int, int, int, int], clean: bool = True) -> np.ndarray:
    """Draw `image` under affine `matrix` into the window (x1, y1, x2, y2) of `canvas`; returns its boxes, clipped to
    it."""
    x1, y1, x2, y2 = window
    local = matrix.copy()
    local[:, 2] -= (x1, y1)
    shrinks = matrix[0, 0] < 0.6  # warpAffine samples: shrink by area first, or fine texture turns to noise
    if shrinks:
        half = cv2.resize(image, [max(side // 2, 1) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA)
        local[:, :2] *= (image.shape[1] / half.shape[1], image.shape[0] / half.shape[0])
        image = half
    local[:, 2] += 0.5 * (local[[0, 1], [0, 1]] - 1)  # boxes count from pixel edges, warpAffine from pixel centres
    cv2.warpAffine(image, local, (x2 - x1, y2 - y1), dst=canvas[y1:y2, x1:x2], flags=cv2.INTER_LINEAR,
                   borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3)
    return clip_boxes(warp_boxes(boxes, matrix), window, clean)


def augment_one(image: np.ndarray, boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator,
                aug: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """One picture, letterboxed into (width, height) `size`, zoomed and shifted."""
    canvas = np.full((size[1], size[0], 3), GREY, np.uint8)
    if aug.close_up and rng.uniform() < aug.close_up and len(boxes):
        matrix = close_up_matrix(boxes[rng.integers(len(boxes)), 1:], image.shape[:2], size, rng)
    else:
        matrix = (jitter_matrix(rng, size, aug) @ np.vstack([letterbox_matrix(image.shape[:2], size), [0, 0, 1]]))[:2]
    return canvas, place(image, boxes, matrix, canvas, (0, 0, *size))


def close_up_matrix(
    box: np.ndarray, shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """(2, 3) affine map of an image of (height, width) `shape` that lays `box` (x1, y1, x2, y2 in its pixels) whole
    into (width, height) `size`, at a random place; its longer side takes a share of the input's shorter one drawn from
    CLOSE_UP, as far as MOST_ZOOM allows."""
    sides = np.maximum(box[2:] - box[:2], MIN_SIDE_PX)
    fitted = min(size[0] / shape[1], size[1] / shape[0])
    zoom = min(rng.uniform(*CLOSE_UP) * min(size) / sides.max(), MOST_ZOOM * fitted)
    corner = rng.uniform(0, 1, 2) * (np.array(size) - zoom * sides)
    return np.array([[zoom, 0, corner[0] - zoom * box[0]], [0, zoom, corner[1] - zoom * box[1]]])


def augment_mosaic(pictures: list[tuple[np.ndarray, np.ndarray]], size: tuple[int, int], rng: np.random.Generator,
                   aug: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Four pictures round a random centre, each fitted to about `size` and zoomed (Bochkovskiy et al. 2020, section
    3.3)."""
    width, height = size
    canvas = np.full((height, width, 3), GREY, np.uint8)
    cx, cy = int(rng.uniform(0.3, 0.7) * width), int(rng.uniform(0.3, 0.7) * height)
    windows = [(0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height)]
    kept = []
    for (image, boxes), window in zip(pictures, windows):
        zoom = min(width / image.shape[1], height / image.shape[0]) * rng.uniform(0.5, 1 + aug.scale)
        spare_x = zoom * image.shape[1] - (window[2] - window[0])
        spare_y = zoom * image.shape[0] - (window[3] - window[1])
        # the picture's own part in view is drawn at random, so that its middle is not favoured
        matrix = np.array(
            [[zoom, 0, window[0] - rng.uniform() * spare_x], [0, zoom, window[1] - rng.uniform() * spare_y]]
        )
        kept.append(place(image, boxes, matrix, canvas, window))
    return canvas, np.concatenate(kept)


def flip_horizontal(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror left and right."""
    mirrored = boxes.copy()
    mirrored[:, [1, 3]] = image.shape[1] - boxes[:, [3, 1]]
    return np.ascontiguousarray(image[:, ::-1]), mirrored


def jitter_colour(image: np.ndarray, rng: np.random.Generator, gains: tuple[float, float, float]) -> np.ndarray:
    """Random hue, saturation and value, each multiplied by 1 - gain .. 1 + gain."""
    factors = 1 + rng.uniform(-1, 1, 3) * gains
    levels = np.arange(256)
    tables = [(levels * factors[0]) % 180, (levels * factors[1]).clip(0, 255), (levels * factors[2]).clip(0, 255)]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    channels = [cv2.LUT(channel, table.astype(np.uint8)) for channel, table in zip(cv2.split(hsv), tables)]
    return cv2.cvtColor(cv2.merge(channels), cv2.COLOR_HSV2RGB)


def degrade(image: np.ndarray, rng: np.random.Generator, aug: Augmentation) -> np.ndarray:
    """What cheap cameras do: no colour, out of focus, or moved while the shutter was open; with the probabilities of
    `aug`."""
    if aug.grey and rng.uniform() < aug.grey:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if aug.blur and rng.uniform() < aug.blur:
        width = 1 + 2 * int(rng.integers(1, 4))  # pixels of the input: 3, 5 or 7
        kernel = (width, width), (width, 1), (1, width)
        image = cv2.blur(image, kernel[rng.integers(3)])
    return image
