"""How fast everything is, beside plain stand-ins, other runtimes and, with --peer, another checkout.

    python -m benchmarks                                   # all items, about ten minutes on two cores
    python -m benchmarks --only forward nms --json a.json
    python -m benchmarks --peer ../PyTorch-YOLOv3          # a repository with models.Darknet and utils.utils
    python -m benchmarks --only deploy --cfg config/hands-slim.cfg --weights weights/hands-slim.weights \\
        --data data/hands/hands.data                       # every file x every runtime of one net

Every contestant is a process of its own with the same number of threads; after a warm-up all of an item are timed in
turn, so that a machine whose speed drifts treats them alike.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from utils import cli
from utils.deploy.args import PRECISIONS

DEPLOYED = ("openvino", "onnx", "ncnn", "torchscript", "litert", "darknet")  # what times are compared with first


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    p = cli.Parser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("--only", nargs="+", metavar="NAME", help="some of the items: forward nms ap loading step processes "
                                                             "prune startup growth deploy (default: all but deploy)")
    p.add_argument("--peer", type=Path, metavar="PATH", help="another checkout to time beside this one")
    p.add_argument("--threads", type=cli.threads, default=0, metavar="N", help="CPU threads of every contestant; 0: as "
                                                                             "torch chooses")
    p.add_argument("--repeats", type=cli.positive_int, metavar="N", help="measured rounds (default: the item's, slow "
                                                                         "contestants dropping out early)")
    p.add_argument("--warmup", type=cli.count, metavar="N", help="rounds before them (default: the item's)")
    nets = p.add_argument_group("nets")
    nets.add_argument("--cfg", default="config/yolov3-hand.cfg", help="net of forward, nms, prune and deploy, with "
                                                                      "random weights")
    nets.add_argument("--size", type=cli.pixels, metavar="PX", help="square input of those (default: the cfg's)")
    nets.add_argument(
        "--target", type=cli.ratio, default=0.3, help="share of the FLOPs that forward's pruned net keeps"
    )
    nets.add_argument("--divisor", type=cli.positive_int, default=16, metavar="N", help="its widths are multiples of "
                                                                                        "N: runtimes work in blocks")
    nets.add_argument("--dense", nargs=2, metavar=("CFG", "WEIGHTS"), help="forward: your own dense net instead")
    nets.add_argument("--pruned", nargs=2, metavar=("CFG", "WEIGHTS"), help="and what it was pruned to")
    add_deploy_flags(p.add_argument_group("deploy"))
    o = p.add_argument_group("output")
    o.add_argument(
        "--out",
        type=cli.out_folder,
        default=Path("output/benchmarks"),
        metavar="DIR",
        help="for results.json, table.md and a PNG per item",
    )
    o.add_argument("--json", type=cli.out_file, metavar="FILE", help="write results.json there too")
    args = p.parse_args(argv)
    if bool(args.dense) != bool(args.pruned):
        p.error("--dense and --pruned belong together; found one of them")
    typed, only = p.typed(argv), args.only
    of_deploy = ["weights", "data", "images", "formats", "precisions", "files", "palm"]
    p.require_partner(typed, of_deploy, "--only deploy", "deploy" in (only or []))
    p.require_partner(typed, ["dense", "pruned", "target"], "--only forward", not only or "forward" in only)
    return args


def add_deploy_flags(p) -> None:
    """Which files of which net, scored on what."""
    p.add_argument("--weights", metavar="FILE", help="of --cfg (default: random ones, which are timed and not scored)")
    p.add_argument("--data", metavar="FILE", help=".data or .yaml file whose validation images score, and whose "
                                                  "training images calibrate int8")
    p.add_argument("--images", type=cli.positive_int, metavar="N", help="score on so many of them, evenly spaced "
                                                                        "(default: all)")
    p.add_argument("--formats", nargs="+", choices=DEPLOYED, default=DEPLOYED, metavar="NAME",
                   help=f"some of {', '.join(DEPLOYED)}; the first is what times are compared with")
    p.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="NAME",
                   help=f"some of {', '.join(PRECISIONS)}")
    p.add_argument("--files", nargs="+", type=Path, default=[], metavar="FILE",
                   help="exported files that were made before, beside those of the net where --weights is named")
    p.add_argument("--palm", type=Path, metavar="PATH", help="MediaPipe's palm detector beside them: a .tflite file, "
                                                             "or the unpacked folder of npm's @mediapipe/hands")


def chosen(names: list[str] | None, known: list[str]) -> list[str]:
    """The items to run, in their own order; all without names. Raises ValueError on a name that there is not."""
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"--only: found {' '.join(unknown)}, expected some of {', '.join(known)}")
    return [name for name in known if not names or name in names]


def check_peer(path: Path | None) -> Path | None:
    """The peer's absolute path. Raises ValueError when it does not look like one."""
    if path and not ((path / "models.py").is_file() and (path / "utils").is_dir()):
        raise ValueError(f"--peer {path}: expected a folder with models.py and utils/")
    return path and path.resolve()


def progress(text: str) -> None:
    """A line on standard error, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """For each item: make what it needs -> contest -> table; all files anew after every item, so that a stopped run
    leaves its results."""
    args = parse_args()
    args.peer, args.out = check_peer(args.peer), args.out.resolve()
    import torch

    from benchmarks import contest, items, output

    names = chosen(args.only or [name for name in items.ITEMS if name not in items.BY_NAME], list(items.ITEMS))
    settings = contest.Settings(args.threads or torch.get_num_threads(), args.repeats, args.warmup, progress)
    results = {"environment": output.conditions(settings.threads, sys.argv[1:]), "items": []}
    print(output.describe(results["environment"]), flush=True)
    started = time.perf_counter()
    json_file = args.json and args.json.resolve()
    for name in names:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            progress(f"{name}: preparing")
            for item in items.ITEMS[name](args, Path(folder)):
                outcomes = contest.run_item(item, settings, Path(folder))
                results["items"].append(contest.item_summary(item, outcomes))
                print(output.screen(results["items"][-1]), flush=True)
                output.write_results(results, args.out, json_file)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes; written: "
          f"{args.out}{f', {args.json}' if args.json else ''}")


if __name__ == "__main__":
    cli.run(main)
