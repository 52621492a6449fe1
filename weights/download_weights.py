"""Download the Darknet weights to start from: yolov3.weights (COCO) and darknet53.conv.74 (ImageNet backbone)."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from utils.download import DownloadError, fetch  # noqa: E402

BASE_URL = "https://pjreddie.com/media/files"
SIZES = {"yolov3.weights": 248_007_048, "darknet53.conv.74": 162_482_580}  # bytes


def parse_args(argv=None) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    parser.add_argument("--base-url", default=BASE_URL, help="where to get them, for a mirror")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in SIZES:
            parser.error(f"found {name!r}, expected one of {', '.join(SIZES)}")
    return args


def main(argv=None) -> int:
    """Download what was named; 0, or 2 with a message."""
    args = parse_args(argv)
    try:
        for name in args.names:
            path = fetch(f"{args.base_url}/{name}", args.out / name, SIZES[name])
            print(f"{path}: ready")
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
