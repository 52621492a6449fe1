"""Backgrounds, skin-coloured things that are no hands, and the camera's faults: what surrounds the drawn hands.

Everything paints in place on a BGR uint8 canvas of (S, S, 3) and takes all of its chance from the generator given.
"""

import cv2
import numpy as np

from data.draw_hands import fill, paint_limb, skin_tone


def background(rng: np.random.Generator, side: int) -> np.ndarray:
    """(side, side, 3) uint8: smooth noise of several octaves under polygons, stripes, lines and blobs."""
    base, other = rng.uniform(10, 245, (2, 3)).astype(np.float32)
    if rng.random() < 0.5:  # rooms are greyer than chance
        base, other = (colour.mean() + (colour - colour.mean()) * np.float32(0.35) for colour in (base, other))
    coarse = side // 4  # the finest octave has 80 cells: a quarter of the side holds it
    ramp = cv2.resize(rng.random((2, 2)).astype(np.float32), (coarse, coarse), interpolation=cv2.INTER_LINEAR)
    image = base + (other - base) * rng.random(dtype=np.float32) * ramp[..., None]
    for cells in (3, 9, 27, 80):
        grey = rng.random() < 0.7
        noise = rng.standard_normal((cells, cells, 1 if grey else 3), np.float32) * np.float32(rng.uniform(2, 20))
        noise = cv2.resize(noise, (coarse, coarse), interpolation=cv2.INTER_CUBIC)
        image += noise[..., None] if grey else noise
    image = cv2.resize(np.clip(image, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_LINEAR)
    shapes = [_polygon, _stripes, _lines, _blob, _frame]
    for _ in range(rng.integers(4, 26)):
        shapes[rng.choice(5, p=[0.3, 0.15, 0.15, 0.25, 0.15])](image, rng)
    return image


def _colour(image: np.ndarray, rng: np.random.Generator) -> list[float]:
    """A BGR colour: near one that is already there, or any."""
    if rng.random() < 0.6:
        y, x = rng.integers(0, image.shape[0], 2)
        return (image[y, x] + rng.normal(0, 28, 3)).tolist()
    colour = rng.uniform(0, 255, 3)
    return (colour.mean() + (colour - colour.mean()) * rng.uniform(0.2, 1)).tolist()


def _polygon(image: np.ndarray, rng: np.random.Generator) -> None:
    centre, reach = rng.uniform(0, image.shape[0], 2), image.shape[0] * rng.uniform(0.04, 0.4)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    points = centre + reach * rng.uniform(0.4, 1, (len(angles), 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
    cv2.fillPoly(image, [points.astype(np.int32)], _colour(image, rng))


def _stripes(image: np.ndarray, rng: np.random.Generator) -> None:
    """A tilted patch of parallel stripes, two colours in turn."""
    centre, step = rng.uniform(0, image.shape[0], 2), image.shape[0] * rng.uniform(0.008, 0.04)
    angle, count = rng.uniform(0, np.pi), rng.integers(3, 14)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    length, colours = image.shape[0] * rng.uniform(0.05, 0.3), [_colour(image, rng), _colour(image, rng)]
    for k in range(count):
        middle = centre + across * step * k
        ends = [middle - along * length, middle + along * length]
        fill(image, np.array([ends[0], ends[1], ends[1] + across * step, ends[0] + across * step]), colours[k % 2])


def _lines(image: np.ndarray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 5)):
        ends = rng.integers(-40, image.shape[0] + 40, (2, 2)).tolist()
        cv2.line(image, ends[0], ends[1], _colour(image, rng), int(rng.integers(1, 12)))


def _blob(image: np.ndarray, rng: np.random.Generator) -> None:
    circles = _chain(rng, image.shape[0], n=int(rng.integers(1, 4)), radius=rng.uniform(0.01, 0.1))
    paint_limb(image, [circles], np.array(_colour(image, rng)), _light(rng))


def _frame(image: np.ndarray, rng: np.random.Generator) -> None:
    """A rectangle with an edge: furniture, a screen, a window."""
    x, y = rng.integers(-60, image.shape[0], 2).tolist()
    w, h = rng.integers(20, image.shape[0] // 2, 2).tolist()
    cv2.rectangle(image, (x, y), (x + w, y + h), _colour(image, rng), -1)
    cv2.rectangle(image, (x, y), (x + w, y + h), _colour(image, rng), int(rng.integers(1, 8)))


def _light(rng: np.random.Generator) -> np.ndarray:
    """(2,) unit vector in the image."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _chain(rng: np.random.Generator, side: int, n: int, radius: float, step: float = 2.2) -> np.ndarray:
    """(n, 4) circles along a wandering line; radius is a fraction of `side`, step a multiple of the radius."""
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.45, n))
    r = side * radius
    points = rng.uniform(0, side, 2) + np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * r * step, 0)
    return np.column_stack([points, np.zeros(n), r * rng.uniform(0.8, 1.1, n)])


def paint_distractor(image: np.ndarray, rng: np.random.Generator, light: np.ndarray) -> None:
    """One skin-coloured thing that is no hand, shaded as hands are: face, oval, sausage, rope, bare limb or bundle."""
    kinds = [_face, _oval, _sausage, _rope, _bare_limb, _bundle]
    kinds[rng.choice(6, p=[0.3, 0.12, 0.18, 0.12, 0.16, 0.12])](image, rng, skin_tone(rng), light)


def _face(image, rng, tone, light) -> None:
    """An oval head with hair, eyes, nose and mouth."""
    x, y = rng.uniform(0, image.shape[0], 2)
    r = image.shape[0] * rng.uniform(0.04, 0.15)
    tilt = rng.normal(0, 0.3)
    up, side = np.array([np.sin(tilt), -np.cos(tilt)]), np.array([np.cos(tilt), np.sin(tilt)])
    place = lambda across, along: np.array([x, y]) + (side * across + up * along) * r
    circles = np.array([[*place(0, 0.35), 0, r], [*place(0, -0.45), 0, r * 0.72]])
    hair = rng.uniform(10, 110) * np.array([0.5, 0.7, 1.0])
    paint_limb(image, [np.array([[*place(0, 0.5), 0, r * 1.12], [*place(0, 0.1), 0, r * 1.1]])], hair, light)
    paint_limb(image, [np.array([[*place(0, -1.0), 0, r * 0.5], [*place(0, -1.8), 0, r * 0.55]])], tone * 0.85, light)
    paint_limb(image, [circles], tone, light)
    for across in (-0.38, 0.38):
        eye = (place(across, 0.2).tolist(), (r * 0.34, r * 0.18), float(np.degrees(tilt)))
        cv2.ellipse(image, eye, (235, 235, 235), -1)
        cv2.circle(image, np.round(place(across, 0.2)).astype(int).tolist(), max(1, int(r * 0.09)), (25, 30, 40), -1)
    cv2.line(image, np.round(place(0, 0.15)).astype(int).tolist(), np.round(place(0.1, -0.25)).astype(int).tolist(),
             (tone * 0.7).tolist(), max(1, int(r * 0.06)))
    mouth = (place(0, -0.6).tolist(), (r * 0.6, r * 0.16), float(np.degrees(tilt)))
    cv2.ellipse(image, mouth, np.clip(tone * [0.6, 0.55, 0.85], 0, 255).tolist(), -1)


def _oval(image, rng, tone, light) -> None:
    circles = _chain(rng, image.shape[0], 2, rng.uniform(0.02, 0.12), step=rng.uniform(0.1, 1.0))
    paint_limb(image, [circles], tone, light)


def _sausage(image, rng, tone, light) -> None:
    circles = _chain(rng, image.shape[0], int(rng.integers(2, 5)), rng.uniform(0.012, 0.04))
    paint_limb(image, [circles[k:k + 2] for k in range(len(circles) - 1)], tone, light)


def _rope(image, rng, tone, light) -> None:
    circles = _chain(rng, image.shape[0], 14, rng.uniform(0.006, 0.016), step=3.0)
    paint_limb(image, [circles[k:k + 2] for k in range(13)], tone, light)


def _bare_limb(image, rng, tone, light) -> None:
    """An arm or leg that crosses the image and ends outside it."""
    side, direction = image.shape[0], _light(rng)
    middle = rng.uniform(0.1, 0.9, 2) * side
    radius = side * rng.uniform(0.02, 0.09)
    ends = [[*(middle - direction * side * 1.5), 0, radius], [*(middle + direction * side * 1.5), 0, radius * 1.3]]
    paint_limb(image, [np.array(ends)], tone, light)


def _bundle(image, rng, tone, light) -> None:
    """Three to six parallel rods side by side: like fingers, with no palm to them."""
    radius = image.shape[0] * rng.uniform(0.01, 0.03)
    start, along = rng.uniform(0, image.shape[0], 2), _light(rng)
    across = np.array([-along[1], along[0]])
    for k in range(rng.integers(3, 7)):
        foot = start + across * radius * 1.9 * k
        rod = np.array([[*foot, 0, radius], [*(foot + along * radius * rng.uniform(7, 10)), 0, radius]])
        paint_limb(image, [rod], tone * rng.uniform(0.9, 1.05), light)


def occluder(rng: np.random.Generator, centre_xy: np.ndarray, reach: float) -> list[np.ndarray]:
    """Hulls as circles (n, 4) of an object that may lie over a hand: a bar, a slab or a ball; pixels."""
    direction = _light(rng)
    kind = rng.choice(3)
    if kind == 0:
        length, radius = reach * rng.uniform(0.8, 2.5), reach * rng.uniform(0.06, 0.14)
    else:
        length, radius = reach * rng.uniform(0.1, 0.5) * (kind == 1), reach * rng.uniform(0.15, 0.3)
    middle = centre_xy + rng.normal(0, 0.35, 2) * reach
    return [np.array([[*(middle - direction * length), 0, radius], [*(middle + direction * length), 0, radius]])]


def camera(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Exposure, cast, blur and noise of a cheap camera: (S, S, 3) uint8 -> the same."""
    gamma, gain = rng.uniform(0.75, 1.3), rng.uniform(0.75, 1.15) * (1 + rng.normal(0, 0.04, 3))
    curve = np.clip(255 * (np.arange(256) / 255)[:, None] ** gamma * gain + rng.uniform(-6, 14), 0, 255)
    image = cv2.LUT(image, curve.astype(np.uint8).reshape(1, 256, 3))
    kind = rng.random()
    if kind < 0.45:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1))
    elif kind < 0.55:
        kernel = np.zeros((7, 7), np.float32)
        ends = np.round(3 + _light(rng) * [[-3], [3]] * rng.uniform(0.4, 1)).astype(int).tolist()
        cv2.line(kernel, ends[0], ends[1], 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    return cv2.add(image, grain(rng, image.shape, rng.uniform(0, 9)), dtype=cv2.CV_8U)


_GRAIN = np.random.default_rng(0).standard_normal((768, 768, 3), np.float32)  # one tile, cut anew for every image


def grain(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise (h, w, 3) float32 of standard deviation `sigma` grey levels, cut from a fixed tile."""
    repeats = -(-max(shape) // 512)
    tile = np.tile(_GRAIN, (repeats, repeats, 1)) if repeats > 1 else _GRAIN
    y, x = rng.integers(0, 257, 2)
    return tile[y:y + shape[0], x:x + shape[1]] * np.float32(sigma)
