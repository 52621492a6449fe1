"""Find objects in images, folders, globs, videos or a webcam; draws them and writes boxes as JSON.

    python detect.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights --source data/samples
"""

import argparse
from pathlib import Path

from utils import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of detect.py."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    cli.add_model_flags(p, "config/yolov3-hand.cfg", None, "to use (default: weights/STEM_ckpt.pth)")
    p.add_argument("--source", "--image_folder", dest="source", nargs="+", default=["data/samples"], metavar="WHAT",
                   help="image, folder, glob, video, or camera number")
    p.add_argument("--data_config", "--data", dest="data", metavar="FILE", help=".data or .yaml file that names the classes")
    p.add_argument("--class_path", metavar="FILE", help="class names, one a line; replaces those of --data "
                   "(default: those of the checkpoint, or of the .names file beside the weights or the cfg)")
    p.add_argument("--conf_thres", type=cli.ratio, default=0.5, help="score (objectness x class) from which a box is shown")
    p.add_argument("--nms_thres", type=cli.ratio, default=0.5, help="IoU over which the weaker of two boxes is dropped")
    p.add_argument("--img_size", type=cli.positive_int, metavar="PX", help="square input size (default: that of the training, else the cfg's)")
    p.add_argument("--device", default="", metavar="NAME", help="cpu, cuda, cuda:1, 1 (default: cuda if there is one)")
    p.add_argument("--threads", type=cli.count, default=0, metavar="N", help="CPU threads of torch (0: as torch chooses)")
    cli.add_backend_flag(p)
    p.add_argument("--out", type=Path, default=Path("output"), metavar="DIR", help="where pictures and JSON go")
    p.add_argument("--max-frames", type=cli.count, default=0, metavar="N", help="stop a video or camera after N frames; 0: never")
    p.add_argument("--skip-bad", action="store_true", help="skip and count unreadable images instead of stopping")
    return p.parse_args(argv)


def main() -> None:
    """Load -> for each picture: detect, draw, write -> JSON of all."""
    args = parse_args()
    from models import Darknet
    from utils.backends import make_backend
    from utils.deploy.sources import expand
    from utils.detection import Detector, class_names, expected_images, run, write_results
    from utils.parse_config import class_count
    from utils.setup import load_net

    device = cli.select_device(args.device, args.threads)
    cfg = cli.resolve_cfg(args.cfg)
    weights = args.weights or f"weights/{cli.stem(cfg)}_ckpt.pth"
    net = load_net(cfg, weights, Darknet, args.img_size)
    items = [item for source in args.source for item in expand(source, args.out)]
    names = class_names(args.class_path, args.data, net.names, class_count(net.model.module_defs))
    backend, predict = make_backend(args.backend, net.model.to(device), net.size, expected_images(items, args.max_frames))
    print(f"{cfg}, {weights}: {net.words}; {net.size[0]}x{net.size[1]} on {device}, by {backend}")
    detector = Detector(net.model, names, net.size, predict, args.conf_thres, args.nms_thres)
    write_results(run(detector, items, args.out, args.max_frames, args.skip_bad), args.out)


if __name__ == "__main__":
    cli.run(main)
