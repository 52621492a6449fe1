"""Convert the Oxford hand release (VGG) to YOLO images, labels and lists.

    cd data && python converter.py

Reads hand_dataset/ (or oxford/hand_dataset/) in --root: three splits of images/*.jpg and annotations/*.mat with one
rotated box for each hand. Writes to --out: images/, labels/ (`0 cx cy w h`, fractions of the image), train.txt
(training + validation) and valid.txt (test). What an earlier run has finished is kept.
"""

import argparse
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from utils import cli  # noqa: E402
from utils.data import matlab  # noqa: E402
from utils.data.decoding import TooLargeError, cut_short, decode, picture_bytes  # noqa: E402
from utils.data.folders import files_below  # noqa: E402
from utils.data.exif import is_turned  # noqa: E402
from utils.data.pictures import place  # noqa: E402
from utils.output import write_text  # noqa: E402
from utils.progress import Progress  # noqa: E402

URL = "https://www.robots.ox.ac.uk/~vgg/data/hands/downloads/hand_dataset.tar.gz"
LISTS = {"train": ("training_dataset/training_data", "validation_dataset/validation_data"),
         "valid": ("test_dataset/test_data",)}
RELEASE_IMAGES = {"train": 4807, "valid": 821}
CORNERS = "abcd"
MIN_SIDE_PX = 1e-3  # a box thinner than this has left the image


class ReleaseError(ValueError):
    """The release is missing, incomplete or damaged. The message names the file and what was found in it."""


@dataclass
class Counts:
    """What became of one list."""

    images: int = 0
    boxes: int = 0
    clipped: int = 0  # boxes that reach over the border, dropped ones too
    dropped: int = 0  # boxes that lie outside the image altogether
    empty: int = 0  # images without a hand
    kept: int = 0  # images that an earlier run had converted
    bad: int = 0  # images left out by --skip-bad


def corners_to_box(corners_yx, width: int, height: int) -> tuple[float, float, float, float] | None:
    """Upright hull of a rotated box, clipped to the image: x0, y0, x1, y1 in pixels; None where nothing is left of it.

    corners_yx: (4, 2) pixels, y first as in the release, any order; the image is [0, width] x [0, height].
    """
    y, x = np.asarray(corners_yx, dtype=float).T
    x0, x1 = np.clip([x.min(), x.max()], 0, width).tolist()
    y0, y1 = np.clip([y.min(), y.max()], 0, height).tolist()
    return (x0, y0, x1, y1) if min(x1 - x0, y1 - y0) >= MIN_SIDE_PX else None


def is_clipped(corners_yx, width: int, height: int) -> bool:
    """Whether a corner (of (4, 2), y first, pixels) lies outside the image."""
    corners = np.asarray(corners_yx, dtype=float)
    return bool((corners < 0).any() or (corners > [height, width]).any())


def label_line(box: tuple[float, float, float, float], width: int, height: int) -> str:
    """`0 cx cy w h`, fractions of the image, of a box x0, y0, x1, y1 in pixels."""
    x0, y0, x1, y1 = box
    centre_size = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return "0 " + " ".join(f"{value:.8f}" for value in centre_size)


def read_mat(path: str | os.PathLike) -> np.ndarray:
    """(N, 4, 2) corners a, b, c, d of the N hands in an annotation file, y first, pixels. Raises ReleaseError.

    `boxes` may be a 1xN cell of structs or a struct array; what the structs hold besides a, b, c, d is ignored.
    """
    try:
        variables = matlab.read_mat(path)
    except matlab.MatError as error:
        raise ReleaseError(str(error)) from None
    if "boxes" not in variables:
        found = ", ".join(variables) or "nothing"
        raise ReleaseError(f"{path}: found {found}, expected the variable boxes")
    boxes = variables["boxes"]
    boxes = [boxes] if isinstance(boxes, dict) else np.asarray(boxes, dtype=object).ravel()
    corners = [_struct_corners(box, f"{path}: boxes{{{k}}}") for k, box in enumerate(boxes, start=1)]
    return np.array(corners, dtype=float).reshape(-1, 4, 2)


