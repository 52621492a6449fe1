r"""What each kind of sparse training gives in equal epochs: one run of train.py -sr per variant, then the same cut,
not fine-tuned.

    python -m benchmarks.sparsity --cfg logs/demo/yolov3-tiny-demo.cfg --weights logs/demo/baseline/best.pth \
        --data data/demo/demo.data --train "--epochs 2 --lr 3e-3 --batch_size 8 --augment flip"

Runs of an earlier call with the same --name are not repeated.
"""

import argparse
import csv
import os
import shlex
from pathlib import Path
from statistics import fmean

from utils import cli
from utils.output import ascii_table, write_csv
from utils.pruning import stages

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {
    "l1": "--sparsity l1 --rescale none --s-schedule constant",
    "prox": "--sparsity prox --rescale none --s-schedule constant",
    "l1, rescaled": "--sparsity l1 --rescale auto --s-schedule constant",
    "prox, rescaled": "--sparsity prox --rescale auto --s-schedule constant",
    "prox, rescaled, decay": "--sparsity prox --rescale auto --s-schedule decay",
    "prox, rescaled, ease": "--sparsity prox --rescale auto --s-schedule ease",
    "polarize, rescaled, ease": "--sparsity polarize --rescale auto --s-schedule ease",
    "prox, rescaled, ease, flops": "--sparsity prox --rescale auto --s-schedule ease --sparsity-weight flops",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    p = cli.Parser(prog="python -m benchmarks.sparsity", description=__doc__)
    p.add_argument("--cfg", required=True, help="the dense net")
    p.add_argument("--weights", required=True, help="its checkpoint")
    p.add_argument("--data", required=True, help=".data or .yaml file to train and score on")
    p.add_argument("--s", type=cli.strength, nargs="+", default=[0.01, 0.04], help="strengths, each with every "
                                                                                         "variant")
    p.add_argument("--train", default="--epochs 2 --lr 3e-3", metavar="FLAGS", help="flags of train.py for every "
                                                                                    "variant")
    p.add_argument("--seeds", type=cli.seed, nargs="+", default=[0],
                   help="of the sparse training; the table has means, and the range of mAP")
    p.add_argument("--target-flops", type=cli.ratio, default=0.3, help="share of the FLOPs to cut to")
    p.add_argument("--variants", nargs="+", choices=list(VARIANTS), metavar="NAME", help="some of them only")
    cli.add_threads_flag(p)
    p.add_argument("--name", type=cli.run_name, default="sparsity",
                   help="runs are logs/NAME/..., the table logs/NAME/table.csv")
    return p.parse_args(argv)


def measure(args: argparse.Namespace, variant: str, s: float, seed: int) -> dict[str, float]:
    """Train and cut one variant with one seed, unless that was done: name -> number."""
    name = f"{args.name}/{variant.replace(',', '').replace(' ', '-')}-s{s:g}-seed{seed}"
    folder, pruned = Path("logs") / name, Path("logs") / name / "pruned"
    common = "--cfg", args.cfg, "--data", args.data, "--threads", args.threads
    stages.tune(folder, [*common, "-pre", args.weights, "-sr", "--s", s, *shlex.split(VARIANTS[variant]),
                            *shlex.split(args.train), "--seed", seed, "--no-publish"])
    report = stages.prune(pruned, [*common, "--weights", folder / "best.pth", "--target-flops", args.target_flops,
                                      "--recalibrate", 20, "--repeats", 0])
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return {
        "sparse mAP": float(last["map50"]),
        "mAP after the cut": report["after"]["map50"],
        "gammas exactly 0": float(last["gamma_zero"]),
        "channels cut": report["share_cut"],
    }


def over_seeds(runs: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every number; beside those of mAP their spread, largest less smallest."""
    row = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        row[key] = round(fmean(values), 4)
        if "mAP" in key:
            row[f"{key}, spread"] = round(max(values) - min(values), 4)
    return row


def main() -> None:
    """Every variant with every strength and seed, then the table."""
    args = parse_args()
    os.chdir(ROOT)
    rows = []
    for s in args.s:
        for variant in args.variants or VARIANTS:
            runs = [measure(args, variant, s, seed) for seed in args.seeds]
            rows.append({"variant": variant, "s": s, "seeds": len(runs)} | over_seeds(runs))
            write_csv(Path("logs") / args.name / "table.csv", rows)
    print(ascii_table([list(rows[0]), *(list(row.values()) for row in rows)]))


if __name__ == "__main__":
    cli.run(main)
