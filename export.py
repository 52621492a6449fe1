"""Write a network as ONNX, batch norms folded and decoding included, or a checkpoint as a Darknet pair; either is checked against the network.

    python export.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights
    python export.py --cfg config/prune_yolov3-hand.cfg --weights weights/prune_yolov3_ckpt.pth --out pruned/tuned.weights
"""

import argparse
from pathlib import Path

from utils import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of export.py."""
    p = cli.Parser(description=__doc__)
    cli.add_model_flags(p, "config/yolov3-hand.cfg", None, "to export (default: weights/STEM_ckpt.pth)")
    p.add_argument("--img_size", type=cli.positive_int, metavar="PX",
                   help="square input size (default: that of the training, else the cfg's width and height)")
    p.add_argument("--out", type=Path, metavar="FILE", help="file to write: .onnx, or .weights with the .cfg beside it "
                   "(default: output/NAME.onnx, of the cfg's name)")
    p.add_argument("--device", default="cpu", metavar="NAME", help="for the sake of all scripts' flags: the export is made and checked on the CPU")
    args = p.parse_args(argv)
    if args.out and args.out.suffix not in (".onnx", ".weights"):
        p.error(f"--out: found {args.out}, expected a name that ends in .onnx or .weights")
    return args


def main() -> None:
    """Load -> export -> run the file beside the network -> say what it holds."""
    args = parse_args()
    from models import Darknet
    from utils.darknet_export import export_darknet
    from utils.onnx_export import export_onnx
    from utils.parse_config import class_count
    from utils.setup import load_net

    device = cli.select_device(args.device)
    cfg = cli.resolve_cfg(args.cfg)
    weights = Path(args.weights or cli.default_weights(cfg))
    net = load_net(cfg, weights, Darknet, args.img_size)
    model, size = net.model.eval(), net.size
    print(f"{cfg}, {weights}: {net.words}")
    out = args.out or Path("output") / f"{cfg.stem}.onnx"
    if out.suffix == ".weights":
        words = export_darknet(model, net.content.get("rescale", 1.0), out, size, net.names)
        print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, for {out.with_suffix('.cfg')}; {words}")
        return
    words = export_onnx(model.to(device), out, size)
    pixels = f"(batch, {model.channels}, {size[1]}, {size[0]}) {'RGB' if model.channels == 3 else 'grey'} 0..1"
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB; images {pixels} -> predictions "
          f"(batch, boxes, {5 + class_count(model.module_defs)}) cx, cy, w, h in input pixels, objectness, class "
          f"probabilities; {words}")


if __name__ == "__main__":
    cli.run(main)
