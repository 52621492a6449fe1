"""Download the Oxford hand release (VGG) and unpack it as data/hand_dataset/."""

import argparse
import os
import shutil
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from utils import cli  # noqa: E402
from utils.download import fetch_and_unpack  # noqa: E402

URL = "https://www.robots.ox.ac.uk/~vgg/data/hands/downloads/hand_dataset.tar.gz"


def extract(archive: Path, root: Path) -> Path:
    """Unpack hand_dataset/ of the archive into `root`, whole or not at all. Raises OSError or tarfile.TarError."""
    target, temporary = root / "hand_dataset", root / "hand_dataset.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        if not (temporary / "hand_dataset").is_dir():
            found = ", ".join(sorted(path.name for path in temporary.iterdir())) or "nothing"
            raise tarfile.TarError(f"found {found}, expected hand_dataset/")
        os.replace(temporary / "hand_dataset", target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def parse_args(argv=None) -> argparse.Namespace:
    """Command line -> options."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent, help="folder to unpack into")
    parser.add_argument("--url", default=URL, help="where to get the archive, for a mirror")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Download and unpack; 0, or 2 with a message."""
    args = parse_args(argv)
    return fetch_and_unpack(
        args.url, args.root / "hand_dataset.tar.gz", args.root / "hand_dataset", extract, "python data/converter.py"
    )


if __name__ == "__main__":
    cli.run(main)
