"""Draw hands over clutter and write them as the Oxford hand release is written, .mat files included.

    python data/synthesize_hands.py --out data/demo --train 800 --valid 200 --test 200
    python data/converter.py --root data/demo

Image i of a split depends on the seed, the split and i alone, so any number of workers writes the same bytes, and an
interrupted run goes on where it stopped.
"""

import argparse
import io
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
from scipy.io import savemat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from data import draw_clutter, draw_hands  # noqa: E402
from utils import cli, signals  # noqa: E402
from utils.output import replacing  # noqa: E402
from utils.progress import Progress  # noqa: E402

FOLDERS = {"train": "training_dataset/training_data", "valid": "validation_dataset/validation_data",
           "test": "test_dataset/test_data"}
N_HANDS_P = (0.08, 0.36, 0.30, 0.16, 0.10)  # probability of 0, 1, 2, 3, 4 hands
SUPERSAMPLE = 2  # canvas pixels per image pixel
DRAWING = 1  # raise when a change of the drawing changes the images of a seed
CORNERS = "abcd"


@dataclass(frozen=True)
class Difficulty:
    """How hard the pictures are."""

    sides: tuple[float, float] = (0.08, 0.60)  # longer side of a hand's upright box, fraction of the image side
    most_hands: int = 4  # an image
    min_visible: float = 0.45  # of a hand's area; a hand that would be covered or cut more is not drawn


class Scene:
    """A canvas under construction and what is still visible of each hand on it. S is its side in canvas pixels."""

    def __init__(self, rng: np.random.Generator, size: int, difficulty: Difficulty = Difficulty()):
        self.rng, self.side, self.difficulty = rng, size * SUPERSAMPLE, difficulty
        self.canvas = draw_clutter.background(rng, self.side)  # (S, S, 3) BGR
        self.owner = np.zeros((self.side, self.side), np.uint8)  # (S, S) 0, or 1 + the hand a pixel belongs to
        angle = rng.uniform(0, 2 * np.pi)
        self.light = np.array([np.cos(angle), np.sin(angle)])
        self.hands: list[draw_hands.Hand] = []
        self.areas: list[int] = []  # canvas pixels of each whole hand, in the image or not
        self.visible = np.zeros(0, int)  # (n_hands,) canvas pixels of each hand that can be seen

    def mask(self, hulls: list[np.ndarray]) -> np.ndarray:
        """(S, S) uint8 0/1 union of hulls (m, 2)."""
        mask = np.zeros_like(self.owner)
        for polygon in hulls:
            draw_hands.fill(mask, polygon, 1)
        return mask

    def covers(self, mask: np.ndarray) -> np.ndarray:
        """(n_hands,) canvas pixels of each hand that a thing of shape `mask` would hide."""
        return np.bincount(self.owner[mask > 0], minlength=len(self.areas) + 1)[1:]

    def spares_hands(self, hidden: np.ndarray) -> bool:
        """Whether every hand stays visible enough with `hidden` (n_hands,) more pixels gone."""
        return bool((self.visible - hidden >= self.difficulty.min_visible * np.array(self.areas)).all())

    def add_hand(self) -> bool:
        """Draw one more hand with its arm. False, and nothing drawn, where it would be cut or would cover another."""
        low, high = np.log(self.difficulty.sides)
        side_px = np.exp(self.rng.uniform(low, high)) * self.side
        margin = min(side_px * (0.5 if self.rng.random() < 0.75 else 0.1), self.side / 2)
        hand = draw_hands.make_hand(self.rng, side_px, self.rng.uniform(margin, self.side - margin, 2))
        mask, area = self.mask(hand.parts), _area(hand.parts)
        arm = self.mask([draw_hands.hull(bone * [1, 1, 1, 1.15]) for bone in (hand.arm[:2], hand.arm[1:])])
        seen, hidden = cv2.countNonZero(mask), self.covers(mask | arm)
        if seen < self.difficulty.min_visible * area or not self.spares_hands(hidden):
            return False
        self._paint(hand, mask, arm)
        self.hands.append(hand)
        self.areas.append(area)
        self.visible = np.append(self.visible - hidden, seen)
        self.owner[arm > 0] = 0
        self.owner[mask > 0] = len(self.hands)
        return True

    def _paint(self, hand: draw_hands.Hand, mask: np.ndarray, arm: np.ndarray) -> None:
        tone = draw_hands.skin_tone(self.rng)
        draw_hands.paint_arm(self.canvas, hand, self.rng, tone, self.light)
        draw_hands.paint_hand(self.canvas, hand, self.rng, tone, self.light)
        x, y, w, h = cv2.boundingRect(mask | arm)
        draw_hands.finish(self.canvas[y:y + h, x:x + w], (mask | arm)[y:y + h, x:x + w], hand.scale, self.rng)

    def add_occluder(self) -> None:
        """Lay an object over one of the hands, unless too little of it would be left."""
        hand = self.hands[self.rng.integers(len(self.hands))]
        limbs = draw_clutter.occluder(self.rng, hand.corners_xy().mean(0), hand.scale * 1.6)
        mask = self.mask([draw_hands.hull(limb) for limb in limbs])
        if self.spares_hands(self.covers(mask)):
            draw_hands.paint_limb(self.canvas, limbs, self.rng.uniform(20, 235, 3), self.light)


