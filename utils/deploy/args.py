"""The command line of export.py, for the script and for whoever plans an export ahead."""

import argparse

from utils import cli

FORMATS = ("darknet", "onnx", "openvino", "ncnn", "torchscript", "litert")
PRECISIONS = ("float32", "float16", "int8")


def parse_export_args(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of export.py."""
    p = cli.Parser(prog="export.py", description=description)
    cli.add_model_flags(p, "config/yolov3-hand.cfg", None, "to export (default: weights/STEM_ckpt.pth)")
    p.add_argument("--format", nargs="+", choices=FORMATS, metavar="NAME",
                   help=f"one or several of {', '.join(FORMATS)} (default: that of --out, else onnx)")
    p.add_argument("--precision", choices=PRECISIONS, default="float32",
                   help="of weights and maps; decoding stays in float32. int8: calibrated on --data's training images, "
                   "scored on its validation images")
    p.add_argument("--out", metavar="FILE", help="file to write, its name without the format's suffix, or a folder for "
                   "it (default: output/NAME, of the cfg's name)")
    p.add_argument("--img_size", type=cli.pixels, metavar="PX", help="square input size "
                   "(default: that of the training, else the cfg's width and height)")
    p.add_argument("--data_config", "--data", dest="data", metavar="FILE",
                   help=".data or .yaml file that names the classes, and for int8 the image lists")
    p.add_argument("--class_path", metavar="FILE", help="file of class names, one per line; replaces those of --data "
                   "(default: those of the checkpoint, or of the .names file beside the weights or the cfg)")
    p.add_argument("--nms", action="store_true", help="onnx: end the file with non-maximum suppression")
    p.add_argument("--conf_thres", type=cli.ratio, default=0.25, help="--nms: boxes of a lower objectness are dropped")
    p.add_argument("--nms_thres", type=cli.ratio, default=0.5, help=f"--nms: {cli.NMS_HELP}")
    p.add_argument("--max-drop", type=cli.ratio, default=0.01, metavar="AP",
                   help="int8: a file that loses more AP@.5 or AP@[.5:.95] than this is refused")
    p.add_argument("--allow-slower", action="store_true",
                   help="int8: write the file even where it is slower than float32 here")
    p.add_argument("--calibration", type=cli.positive_int, default=192, metavar="N",
                   help="int8: training images that set the ranges")
    p.add_argument("--threads", type=cli.threads, default=0, metavar="N",
                   help="CPU threads of every runtime (0: as torch chooses)")
    p.add_argument("--device", default="cpu", metavar="NAME",
                   help="for the sake of all scripts' flags: the export is made and checked on the CPU")
    args, typed = p.parse_args(argv), p.typed(argv)
    p.require_partner(typed, ["max_drop", "allow_slower", "calibration"], "--precision int8", args.precision == "int8")
    p.require_partner(typed, ["conf_thres", "nms_thres"], "--nms", args.nms)
    return args
