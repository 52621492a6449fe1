"""A picture of pictures: some of an imported set, with their boxes drawn, to look at before anything is trained."""

import math
from pathlib import Path

import cv2
import numpy as np

from utils.data.image_files import read_image
from utils.data.labels import Entry, Row
from utils.output import replacing

TILE = 320  # px, width
CAPTION = 18  # px beneath a picture
COLUMNS = 5
PICTURES = 20
BACKGROUND = 40  # grey
COLOURS = ((255, 80, 60), (80, 200, 255), (120, 230, 90), (255, 210, 60), (230, 110, 255), (255, 255, 255),
           (60, 110, 255), (255, 150, 180))


def chosen(entries: list[Entry], seed: int, count: int = PICTURES) -> list[Entry]:
    """Up to `count` entries: from every list its share, most of them with boxes."""
    order = np.random.default_rng(seed).permutation(len(entries))
    ranked = [entries[i] for i in order]
    with_boxes = [entry for entry in ranked if entry.rows]
    without = [entry for entry in ranked if not entry.rows]
    few = min(len(without), max(count // 10, count - len(with_boxes)))
    picked = with_boxes[:count - few] + without[:few]
    return sorted(picked, key=lambda entry: (entry.part, entry.name))


def tile(image: np.ndarray, rows: list[Row], names: list[str], caption: str, height: int) -> np.ndarray:
    """(height, TILE, 3) RGB: the picture shrunk to fit, boxes in their class's colour, a caption beneath."""
    scale = min(TILE / image.shape[1], (height - CAPTION) / image.shape[0])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    canvas = np.full((height, TILE, 3), BACKGROUND, np.uint8)
    left = (TILE - size[0]) // 2
    picture = canvas[:size[1], left:left + size[0]]
    picture[:] = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for row in rows:
        _draw(picture, row, names)
    text = caption.encode("ascii", "replace").decode()  # OpenCV's fonts have no other letters
    cv2.putText(canvas, text[:46], (4, height - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (230, 230, 230), 1, cv2.LINE_AA)
    return canvas


def _draw(picture: np.ndarray, row: Row, names: list[str]) -> None:
    height, width = picture.shape[:2]
    corner = round((row.cx - row.w / 2) * width), round((row.cy - row.h / 2) * height)
    opposite = round((row.cx + row.w / 2) * width), round((row.cy + row.h / 2) * height)
    number = names.index(row.name)
    colour = COLOURS[number % len(COLOURS)]
    cv2.rectangle(picture, corner, (min(opposite[0], width - 1), min(opposite[1], height - 1)), colour, 2)
    if len(names) > 1:
        text = row.name if row.name.isascii() else str(number)
        at = corner[0] + 2, max(corner[1] - 4, 10)
        for shade, thick in (((0, 0, 0), 3), (colour, 1)):
            cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, shade, thick, cv2.LINE_AA)


def write_contact_sheet(path: Path, entries: list[Entry], images: Path, names: list[str], seed: int) -> None:
    """Draw some entries, whose pictures lie in the folder `images`, as training will read them."""
    shown = chosen(entries, seed)
    height = CAPTION + round(TILE * float(np.clip(np.median([e.size[1] / e.size[0] for e in shown]), 0.4, 2)))
    tiles = [tile(read_image(images / entry.name, 2 * TILE), entry.rows, names, f"{entry.part}: {entry.name}", height)
             for entry in shown]
    columns = min(COLUMNS, len(tiles))
    tiles += [np.full((height, TILE, 3), BACKGROUND, np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i * columns:(i + 1) * columns]) for i in range(math.ceil(len(tiles) / columns))]
    content = cv2.imencode(".jpg", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    with replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())
