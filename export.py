"""Write a network as files for other runtimes, each run there and compared with the network before it gets its name.

    python export.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights --format onnx openvino ncnn
    python export.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights --format openvino \\
        --precision int8 --data data/oxford.yaml
    python export.py --cfg config/prune_yolov3-hand.cfg --weights weights/prune_yolov3_ckpt.pth \\
        --out pruned/tuned.weights
"""

import argparse
from pathlib import Path
from typing import Callable

from utils import cli
from utils.deploy.args import parse_export_args


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of export.py."""
    return parse_export_args(__doc__, argv)


def main() -> None:
    """Load -> for each format: convert, run beside the network, write -> say what it holds."""
    args = parse_args()
    from models import Darknet
    from utils.deploy.darknet_export import export_darknet
    from utils.deploy.detector import class_names
    from utils.deploy.formats import Order, export_format, export_int8, out_name, out_paths
    from utils.deploy.metadata import BuiltInNms
    from utils.deploy.quantisation import Limits
    from utils.loading import default_weights, load_net, resolve_cfg, select_device
    from utils.places import require_file

    select_device("cpu", args.threads)
    cfg = resolve_cfg(args.cfg)
    weights = Path(args.weights or default_weights(cfg))
    paths = out_paths(out_name(args.out, cfg), args.format, args.precision)
    for path in paths.values():
        require_file(path)
    if args.nms and list(paths) != ["onnx"]:
        raise ValueError(f"--nms: found --format {' '.join(paths)}, expected onnx alone: others end with predictions")
    net = load_net(cfg, weights, Darknet, args.img_size)
    named = args.class_path or args.data or net.names
    classes = net.model.heads()[0].classes
    names = tuple(class_names(args.class_path, args.data, net.names, classes, weights)) if named else None
    print(f"{cfg}, {weights}: {net.words}")
    order = Order(names, net.size, args.precision, BuiltInNms(args.conf_thres, args.nms_thres) if args.nms else None)
    pictures = pictures_of(args, order) if args.precision == "int8" else None
    if "darknet" in paths:
        refuse_own_cfg(paths["darknet"].with_suffix(".cfg"), Path(cfg))

    def written(name: str, path: Path) -> str:
        """What was written, in words."""
        if pictures:
            return export_int8(net.model, name, path, order, pictures, Limits(args.max_drop, args.allow_slower))
        if name == "darknet":
            words = export_darknet(net.model.eval(), net.content.get("rescale", 1.0), path, net.size, names)
            return f"{path}: {path.stat().st_size / 1e6:.2f} MB, for {path.with_suffix('.cfg')}; {words}"
        return export_format(net.model, name, path, order)

    write_each(paths, written)


def write_each(paths: dict[str, Path], written: Callable[[str, Path], str]) -> None:
    """Write every format, and say so; one that cannot be had does not stop those after it. Raises ValueError with the
    reasons of all such, at the end."""
    refused = []
    for name, path in paths.items():
        try:
            print(written(name, path))
        except ValueError as error:
            refused.append(str(error))
    if refused:
        raise ValueError("; ".join(refused))


def refuse_own_cfg(written: Path, read: Path) -> None:
    """Raise ValueError where the cfg of a Darknet pair would take the place of the one that is read, with its comments
    and its input size."""
    if written.exists() and written.samefile(read):
        raise ValueError(f"--out: found {written}, the cfg that is read, expected another place; nothing was written")


def pictures_of(args: argparse.Namespace, order):
    """Training and validation images of --data at the order's size, for --precision int8."""
    from utils.data.args import ReadOptions
    from utils.data.data_config import parse_data_config
    from utils.data.net_classes import by_name
    from utils.data.prepare import dataset, labelled_dataset
    from utils.deploy.quantisation import Pictures

    if not args.data:
        raise ValueError("--precision int8: found no --data, expected the data that the net was trained on: int8 is "
                         "calibrated on its training images and scored on its validation images")
    # as the names of the order were found, which said so
    data = by_name(parse_data_config(args.data, args.class_path), order.names, quiet=True)
    read = ReadOptions()
    return Pictures(dataset(read, data, "train", order.size), labelled_dataset(read, data, "valid", order.size),
                    args.calibration)


if __name__ == "__main__":
    cli.run(main)