def _area(hulls: list[np.ndarray]) -> int:
    """Pixels of the union of hulls (m, 2), inside the image or not."""
    points = np.concatenate(hulls)
    low = np.floor(points.min(0)) - 1
    width, height = (np.ceil(points.max(0)) - low + 2).astype(int)
    mask = np.zeros((height, width), np.uint8)
    for polygon in hulls:
        draw_hands.fill(mask, polygon - low, 1)
    return int(mask.sum())


def render(
    seed: int, split: str, i: int, size: int, difficulty: Difficulty = Difficulty()
) -> tuple[np.ndarray, np.ndarray]:
    """Image i of a split: (size, size, 3) uint8 BGR and the corners of its hands, (N, 4, 2) x, y in image pixels."""
    rng = np.random.default_rng([seed, list(FOLDERS).index(split), i])
    scene = Scene(rng, size, difficulty)
    for _ in range(rng.integers(0, 5)):
        draw_clutter.paint_distractor(scene.canvas, rng, scene.light)
    wanted = min(int(rng.choice(5, p=N_HANDS_P)), difficulty.most_hands)
    for _ in range(4 * wanted):
        if len(scene.hands) < wanted:
            scene.add_hand()
    if scene.hands and rng.random() < 0.3:
        scene.add_occluder()
    image = cv2.resize(scene.canvas, (size, size), interpolation=cv2.INTER_AREA)
    corners = np.array([hand.corners_xy() for hand in scene.hands]).reshape(-1, 4, 2) / SUPERSAMPLE
    return draw_clutter.camera(rng, image), corners


def mat_bytes(corners_xy: np.ndarray) -> bytes:
    """The release's .mat: `boxes`, a 1xN cell of structs whose a, b, c, d are [y x]. corners_xy: (N, 4, 2) pixels."""
    boxes = np.empty((1, len(corners_xy)), dtype=object)
    for k, corners in enumerate(corners_xy):
        boxes[0, k] = {name: corner[None, ::-1].astype(float) for name, corner in zip(CORNERS, corners)}
    file = io.BytesIO()
    savemat(file, {"boxes": boxes}, do_compression=True)
    # the first 116 bytes are a text that holds the time of writing: replaced, so that equal boxes are equal files
    return b"MATLAB 5.0 MAT-file, synthetic hands".ljust(116) + file.getvalue()[116:]


def write_sample(job: tuple[str, int], out: Path, seed: int, size: int, difficulty: Difficulty = Difficulty()) -> int:
    """Write image and .mat of job (split, i), unless both are there; returns how many hands were drawn."""
    split, i = job
    folder, stem = out / "hand_dataset" / FOLDERS[split], f"synth_{split}_{i:05d}"
    mat = folder / "annotations" / f"{stem}.mat"
    if mat.exists():  # written last
        return 0
    image, corners = render(seed, split, i, size, difficulty)
    quality = int(np.random.default_rng([seed, i]).integers(55, 96))
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    for path, content in ((folder / "images" / f"{stem}.jpg", jpeg), (mat, mat_bytes(corners))):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return len(corners)


def claim(out: Path, settings: dict) -> None:
    """Make the folders, or check that what is there was drawn with the same settings. Raises FileExistsError."""
    release = out / "hand_dataset"
    note = release / "synthetic.json"
    if release.exists() and any(release.iterdir()):
        found = json.loads(note.read_text()) if note.is_file() else None
        if found != settings:
            what = f"a set drawn with {found}" if found else "a set that this program did not draw"
            raise FileExistsError(f"{release}: found {what}, expected none; name another --out or remove it first")
    for folder in FOLDERS.values():
        for part in ("images", "annotations"):
            (release / folder / part).mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings) + "\n")


