"""Find objects in pictures, films, cameras or streams; draws them and writes their boxes as JSON.

    python detect.py                                    # the published hand detector on data/samples
    python detect.py --source my/pictures my/film.mp4   # on a folder, then on a film
    python detect.py --source 0 --show                  # before a camera, in a window; a slow net skips frames
    python detect.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights --source data/samples
"""

import argparse
from pathlib import Path

from utils import cli

PUBLISHED = ("config/hands-slim.cfg", "weights/hands-slim.weights")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of detect.py."""
    p = cli.Parser(description=__doc__)
    cli.add_model_flags(p, None, None, f"to use (default: weights/STEM_ckpt.pth; without --cfg {PUBLISHED[1]})",
                        cli.TO_RUN)
    p.add_argument("--source", "--image_folder", dest="source", nargs="+", default=[str(shipped("data/samples"))],
                   metavar="WHAT",
                   help="image, video, GIF, folder (with its sub-folders), glob, list of images (.txt), camera "
                   "number, or address of a stream (default: data/samples)")
    p.add_argument("--data_config", "--data", dest="data", metavar="FILE",
                   help=".data or .yaml file that names the classes")
    p.add_argument("--class_path", metavar="FILE", help="file of class names, one per line; replaces those of --data "
                   "(default: those of the checkpoint, or of the .names file beside the weights or the cfg)")
    p.add_argument("--conf_thres", type=cli.ratio, default=cli.CONF_THRES,
                   help="boxes of a lower score (objectness x class) are dropped")
    p.add_argument("--nms_thres", type=cli.ratio, default=0.5, help=cli.NMS_HELP)
    p.add_argument("--img_size", type=cli.pixels, metavar="PX",
                   help="square input size (default: that of the training, else the cfg's)")
    cli.add_keep_classes_flag(p, "look for these classes alone, such as person,car")
    cli.add_device_flags(p)
    cli.add_backend_flag(p)
    p.add_argument("--show", action="store_true",
                   help="show what is drawn in a window, too: q or Esc ends, any other key goes on to the next picture")
    p.add_argument("--no-pictures", dest="pictures", action="store_false",
                   help="write no drawn pictures and films")
    p.add_argument("--save-txt", action="store_true",
                   help="write label files (class cx cy w h), too, to labels/ in --out, to be corrected and trained on")
    p.add_argument("--out", type=cli.out_folder, default=Path("output"), metavar="DIR",
                   help="folder for the drawn pictures and detections.json")
    p.add_argument("--max-frames", type=cli.count, default=0, metavar="N",
                   help="end a film, camera or stream after N frames; 0: never")
    p.add_argument("--skip-bad", action="store_true", help="skip and count unreadable sources instead of stopping")
    return p.parse_args(argv)


def shipped(path: str) -> Path:
    """What the project brings along: from its folder, whatever the working directory."""
    return Path(path) if Path(path).exists() else cli.ROOT / path


def net_files(cfg: str | None, weights: str | None) -> tuple[Path, str]:
    """The cfg and weights to use, given what was named of them: the published net where neither was."""
    from utils.loading import default_weights, resolve_cfg

    if cfg is None and weights is None:
        return shipped(PUBLISHED[0]), str(shipped(PUBLISHED[1]))
    cfg = resolve_cfg(cfg or "config/yolov3-hand.cfg")
    return cfg, weights or default_weights(cfg)


def main() -> None:
    """Load -> for each picture and film: detect, draw, write -> JSON of all."""
    args = parse_args()
    from utils.checkpoint import is_exported
    from utils.deploy.detection import Options, run
    from utils.deploy.sources import expand

    items = [item for source in args.source for item in expand(source, args.out)]
    detector = of_file(args) if is_exported(args.weights) else of_net(args, items)
    if args.keep_classes:
        detector.keep_classes(args.keep_classes)
    run(detector, items, cli.options_of(Options, args))


def of_net(args: argparse.Namespace, items: list):
    """Detector of the network of --cfg and --weights."""
    from models import Darknet
    from utils.deploy.backends import make_backend
    from utils.deploy.detection import expected_images
    from utils.deploy.detector import Detector, class_names
    from utils.loading import load_net, select_device
    from utils.parse_config import class_count

    device = select_device(args.device, args.threads)
    cfg, weights = net_files(args.cfg, args.weights)
    net = load_net(cfg, weights, Darknet, args.img_size)
    names = class_names(args.class_path, args.data, net.names, class_count(net.model.module_defs), weights)
    images = expected_images(items, args.max_frames)
    backend, predict = make_backend(args.backend, net.model.to(device), net.size, images, weights)
    print(f"{cfg}, {weights}: {net.words}; {net.size[0]}x{net.size[1]} on {device}, by {backend}")
    return Detector(net.model, names, net.size, predict, args.conf_thres, args.nms_thres)


def of_file(args: argparse.Namespace):
    """Detector of the exported file of --weights."""
    from utils.deploy.detector import Detector, class_names
    from utils.deploy.runtimes import open_on_cpu

    file = open_on_cpu(args.weights, args.backend, args.img_size, args.device, args.threads)
    names = class_names(args.class_path, args.data, file.metadata.names, len(file.metadata.names), file.path)
    print(f"{file.words()}; {file.size[0]}x{file.size[1]}")
    return Detector(file, names, file.size, file.predict, args.conf_thres, args.nms_thres)


if __name__ == "__main__":
    cli.run(main)
