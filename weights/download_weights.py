"""Download the Darknet weights to start from: yolov3.weights (COCO) and darknet53.conv.74 (ImageNet backbone)."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from utils import cli  # noqa: E402
from utils.download import DownloadError, fetch  # noqa: E402
from utils.origin import PUBLIC_WEIGHTS  # noqa: E402

BASE_URL = "https://pjreddie.com/media/files"
SIZES = PUBLIC_WEIGHTS


def parse_args(argv=None) -> argparse.Namespace:
    """Command line -> options."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--out", type=cli.out_folder, default=Path(__file__).resolve().parent,
                        help="folder to write to")
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
    cli.run(main)
