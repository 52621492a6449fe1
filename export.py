"""Write a network as files for other runtimes, each run there and compared with the network before it gets its name.

    python export.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights --format onnx openvino ncnn
    python export.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights --format openvino --precision
    int8 --data data/oxford.yaml python export.py --cfg config/prune_yolov3-hand.cfg --weights
    weights/prune_yolov3_ckpt.pth --out pruned/tuned.weights
"""

import argparse
from pathlib import Path

from utils import cli

FORMATS = ("darknet", "onnx", "openvino", "ncnn", "torchscript")
PRECISIONS = ("float32", "float16", "int8")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of export.py."""
    p = cli.Parser(description=__doc__)
    cli.add_model_flags(p, "config/yolov3-hand.cfg", None, "to export (default: weights/STEM_ckpt.pth)")
    p.add_argument("--format", nargs="+", choices=FORMATS, metavar="NAME",
                   help=f"one or several of {', '.join(FORMATS)} (default: that of --out, else onnx)")
    p.add_argument("--precision", choices=PRECISIONS, default="float32", help="of weights and maps; decoding stays in "
                                                                              "float32. "
                   "int8: calibrated on --data's training images, scored on its validation images")
    p.add_argument("--out", type=Path, metavar="FILE", help="file to write, or its name without the format's suffix "
                   "(default: output/NAME, of the cfg's name)")
    p.add_argument("--img_size", type=cli.pixels, metavar="PX", help="square input size "
                   "(default: that of the training, else the cfg's width and height)")
    p.add_argument("--data_config", "--data", dest="data", metavar="FILE", help=".data or .yaml file that names the "
                                                                                "classes, "
                   "and for int8 the image lists")
    p.add_argument("--class_path", metavar="FILE", help="file of class names, one per line; replaces those of --data "
                   "(default: those of the checkpoint, or of the .names file beside the weights or the cfg)")
    p.add_argument("--nms", action="store_true", help="onnx: end the file with non-maximum suppression")
    p.add_argument("--conf_thres", type=cli.ratio, default=0.25, help="--nms: boxes of a lower objectness are dropped")
    p.add_argument("--nms_thres", type=cli.ratio, default=0.5, help=f"--nms: {cli.NMS_HELP}")
    p.add_argument("--max-drop", type=cli.ratio, default=0.01, metavar="AP",
                   help="int8: a file that loses more AP@.5 or AP@[.5:.95] than this is refused")
    p.add_argument("--allow-slower", action="store_true", help="int8: write the file even where it is slower than "
                                                               "float32 here")
    p.add_argument("--calibration", type=cli.positive_int, default=192, metavar="N", help="int8: training images that "
                                                                                          "set the ranges")
    p.add_argument("--threads", type=cli.threads, default=0, metavar="N", help="CPU threads of every runtime (0: as "
                                                                             "torch chooses)")
    p.add_argument("--device", default="cpu", metavar="NAME",
                   help="for the sake of all scripts' flags: the export is made and checked on the CPU")
    return p.parse_args(argv)


def main() -> None:
    """Load -> for each format: convert, run beside the network, write -> say what it holds."""
    args = parse_args()
    from models import Darknet
    from utils.deploy.darknet_export import export_darknet
    from utils.deploy.detector import class_names
    from utils.deploy.formats import Order, export_format, export_int8, out_paths
    from utils.deploy.metadata import BuiltInNms
    from utils.deploy.quantisation import Limits
    from utils.loading import default_weights, load_net, resolve_cfg, select_device

    select_device("cpu", args.threads)
    cfg = resolve_cfg(args.cfg)
    weights = Path(args.weights or default_weights(cfg))
    paths = out_paths(args.out or Path("output") / cfg.stem, args.format, args.precision)
    if args.nms and "onnx" not in paths:
        raise ValueError(f"--nms: found --format {' '.join(paths)}, expected onnx: the others end with the predictions")
    net = load_net(cfg, weights, Darknet, args.img_size)
    named = args.class_path or args.data or net.names
    names = tuple(class_names(args.class_path, args.data, net.names, net.model.heads()[0].classes)) if named else None
    print(f"{cfg}, {weights}: {net.words}")
    order = Order(names, net.size, args.precision, BuiltInNms(args.conf_thres, args.nms_thres) if args.nms else None)
    limits = Limits(args.max_drop, args.allow_slower)
    pictures = pictures_of(args, order) if args.precision == "int8" else None
    for name, path in paths.items():
        if pictures:
            print(export_int8(net.model, name, path, order, pictures, limits))
        elif name == "darknet":
            words = export_darknet(net.model.eval(), net.content.get("rescale", 1.0), path, net.size, names)
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, for {path.with_suffix('.cfg')}; {words}")
        else:
            print(export_format(net.model, name, path, order))


def pictures_of(args: argparse.Namespace, order):
    """Training and validation images of --data at the order's size, for --precision int8."""
    from utils.data.data_config import parse_data_config
    from utils.data.datasets import ListDataset
    from utils.deploy.quantisation import Pictures

    if not args.data:
        raise ValueError("--precision int8: found no --data, expected the data that the net was trained on: int8 is "
                         "calibrated on its training images and scored on its validation images")
    data = parse_data_config(args.data, args.class_path)
    train, valid = (
        ListDataset(data.lists(part), order.size, data.classes, cache_gb=0.5) for part in ("train", "valid")
    )
    valid.require_boxes()
    return Pictures(train, valid, args.calibration)


if __name__ == "__main__":
    cli.run(main)
