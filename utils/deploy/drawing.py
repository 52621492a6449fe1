"""Detections drawn on pictures: boxes, and labels in any script that do not hide each other."""

import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.evaluation.mistakes import Mistakes

GREEN, RED, ORANGE = (46, 204, 113), (231, 76, 60), (230, 126, 34)
PALETTE = [GREEN, (52, 152, 219), RED, (241, 196, 15), (155, 89, 182), (26, 188, 156), ORANGE]
SMALLEST_TEXT = 11  # pixels
LEGIBLE = 640  # pixels of an image's side that leave the picture visible beside its labels
ORNATE = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black", "condensed")  # fonts taken last


def draw(image: np.ndarray, rows: np.ndarray, names: list[str], scores: bool = True) -> np.ndarray:
    """A copy of the (H, W, 3) RGB uint8 image with its boxes, each labelled with class and score.

    rows: (n, 6) x1, y1, x2, y2 in pixels, score, class; the best first: it keeps the place for its label. A name whose
    letters no font of this machine has is replaced by the class number. scores: whether labels show them.
    """
    texts = [(class_text(names, int(row[5])), f"{row[4]:.2f}" if scores else "") for row in rows]
    return draw_boxes(image, rows[:, :4], texts, [PALETTE[int(row[5]) % len(PALETTE)] for row in rows])


