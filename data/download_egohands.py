"""Download the EgoHands release (Indiana University, 1.3 GB) and unpack it as data/egohands_data/."""

import argparse
import os
import shutil
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from utils import cli  # noqa: E402
from utils.download import fetch_and_unpack  # noqa: E402

URL = "http://vision.soic.indiana.edu/egohands_files/egohands_data.zip"
VIDEOS = "_LABELLED_SAMPLES"


def extract(archive: Path, root: Path) -> Path:
    """Unpack the archive as egohands_data/ in `root`, whole or not at all. Raises OSError or zipfile.BadZipFile."""
    target, temporary = root / "egohands_data", root / "egohands_data.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as files:
            files.extractall(temporary)  # checks each file's CRC, and keeps all of them below the folder
        found = next((path for path in (temporary, *sorted(temporary.iterdir())) if (path / VIDEOS).is_dir()), None)
        if found is None:
            names = ", ".join(sorted(path.name for path in temporary.iterdir())[:8]) or "nothing"
            raise zipfile.BadZipFile(f"found {names}, expected {VIDEOS}/")
        os.replace(found, target)
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
    target = args.root / "egohands_data"
    then = f"python data/import_dataset.py {target} --out {args.root / 'egohands'} --single-class hand"
    return fetch_and_unpack(args.url, args.root / "egohands_data.zip", target, extract, then)


if __name__ == "__main__":
    cli.run(main)