def _struct_corners(box, place: str) -> list[np.ndarray]:
    """The points a, b, c, d of one struct, (2,) each."""
    if not isinstance(box, dict):
        raise ReleaseError(f"{place}: found {type(box).__name__}, expected a struct with the fields a, b, c, d")
    missing = [name for name in CORNERS if name not in box]
    if missing:
        raise ReleaseError(f"{place}: found the fields {', '.join(box)}, expected a, b, c, d")
    corners = []
    for name in CORNERS:
        try:
            point = np.asarray(box[name], dtype=float).ravel()
        except (TypeError, ValueError):
            point = np.zeros(0)
        if point.shape != (2,) or not np.isfinite(point).all():
            raise ReleaseError(f"{place}.{name}: found {box[name]!r}, expected the two numbers [y x]")
        corners.append(point)
    return corners


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as stored, whatever EXIF says of a rotation, as annotated. Raises ReleaseError."""
    try:
        content = picture_bytes(path)
        image = decode(content, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except TooLargeError as error:
        raise ReleaseError(f"{path}: {error}") from None
    if image is None:
        cut = ", cut short" * cut_short(content)
        raise ReleaseError(f"{path}: not a readable JPEG ({len(content):,} bytes{cut})")
    return image.shape[1], image.shape[0]


def find_release(root: Path) -> Path:
    """The folder hand_dataset in `root`. Raises ReleaseError that says how to get or unpack it."""
    for release in (root / "hand_dataset", root / "oxford" / "hand_dataset"):
        if release.is_dir():
            for folder in (folder for folders in LISTS.values() for folder in folders):
                if not (release / folder / "images").is_dir():
                    raise ReleaseError(f"{release}: found no {folder}/images, expected it; was all of it unpacked?")
            return release
    for archive in (root / "hand_dataset.tar.gz", root / "oxford" / "hand_dataset.tar.gz"):
        if archive.is_file():
            raise ReleaseError(f"{archive} is not unpacked yet: tar -xzf {archive} -C {archive.parent}")
    raise ReleaseError(f"{root / 'hand_dataset'}: the Oxford hand release is not there; get it with "
                       f"`python data/download_oxford.py`, or unpack {URL} in {root}")


def find_images(release: Path) -> dict[str, list[Path]]:
    """Image paths of each list, sorted within a split; what only has the name of one is counted on stderr. Raises
    ReleaseError where two images would share a label."""
    found, taken = {}, {}
    for name, folders in LISTS.items():
        found[name] = []
        for folder in folders:
            images = files_below(release / folder / "images", (".jpg", ".jpeg"))
            found[name] += [path for path in images.files if path.parent == images.folder]
            if images.others:
                print(f"note: {images.note()}", file=sys.stderr)
        for path in found[name]:
            other = taken.setdefault(path.stem.lower(), path)
            if other is not path:
                raise ReleaseError(f"{path}: has the same name as {other}; rename one of them")
    return found


def is_done(source: Path, mat: Path, image: Path, label: Path) -> bool:
    """Whether image and label are there and belong to what the release holds now."""
    if not (image.is_file() and label.is_file() and mat.is_file()):
        return False
    newest = max(source.stat().st_mtime_ns, mat.stat().st_mtime_ns)
    if label.stat().st_mtime_ns < newest:
        return False
    return image.stat().st_size == source.stat().st_size or is_turned(source.read_bytes())


def convert_image(source: Path, out: Path, copy: bool, counts: Counts) -> None:
    """Write image and label of one image of the release and count what was found. Raises ReleaseError."""
    mat = source.parent.parent / "annotations" / f"{source.stem}.mat"
    image, label = out / "images" / source.name, out / "labels" / f"{source.stem}.txt"
    if is_done(source, mat, image, label):
        n_boxes = len(label.read_text().splitlines())
        counts.kept += 1
    else:
        if not mat.is_file():
            raise ReleaseError(f"{source}: found no annotation, expected {mat}")
        width, height = image_size(source)
        corners = read_mat(mat)
        boxes = [box for box in (corners_to_box(quad, width, height) for quad in corners) if box]
        n_boxes = len(boxes)
        place(source, image, "copy" if copy else "link", as_stored=is_turned(source.read_bytes()))
        write_text(label, "".join(label_line(box, width, height) + "\n" for box in boxes))
        counts.clipped += sum(is_clipped(quad, width, height) for quad in corners)
        counts.dropped += len(corners) - n_boxes
    counts.images += 1
    counts.boxes += n_boxes
    counts.empty += n_boxes == 0


def convert_list(name: str, sources: list[Path], out: Path, copy: bool, skip_bad: bool) -> tuple[list[str], Counts]:
    """Convert the images of one list: its lines (relative to the list, forward slashes) and its counts."""
    lines, counts = [], Counts()
    for source in Progress(sources, len(sources), name):
        try:
            convert_image(source, out, copy, counts)
        except ReleaseError as error:
            if not skip_bad:
                raise ReleaseError(f"{error}; --skip-bad leaves such images out") from None
            tqdm.write(f"left out: {error}", file=sys.stderr)
            counts.bad += 1
            continue
        lines.append(f"images/{source.name}")
    return lines, counts


def report(counts: dict[str, Counts]) -> str:
    """A table of the counts and a note where they are not the release's."""
    names = [field.name for field in fields(Counts)]
    rows = ["".join(f"{name:>9}" for name in ("list", *names))]
    rows += ["".join(f"{value:>9,}" if isinstance(value, int) else f"{value:>9}" for value in
                     (name, *(getattr(count, key) for key in names))) for name, count in counts.items()]
    if any(count.kept for count in counts.values()):
        rows.append("kept: converted by an earlier run; their clipped and dropped boxes are not counted again")
    images = {name: count.images for name, count in counts.items()}
    if images != RELEASE_IMAGES:
        rows.append("note: {train:,} and {valid:,} images; the Oxford release has 4,807 and 821".format(**images))
    return "\n".join(rows)


def parse_args(argv=None) -> argparse.Namespace:
    """Command line -> options."""
    here = Path(__file__).resolve().parent
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=here, help="folder with hand_dataset/ or oxford/hand_dataset/")
    parser.add_argument("--out", type=cli.out_folder, default=argparse.SUPPRESS,
                        help="folder to write to (default: --root)")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of hard-linking them")
    parser.add_argument("--skip-bad", action="store_true", help="leave out damaged images, and count them")
    args = parser.parse_args(argv)
    args.out = getattr(args, "out", args.root)
    return args


def main(argv=None) -> None:
    """Find, convert, write the lists, report. Raises ReleaseError where the release is missing or damaged."""
    args = parse_args(argv)
    found = find_images(find_release(args.root))
    for part in ("images", "labels"):
        (args.out / part).mkdir(parents=True, exist_ok=True)
    done = {name: convert_list(name, paths, args.out, args.copy, args.skip_bad) for name, paths in found.items()}
    for name, (lines, _) in done.items():
        write_text(args.out / f"{name}.txt", "".join(line + "\n" for line in lines))
    print(report({name: counts for name, (_, counts) in done.items()}))


if __name__ == "__main__":
    cli.run(main)