def draw_mistakes(image: np.ndarray, mistakes: Mistakes, names: list[str]) -> np.ndarray:
    """The (H, W, 3) RGB uint8 image with what was found in green, what was missed in red and false alarms in orange; a
    small image is enlarged, by a whole number."""
    zoom = max(LEGIBLE // max(image.shape[:2]), 1)
    boxes, texts, colours = [], [], []
    for word, rows, colour in (("missed ", mistakes.missed, RED), ("false ", mistakes.false_alarms, ORANGE),
                               ("", mistakes.found, GREEN)):
        boxes.append(zoom * rows[:, :4])
        texts += [(word + class_text(names, int(row[5])), "" if colour == RED else f"{row[4]:.2f}") for row in rows]
        colours += [colour] * len(rows)
    return draw_boxes(image.repeat(zoom, axis=0).repeat(zoom, axis=1), np.concatenate(boxes), texts, colours)


def draw_boxes(image: np.ndarray, boxes: np.ndarray, texts: list[tuple[str, str]],
               colours: list[tuple[int, int, int]]) -> np.ndarray:
    """A copy of the (H, W, 3) RGB uint8 image with (n, 4) boxes x1, y1, x2, y2 in pixels, each with its (name, score)
    and its colour; the first ones keep the place for their labels."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    text_px = max(round(max(height, width) / 50), SMALLEST_TEXT)
    labels = [Label.fitting(name, score, text_px, width) for name, score in texts]
    places = place_labels(boxes, [label.size for label in labels], (width, height))
    for box, colour in reversed(list(zip(boxes, colours))):
        pen.rectangle([float(x) for x in box], outline=colour, width=max(round(max(height, width) / 320), 1))
    for label, colour, place in reversed(list(zip(labels, colours, places))):
        label.draw(pen, place, colour)
    return np.array(picture)


def class_text(names: list[str], label: int) -> str:
    """The name of class `label` on one line; "class3" where there is none or no font has its letters."""
    name = names[label] if label < len(names) else ""
    words = unicodedata.normalize("NFC", name).split()
    return " ".join(words) if words and all(map(font_file, words)) else f"class{label}"


class Label:
    """A line of text, each word in a font that has its letters, and the room that it takes."""

    def __init__(self, text: str, text_px: int):
        self.words = [(word, _font(font_file(word) or _font_files()[0], text_px)) for word in text.split()]
        self.gap, self.margin = max(text_px // 3, 1), max(text_px // 6, 1)
        self.rise = max(font.getmetrics()[0] for _, font in self.words)  # from the baseline up
        widths = [round(font.getlength(word)) for word, font in self.words]
        self.starts = [sum(widths[:i]) + i * self.gap + self.margin for i in range(len(widths))]
        self.size = (self.starts[-1] + widths[-1] + self.margin,
                     self.rise + max(font.getmetrics()[1] for _, font in self.words) + self.margin)  # width, height

    @classmethod
    def fitting(cls, name: str, score: str, text_px: int, width: int) -> "Label":
        """`name` and `score`, the name shortened with dots where both are wider than `width` pixels."""
        label = cls(f"{name} {score}", text_px)
        while label.size[0] > width and len(name) > 1:
            name = name[:min(len(name) * width // label.size[0], len(name) - 1) or 1].rstrip()
            label = cls(f"{name}... {score}", text_px)
        return label

    def draw(self, pen: ImageDraw.ImageDraw, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
        """Write it on a ground of `colour`, its left upper corner at `place`."""
        left, top = place
        pen.rectangle((left, top, left + self.size[0] - 1, top + self.size[1] - 1), fill=colour)
        ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
        for (word, font), start in zip(self.words, self.starts):
            pen.text((left + start, top + self.rise), word, font=font, fill=ink, anchor="ls")


def place_labels(boxes: np.ndarray, sizes: list[tuple[int, int]], picture: tuple[int, int]) -> list[tuple[int, int]]:
    """Left upper corners of labels of `sizes` (width, height) for (n, 4) boxes, inside a picture of (width, height).

    boxes: x1, y1, x2, y2. A label goes above its box, else inside, below or beside it: the first place that hides no
    label placed before, or the one that hides least.
    """
    taken = np.zeros((0, 4))
    places = []
    for box, size in zip(boxes, sizes):
        corners = _candidates(box, size, picture)
        areas = np.concatenate([corners, corners + size], axis=1)  # (candidates, 4) x1, y1, x2, y2
        overlap = np.minimum(areas[:, None, 2:], taken[:, 2:]) - np.maximum(areas[:, None, :2], taken[:, :2])
        best = overlap.clip(min=0).prod(axis=2).sum(axis=1).argmin()  # the first of the least
        taken = np.concatenate([taken, areas[best:best + 1]])
        places.append((int(corners[best, 0]), int(corners[best, 1])))
    return places


def _candidates(box: np.ndarray, size: tuple[int, int], picture: tuple[int, int]) -> np.ndarray:
    """(n, 2) left upper corners to try for a label of (width, height) `size`, the best first, all in the picture."""
    (x1, y1, x2, y2), (w, h) = box, size
    corners = [(left, top) for top in (y1 - h, y1, y2, y2 - h) for left in (x1, x2 - w)]
    steps = [step for i in range(1, picture[1] // h + 1) for step in (-i * h, i * h)]
    corners += [(left, y1 + step) for step in steps for left in (x1, x1 - w, x2)]
    return np.array(corners).round().clip(0, (max(picture[0] - w, 0), max(picture[1] - h, 0)))


@lru_cache(maxsize=4096)
def font_file(word: str) -> str | None:
    """A font that has every letter of `word`: DejaVu Sans, which matplotlib brings, or one of the system's, or None."""
    letters = {letter for letter in word if unicodedata.category(letter) != "Cf"}  # Cf: joiners, which show nothing
    return next((path for path in _font_files() if letters <= _letters_of(path)), None)


_font = lru_cache(maxsize=64)(ImageFont.truetype)


@lru_cache(maxsize=1)
def _font_files() -> tuple[str, ...]:
    """Font files to look through, the plainest first."""
    from matplotlib import font_manager, get_data_path  # here, as scripts that draw nothing start without it

    def plainness(path: str) -> tuple:
        name = Path(path).stem.lower()
        return any(style in name for style in ORNATE), name

    # Apple's font of last resort claims every letter, and draws a box for it
    found = (path for path in font_manager.findSystemFonts() if "lastresort" not in path.lower())
    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", *sorted(found, key=plainness)


@lru_cache(maxsize=None)
def _letters_of(path: str) -> frozenset[str]:
    """The letters that a font file can draw at any size; none where it cannot be used."""
    from matplotlib.ft2font import FT2Font

    try:
        _font(path, SMALLEST_TEXT)  # raises for fonts of coloured pictures, which have one fixed size
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
