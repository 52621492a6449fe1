"""Write the Darknet cfg of a YOLO network: any class count, width and input size, anchors from your own boxes.

    python config/create_hand_model.py --base yolov3                                  # config/yolov3-hand.cfg
    python config/create_hand_model.py --base yolov3 --width 0.25 --size 256 --anchors-from data/egohands/train.txt

At 80 classes and width 1 every base has the layers of the public cfg of that name, so the public weights load.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import cli  # noqa: E402
from utils.families import BASES, COCO_CLASSES, STRIDE, build  # noqa: E402
from utils.parse_config import write_model_config  # noqa: E402
from utils.shapes import layer_shapes  # noqa: E402


def pixel_size(text: str) -> tuple[int, int]:
    """argparse type: "416" or "320x256" (width x height) -> (width, height), multiples of 32."""
    sides = tuple(map(cli.pixels, text.lower().split("x")))
    if len(sides) > 2 or any(side < STRIDE or side % STRIDE for side in sides):
        raise argparse.ArgumentTypeError(f"found {text}, expected SIDE or WIDTHxHEIGHT, multiples of {STRIDE}")
    return sides * 2 if len(sides) == 1 else sides


def default_out(base: str, classes: int, width: float) -> Path:
    """The cfg's path beside this script: yolov3-hand.cfg, yolov3-hand-w25.cfg, yolov3.cfg for the 80 COCO classes."""
    kind = {1: "-hand", COCO_CLASSES: ""}.get(classes, f"-{classes}classes")
    suffix = "" if width == 1.0 else f"-w{100 * width:02.0f}"
    return Path(__file__).resolve().parent / f"{base}{kind}{suffix}.cfg"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked and typed."""
    p = cli.Parser(description=__doc__.split("\n")[0])
    p.add_argument("--base", choices=BASES, default="yolov3", help="network to build")
    p.add_argument("--classes", type=cli.classes, default=1, metavar="N", help="number of classes")
    p.add_argument("--width", type=cli.width_multiplier, default=1.0, metavar="FACTOR",
                   help="times the filters of every layer but the heads, rounded to a multiple of 8")
    p.add_argument("--size", type=pixel_size, default="416", metavar="PX", help="input size, SIDE or WIDTHxHEIGHT")
    p.add_argument("--anchors-from", type=Path, metavar="LIST",
                   help="image list or folder, YOLO labels beside it: cluster the anchors from their boxes")
    p.add_argument("--out", type=cli.out_file, metavar="FILE",
                   help="cfg to write; else named by base and width, in config/")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Build, fit the anchors if asked to, write. Returns the exit code; raises OSError or ValueError on wrong input."""
    args = parse_args(argv)
    out = args.out or default_out(args.base, args.classes, args.width)
    out = out if out.suffix == ".cfg" else out.with_name(out.name + ".cfg")
    defs = build(args.base, args.classes, args.width, args.size)
    if args.anchors_from:
        from utils.data.anchors import fit_anchors

        defs = fit_anchors(defs, args.anchors_from)
    layer_shapes(defs)  # raises where the net is larger than can be built
    write_model_config(out, defs)
    print(f"wrote {out}: {len(defs) - 1} layers, {args.classes} class{'es' if args.classes > 1 else ''}")
    return 0


if __name__ == "__main__":
    cli.run(main)