def contact_sheet(
    path: Path, seed: int, size: int, difficulty: Difficulty = Difficulty(), columns: int = 6, rows: int = 4
) -> None:
    """Write a grid of the first training images with their boxes, wrist side in red."""
    tiles = []
    for i in range(columns * rows):
        image, corners = render(seed, "train", i, size, difficulty)
        for box in np.round(corners).astype(np.int32):
            cv2.polylines(image, [box], True, (0, 255, 0), 1, cv2.LINE_AA)
            cv2.line(image, box[0].tolist(), box[1].tolist(), (0, 0, 255), 1, cv2.LINE_AA)
        tiles.append(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.vstack([np.hstack(tiles[row * columns:(row + 1) * columns]) for row in range(rows)])
    if not cv2.imwrite(str(path), sheet):
        raise OSError(f"{path}: cannot be written as an image")


def drawn(draw: Callable[[tuple[str, int]], int], jobs: list[tuple[str, int]], workers: int) -> int:
    """Draw all samples, by so many processes; returns the sum of what `draw` returns. Told to end, it lets them finish
    what they are at. The processes are fresh ones: a forked one would wait for ever for OpenCV's threads, which it does
    not have, where this process had begun some."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        return sum(Progress(pool.map(draw, jobs, chunksize=8), len(jobs), "draw"))
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signals.leave_to_parent()
    cv2.setNumThreads(1)  # one process a core


def parse_args(argv=None) -> argparse.Namespace:
    """Command line -> options."""
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=cli.out_folder, default=Path(__file__).resolve().parent / "demo",
                        help="folder to write hand_dataset/ into")
    parser.add_argument("--train", type=cli.count, default=800, help="training images")
    parser.add_argument("--valid", type=cli.count, default=200, help="validation images (converted as training images)")
    parser.add_argument("--test", type=cli.count, default=200, help="test images")
    parser.add_argument("--size", type=cli.pixels, default=320, help="side of the square images in pixels")
    parser.add_argument("--sides", type=cli.ratio, nargs=2, default=Difficulty.sides, metavar=("MIN", "MAX"),
                        help="longer side of a hand, as a fraction of the image side")
    parser.add_argument("--most-hands", type=cli.whole(1, 100), default=Difficulty.most_hands,
                        help="hands per image, at most")
    parser.add_argument("--min-visible", type=cli.ratio, default=Difficulty.min_visible,
                        help="smallest share of a hand that is neither covered nor cut off")
    parser.add_argument("--seed", type=cli.seed, default=0, help="seed of the whole set")
    parser.add_argument("--workers", type=cli.processes, default=os.cpu_count() or 1, help="processes that draw")
    parser.add_argument("--contact-sheet", type=cli.out_file, metavar="FILE",
                        help="also write a grid of samples with boxes")
    args = parser.parse_args(argv)
    if args.size < 32 or args.workers < 1:
        parser.error("--size must be at least 32, --workers at least 1")
    if not 0 < args.sides[0] <= args.sides[1]:
        parser.error("--sides must be two fractions, 0 < MIN <= MAX <= 1")
    return args


def main(argv=None) -> None:
    """Draw the set. Raises FileExistsError where the folder holds something else."""
    args = parse_args(argv)
    counts = {"train": args.train, "valid": args.valid, "test": args.test}
    difficulty = Difficulty(tuple(args.sides), args.most_hands, args.min_visible)
    claim(args.out, {"seed": args.seed, "size": args.size, **asdict(difficulty), "sides": list(args.sides),
                     "drawing": DRAWING, **counts})
    jobs = [(split, i) for split, count in counts.items() for i in range(count)]
    draw = partial(write_sample, out=args.out, seed=args.seed, size=args.size, difficulty=difficulty)
    hands = drawn(draw, jobs, args.workers)
    print(f"{args.out / 'hand_dataset'}: {len(jobs):,} images, {hands:,} hands drawn now")
    if args.contact_sheet:
        contact_sheet(args.contact_sheet, args.seed, args.size, difficulty)


if __name__ == "__main__":
    cli.run(main)
