"""What is compared: one function an item of --only, from the command line to contestants. Runs in the parent."""

import argparse
import math
import subprocess
import sys
from pathlib import Path
from typing import Callable

import torch

from benchmarks import materials
from benchmarks.contest import ROOT, Contestant, Item, Outcome
from benchmarks.deploy import deploy
from utils.evaluation.evaluate import ScoreOptions
from utils.output import counted
from utils.shapes import total_cost

STEP = {"size": 256, "batch": 16, "steps": 6}
PICTURES, PICTURE_SIDE = STEP["batch"] * STEP["steps"], 500
NMS_IMAGES = 8
AP_SET = {"images": 821, "boxes": 300}  # the Oxford test set at our bound of detections
NARROW = ROOT / "config/yolov3-hand-w25.cfg"
FROM_ONNX = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx", "onnxscript")}
CAPS = f"at most {ScoreOptions().max_candidates:,} candidates, {ScoreOptions().max_det} kept per image"
AGREES = 1e-3  # largest difference from the eager output, relative to its largest value


# ---- forward pass

def forward(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Dense and pruned net on every way to run them, all in one interleaved run."""
    dense, pruned = nets(args, folder)
    contestants = [
        made for label, net in (("dense", dense), ("pruned", pruned)) for made in ways_to_run(label, net, args.peer)
    ]
    reduction = dense.cost.macs / pruned.cost.macs
    width, height = (int(materials.parse_model_config(dense.cfg)[0][side]) for side in ("width", "height"))
    title = (f"Forward pass with decoding, batch 1, {width}x{height}: dense {2 * dense.cost.macs / 1e9:.2f} GFLOPs, "
             f"pruned {2 * pruned.cost.macs / 1e9:.2f} "
             f"({pruned.cost.macs / dense.cost.macs:.1%}{'' if args.dense else f', widths in {args.divisor}s'})")
    return [
        Item(
            "forward",
            title,
            contestants,
            repeats=15,
            warmup=2,
            remarks=lambda outcomes: forward_remarks(outcomes, reduction),
        )
    ]


def nets(args: argparse.Namespace, folder: Path) -> tuple[materials.Net, materials.Net]:
    """The user's two nets; else a random one and its pruned twin."""
    if args.dense:
        return tuple(
            materials.user_net(*pair, args.size, folder, name)
            for name, pair in (("dense", args.dense), ("pruned", args.pruned))
        )
    dense = materials.store_net(materials.random_net(materials.sized_defs(args.cfg, args.size)), folder, "dense")
    return dense, materials.pruned_twin(dense, args.target, folder, args.divisor)


def ways_to_run(label: str, net: materials.Net, peer: Path | None) -> list[Contestant]:
    """The contestants of one net."""
    made = [
        Contestant(f"{label}, plain stand-in", "run_forward.py", "plain", net.options()),
        Contestant(f"{label}, eager as trained", "run_forward.py", "eager", net.options()),
        Contestant(f"{label}, folded channels-last", "run_forward.py", "backend", net.options() | {"name": "torch"}),
        Contestant(f"{label}, compiled", "run_forward.py", "backend", net.options() | {"name": "compile"}),
    ]
    made += [Contestant(f"{label}, {name}", "run_forward.py", "backend", net.options() | {"name": name}, needs=packages)
             for name, packages in FROM_ONNX.items()]
    made.append(Contestant(f"{label}, OpenCV DNN", "run_forward.py", "opencv", net.options()))
    if peer:
        made.append(Contestant(f"{label}, peer", "run_peer.py", "forward", net.options(), root=peer))
    return made


def forward_remarks(outcomes: list[Outcome], reduction: float) -> list[str]:
    """What pruning brought on each way to run, beside what it took away; and who does not compute the same."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    lines = [f"pruning took the FLOPs down {reduction:.2f}x; the time (dense median / pruned median, and its share of "
             "that):"]
    for name, outcome in by_name.items():
        twin = by_name.get(name.replace("dense, ", "pruned, "))
        if name.startswith("dense, ") and twin and outcome.median and twin.median:
            gain = outcome.median / twin.median
            lines.append(f"  {name.removeprefix('dense, ')}: {gain:.2f}x faster, {gain / reduction:.0%} of the FLOPs' "
                         "reduction")
    lines += [f"warning: the output of {name} is off by {outcome.facts['off_by']:.2g} of the largest value"
              for name, outcome in by_name.items() if outcome.facts.get("off_by", 0) > AGREES]
    return lines


# ---- detections

def nms(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Decoding and suppression of a net that was never trained."""
    options = {"cfg": str((ROOT / args.cfg).resolve()), "images": NMS_IMAGES, "size": args.size or 416}
    decoders = [Contestant("plain decode", "run_detections.py", "plain_decode", options, NMS_IMAGES),
                Contestant("ours", "run_detections.py", "decode", options, NMS_IMAGES)]
    ways = [Contestant("plain greedy loop", "run_detections.py", "plain_nms", options, NMS_IMAGES),
            Contestant("torchvision, an image at a time", "run_detections.py", "torchvision_nms", options, NMS_IMAGES),
            Contestant("ours, no bounds", "run_detections.py", "our_nms", options | {"capped": False}, NMS_IMAGES),
            Contestant(f"ours, {CAPS}", "run_detections.py", "our_nms", options | {"capped": True}, NMS_IMAGES),
            Contestant("ours, the plain loop's rule", "run_detections.py", "merge_nms", options, NMS_IMAGES)]
    if args.peer:
        stored = str(materials.store_predictions(folder, options))
        ways.append(Contestant("peer", "run_peer.py", "nms", {"predictions": stored}, NMS_IMAGES, root=args.peer))
    sizes = f"{NMS_IMAGES} images, {options['size']} px, raw maps near 0"
    narrow = materials.store_net(materials.random_net(materials.sized_defs(NARROW, None)), folder, "narrow")
    detector = {"cfg": str(narrow.cfg), "weights": str(narrow.weights), "size": STEP["size"], "images": 32}
    extremes = [Contestant(name, "run_forward.py", "detect_batches", detector | {"conf": conf}, detector["images"])
                for name, conf in (("no box passes: at best", 1.0), (f"every box passes, {CAPS}: at worst", 0.0))]
    return [
        Item(
            "untrained",
            f"What an untrained net can cost: {NARROW.name}, {STEP['size']} px, forward and NMS",
            extremes,
            repeats=8,
            unit="images",
        ),
        Item("decode", f"Decoding: {sizes}", decoders, repeats=30, unit="images"),
        Item(
            "nms",
            f"NMS at objectness 0.01, IoU 0.5: {sizes}, so that every box passes",
            ways,
            repeats=8,
            warmup=1,
            limit_s=15,
            unit="images",
        ),
    ]


def ap(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Average precision of a set as large as the Oxford test set."""
    ways = [
        Contestant("plain loop, IoU 0.5 only", "run_detections.py", "plain_ap", AP_SET, AP_SET["images"]),
        Contestant("ours, ten IoUs", "run_detections.py", "our_ap", AP_SET, AP_SET["images"]),
        Contestant("ours, the plain loop's rule", "run_detections.py", "compat_ap", AP_SET, AP_SET["images"]),
        Contestant(
            "pycocotools, four areas", "run_detections.py", "coco_ap", AP_SET, AP_SET["images"], needs=("pycocotools",)
        ),
    ]
    if args.peer:
        stored = str(materials.store_detections(folder, **AP_SET))
        ways.append(
            Contestant(
                "peer, IoU 0.5 only",
                "run_peer.py",
                "average_precision",
                {"detections": stored},
                AP_SET["images"],
                root=args.peer,
            )
        )
    return [
        Item(
            "ap",
            f"Average precision: {AP_SET['images']} images with {AP_SET['boxes']} detections each",
            ways,
            repeats=6,
            warmup=0,
        )
    ]


# ---- training

def loading(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Training batches from drawn pictures, in one process."""
    train_list = str(materials.pictures(folder, PICTURES, PICTURE_SIDE).parent / "train.txt")
    options = {"train_list": train_list, "size": STEP["size"], "batch": STEP["batch"]}
    ways = [
        Contestant("plain loader, flip only", "run_training.py", "plain_loader", options, PICTURES),
        Contestant(
            "ours, flip, warp, colour, no cache", "run_training.py", "our_loader", options | {"cache_gb": 0.0}, PICTURES
        ),
        Contestant(
            "ours, flip, warp, colour, --cache-gb 0.5",
            "run_training.py",
            "our_loader",
            options | {"cache_gb": 0.5},
            PICTURES,
        ),
    ]
    title = (f"Training loader: {PICTURES} pictures of {PICTURE_SIDE} px to {STEP['size']} px, "
             f"batch {STEP['batch']}, augmented, no loader processes")
    return [Item("loading", title, ways, repeats=10, unit="images")]


def step(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Training steps of the quarter-width net."""
    data = materials.pictures(folder, PICTURES, PICTURE_SIDE)
    cfg, train_list = str(NARROW), str(data.parent / "train.txt")
    plain = STEP | {"cfg": cfg, "train_list": train_list}

    def ours(name: str, loader: bool = False, **options) -> Contestant:
        """Our step, with something changed."""
        options = STEP | {"cfg": cfg, "data": str(data), "loader": loader} | options
        return Contestant(name, "run_training.py", "our_training", options, PICTURES)

    ways = [
        Contestant("plain step, no loader", "run_training.py", "plain_training", plain, PICTURES),
        ours("ours, no loader"),
        ours("ours with loader and augmentation", loader=True),
        ours("ours, --bf16, no loader", change="bfloat16"),
        ours("tried: contiguous tensors", change="contiguous"),
        ours("tried: optimiser foreach, not fused", change="foreach"),
        ours("tried: compiled forward", change="compiled"),
        ours("tried: freed memory handed back", change="returned"),
        ours("tried: batch 32", batch=2 * STEP["batch"], steps=STEP["steps"] // 2),
    ]
    if args.peer:
        stored = str(materials.store_batches(folder, train_list, STEP["size"], STEP["batch"], STEP["steps"]))
        options = {"cfg": cfg, "batches": stored, "steps": STEP["steps"]}
        ways.append(Contestant("peer, no loader", "run_peer.py", "training", options, PICTURES, root=args.peer))
    title = f"Training: {STEP['steps']} steps of {NARROW.name}, {STEP['size']} px, batch {STEP['batch']}"
    return [Item("step", title, ways, repeats=4, warmup=1, limit_s=30, unit="images")]


def shared_step(args: argparse.Namespace, folder: Path) -> list[Item]:
    """The same steps by threads of one process and by processes that share the batch."""
    threads = args.threads or torch.get_num_threads()
    data = materials.pictures(folder, PICTURES, PICTURE_SIDE)
    ours = STEP | {"cfg": str(NARROW), "data": str(data)}
    ways = []
    for count in (count for count in (1, 2, 4, 8) if count <= max(threads, 2)):
        each = max(threads // count, 1)
        name = f"{count} process{'es' * (count > 1)} of {counted(each, 'thread')}"
        own = ours | {"count": count, "threads": each}
        for words, more in ways_to_share(count):
            ways.append(Contestant(name + words, "run_processes.py", "shared_training", own | more, PICTURES))
    title = f"Training by several processes: {STEP['steps']} steps of {NARROW.name}, {STEP['size']} px, {STEP['batch']}"
    return [Item("processes", f"{title} images per step of all together", ways, repeats=6, warmup=1, limit_s=60,
                 unit="images")]


def ways_to_share(count: int) -> list[tuple[str, dict]]:
    """(what a contestant's name says, its options) of `count` processes."""
    ways = [(", no loader", {"loader": False}), (" with loader and augmentation", {"loader": True})]
    if count > 1:
        ways.append((", no loader, --no-sync-bn", {"loader": False, "flags": ["--no-sync-bn"]}))
    return ways


# ---- programs

def prune(args: argparse.Namespace, folder: Path) -> list[Item]:
    """test_prune.py without evaluation and timing."""
    net = materials.store_net(materials.random_net(materials.sized_defs(args.cfg, args.size)), folder, "dense")
    words = [[*materials.prune_words(net, folder / name), "--percent", "0.6"] for name in ("steps", "script")]
    ways = [
        Contestant("load, cut, verify, write", "run_prune.py", "prune", {"words": words[0]}),
        Contestant("python test_prune.py, whole", "run_scripts.py", "python", {"words": ["test_prune.py", *words[1]]}),
    ]
    return [Item("prune", f"test_prune.py on {Path(args.cfg).name} ({net.cost.parameters:,} parameters), percent 0.6, "
                          "no evaluation, no timing", ways,
                 repeats=3, warmup=1)]


def startup(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Whole programs that do little."""
    pruned = materials.pruned_twin(
        materials.store_net(materials.random_net(materials.sized_defs(NARROW, None)), folder, "dense"), 0.3, folder
    )
    detect = [
        "detect.py",
        "--cfg",
        str(pruned.cfg),
        "--weights",
        str(pruned.weights),
        "--source",
        "data/samples/synth_test_00000.jpg",
        "--out",
        str(folder / "detections"),
    ]
    programs = {"python -c 'import torch'": ["-c", "import torch"], "train.py --help": ["train.py", "--help"],
                "detect.py, one picture, pruned net": detect}
    return [
        Item(
            "startup",
            "Whole programs, from the command line to their end",
            [Contestant(name, "run_scripts.py", "python", {"words": words}) for name, words in programs.items()],
            repeats=5,
            warmup=1,
        )
    ]


# ---- growth

def growth(args: argparse.Namespace, folder: Path) -> list[Item]:
    """How time grows with images, boxes and channels."""
    size = args.size or 416
    net = materials.store_net(materials.random_net(materials.sized_defs(NARROW, None)), folder, "narrow")
    detector = {"cfg": str(net.cfg), "weights": str(net.weights), "size": STEP["size"]}
    images = [grown(f"{n} images", n, "run_forward.py", "detect_batches", detector | {"images": n})
              for n in (8, 16, 32)]
    suppressed = {"size": size}
    uncapped = [grown(f"{n:,} boxes", n, "run_detections.py", "many_boxes", suppressed | {"boxes": n, "capped": False})
                for n in (1_000, 4_000, 16_000)]
    boxes = [grown(f"{n:,} boxes", n, "run_detections.py", "many_boxes", suppressed | {"boxes": n})
             for n in (10_647, 106_470, 1_064_700)]
    scored = [grown(f"{n} detections per image", n, "run_detections.py", "our_ap", AP_SET | {"boxes": n})
              for n in (3, 30, 300)]
    return [
        growing("images", f"images: {NARROW.name}, {STEP['size']} px, forward and NMS in batches of 8", images,
                unit="images"),
        growing("nms", f"boxes: NMS of one image, {CAPS}", boxes, "boxes", repeats=15),
        growing("nms-uncapped", "boxes: NMS of one image, no caps", uncapped, "boxes"),
        growing("ap", f"boxes: average precision of {AP_SET['images']} images", scored, "detections"),
        growing("channels", f"channels: forward pass of yolov3-hand at three widths, batch 1, {size} px, folded "
                "channels-last", widths(size, folder)),
    ]


def growing(name: str, title: str, contestants: list[Contestant], what: str = "", **options) -> Item:
    """A comparison of the same work in growing amounts of `what` (default: the item's name)."""
    options = {"repeats": 8, "remarks": growth_remarks(what or name)} | options
    return Item(f"growth-{name}", f"Growth with {title}", contestants, **options)


def grown(name: str, amount: float, file: str, function: str, options: dict) -> Contestant:
    """A contestant whose work is the amount that grows."""
    return Contestant(name, file, function, options, amount)


def widths(size: int, folder: Path) -> list[Contestant]:
    """yolov3-hand at a quarter, a half and the whole of its channels."""
    made = []
    for width in (0.25, 0.5, 1.0):
        cfg = folder / f"width{width:g}.cfg"
        subprocess.run(
            [
                sys.executable,
                "config/create_hand_model.py",
                "--base",
                "yolov3",
                "--width",
                str(width),
                "--out",
                str(cfg),
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        flops = 2 * total_cost(materials.parse_model_config(cfg), size, size).macs
        made.append(
            grown(
                f"width {width:g}, {flops / 1e9:.2f} GFLOPs",
                width,
                "run_forward.py",
                "width",
                {"cfg": str(cfg), "size": size},
            )
        )
    return made


def growth_remarks(what: str) -> Callable[[list[Outcome]], list[str]]:
    """Remarks on the time's growth from each size to the next and over all, as an exponent."""
    def remarks(outcomes: list[Outcome]) -> list[str]:
        """One line a step, one for the whole."""
        known = [(outcome.contestant.work, outcome.median) for outcome in outcomes if outcome.median]
        pairs = list(zip(known, known[1:])) + ([(known[0], known[-1])] if len(known) > 2 else [])
        return [growth_words(what, *first, *last) for first, last in pairs]

    return remarks


def growth_words(what: str, first: float, first_s: float, last: float, last_s: float) -> str:
    """How time grew from `first` to `last` units: the factor, the exponent, the factor a doubling."""
    exponent = math.log(last_s / first_s) / math.log(last / first)
    return (f"{what} x{last / first:g}: time x{last_s / first_s:.2f}, "
            f"exponent {exponent:.2f}, x{2**exponent:.2f} a doubling")


ITEMS: dict[str, Callable[[argparse.Namespace, Path], list[Item]]] = {
    "forward": forward,
    "nms": nms,
    "ap": ap,
    "loading": loading,
    "step": step,
    "processes": shared_step,
    "prune": prune,
    "startup": startup,
    "growth": growth,
    "deploy": deploy,
}
BY_NAME = ("deploy",)  # not among all items: it is made for a net of one's own
