r"""mAP against size from one sparse checkpoint: this project's ranking, the reference rule, and Torch-Pruning's.

    python -m benchmarks.tradeoff --cfg config/yolov3-hand-w25.cfg --weights logs/egohands-sparse/best.pth \
        --data config/egohands.data

Every method is cut to the same shares of the dense FLOPs, gets new batch-norm statistics from the same training
batches, and is scored alike; with --tune all are fine-tuned with the same flags; in the end each is measured
alternately with the dense net. Nets that an earlier run left in --out are not made again. Needs the package
torch-pruning for its curves.
"""

import argparse
import copy
import csv
import importlib.util
import json
import os
import shlex
from pathlib import Path
from statistics import fmean
from typing import Callable

import torch
from torch import nn

from models import Darknet
from utils import cli
from utils.batch_norm import recalibrate, rescale_gammas, restoring_factor
from utils.checkpoint import save_checkpoint, weights_content
from utils.compare import compare_latency, latencies_beside
from utils.evaluation.evaluate import evaluate
from utils.loading import select_device
from utils.output import ascii_table, write_csv, write_json
from utils.parse_config import section_of, write_model_config
from utils.plots import plot_tradeoff
from utils.pruning import stages
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.job import Job, compact_of, load
from utils.pruning.plan import Ranking, cost_of, cut_at
from utils.pruning.selection import mildest, thresholds
from utils.shapes import total_cost

ROOT = Path(__file__).resolve().parent.parent
OURS = {
    "group, gamma": "",
    "group, gamma-norm": "--score gamma-norm",
    "group, taylor": "--score taylor",
}
REFERENCE = "reference rule"
TUNED = ("tuned_map50", "tuned_map", "tuned_spread", "seeds")  # columns that --tune fills
SHOWN = ("method", "flops_share", "parameters", "flops", "latency_ms", "speed_up", "map50", "map", *TUNED)
TORCH_PRUNING = {"Torch-Pruning BNScale": "BNScaleImportance", "Torch-Pruning GroupNorm": "GroupMagnitudeImportance"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    p = cli.Parser(description=__doc__)
    p.add_argument("--cfg", required=True, help="the net that all methods cut")
    p.add_argument("--weights", required=True, help="a checkpoint after -sr")
    p.add_argument("--data", required=True, help=".data or .yaml file to train and score on")
    p.add_argument(
        "--flops",
        type=cli.ratio,
        nargs="+",
        default=[0.45, 0.35, 0.3, 0.25, 0.2],
        help="shares of the dense net's FLOPs to cut to",
    )
    p.add_argument("--recalibrate", type=cli.count, default=20, help="training batches for new batch-norm statistics")
    p.add_argument("--repeats", type=cli.count, default=30, help="forward passes to time")
    p.add_argument("--methods", nargs="+", metavar="NAME", help="some of the methods only")
    p.add_argument("--tune", metavar="FLAGS", help="flags of train.py: fine-tune every net of --tune-flops with them")
    p.add_argument("--tune-flops", type=cli.ratio, nargs="+", default=[0.35, 0.25, 0.15],
                   help="sizes that are fine-tuned")
    p.add_argument("--seeds", type=cli.seed, nargs="+", default=[0], help="of the fine-tuning; the table has mean and "
                                                                     "spread over them")
    cli.add_threads_flag(p)
    p.add_argument("--no-timing", action="store_true", help="leave the latency column empty")
    p.add_argument("--out", type=cli.out_folder, default=Path("output/tradeoff"),
                   help="folder for nets, table and picture")
    return p.parse_args(argv)


def check_methods(names: list[str] | None) -> None:
    """Raise ValueError on a name that there is not, or where a package is missing."""
    known = [*OURS, REFERENCE, *TORCH_PRUNING]
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"--methods: found {', '.join(unknown)}, expected some of {', '.join(known)}")
    if set(names or known) & set(TORCH_PRUNING) and importlib.util.find_spec("torch_pruning") is None:
        raise ValueError("Torch-Pruning's curves need a package that is not installed: pip install torch-pruning (or "
                         "leave them out: --methods)")


def job_of(args: argparse.Namespace, flags: str = "") -> Job:
    """What test_prune.py would prune with these flags."""
    words = [
        "--cfg",
        args.cfg,
        "--weights",
        args.weights,
        "--data",
        args.data,
        "--recalibrate",
        str(args.recalibrate),
        *shlex.split(flags),
    ]
    return load(prune_options(parse_prune_args(__doc__, words)), Darknet)


def cut_by_ranking(job: Job, macs: float) -> tuple[list[dict], dict] | None:
    """(module_defs, state_dict) of the mildest cut with at most `macs`; None where the rule cannot go so far."""
    ranking = Ranking.of(job)
    threshold = mildest(
        thresholds(ranking.ranked, ranking.free), lambda level: cost_of(job, cut_at(job, ranking, level)).macs <= macs
    )
    if threshold is None:
        return None
    surgery = compact_of(job, cut_at(job, ranking, threshold))[1]
    return surgery.module_defs, surgery.state


class _Raw(nn.Module):
    """A Darknet as Torch-Pruning wants to trace it: an image in, raw maps out."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images):
        """(B, 3, H, W) -> raw maps."""
        return self.net.raw_maps(images)


class TorchPruning:
    """Cuts by Torch-Pruning: global ranking by one of its importances, heads left alone, one step. It leaves a layer
    whole rather than empty it, so that very high ratios remove less again: the mildest of RATIOS that is small enough
    is looked for first, then, in steps of FINE, the mildest down to the ratio before it. GroupNorm weighs gammas
    against kernels, so it sees the net with the scale of its gammas restored (mAP .69 instead of .31 at half of the
    FLOPs)."""

    RATIOS = [i / 50 for i in range(2, 50)]
    FINE = 1 / 400

    def __init__(self, job: Job, importance: str):
        self.job, self.importance = job, importance
        self.macs: dict[float, int] = {}

    def cut(self, ratio: float) -> nn.Module:
        """The dense net with that share of its channels removed."""
        import torch_pruning

        net = copy.deepcopy(self.job.dense).cpu()
        factor = restoring_factor(net) if self.job.rescale != 1.0 else None
        if factor:
            rescale_gammas(net, factor)
        heads = [net.module_list[i - 1][0] for i in net.head_layers()]
        importance = getattr(torch_pruning.importance, self.importance)()
        pruner = torch_pruning.pruner.BasePruner(
            _Raw(net),
            torch.rand(1, 3, self.job.size[1], self.job.size[0]),
            importance=importance,
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=1.0,
            ignored_layers=heads,
        )
        pruner.step()
        if factor:
            rescale_gammas(net, 1 / factor)  # fine-tuned at the scale of all the others
        return net

    def __call__(self, macs: float) -> tuple[list[dict], dict] | None:
        """(module_defs, state_dict) of the mildest cut with at most `macs`; None where there is none."""
        coarse = next((ratio for ratio in self.RATIOS if self.macs_at(ratio) <= macs), None)
        if coarse is None:
            return None
        finer = [coarse - i * self.FINE for i in range(round(0.02 / self.FINE) - 1, -1, -1)]
        net = self.cut(next(ratio for ratio in finer if self.macs_at(ratio) <= macs))
        return defs_of(net), net.state_dict()

    def macs_at(self, ratio: float) -> int:
        """Multiply-adds that a ratio leaves, counted once."""
        if ratio not in self.macs:
            self.macs[ratio] = total_cost(defs_of(self.cut(ratio)), *self.job.size).macs
        return self.macs[ratio]


def defs_of(net: nn.Module) -> list[dict]:
    """module_defs with the widths that a Darknet's convolutions really have."""
    defs = [section.copy() for section in net.module_defs]
    for layer_i, conv, _ in net.convolutions():
        section_of(defs, layer_i)["filters"] = str(conv.out_channels)
    return defs


def method_cuts(args: argparse.Namespace) -> dict[str, tuple[Job, Callable]]:
    """name -> (job, function of MACs that gives module_defs and state_dict)."""
    plain = job_of(args)
    cuts = {
        name: (job, lambda macs, job=job: cut_by_ranking(job, macs))
        for name, job in ((name, job_of(args, flags)) for name, flags in OURS.items())
    }
    skip = job_of(args, "--strategy skip --fold bias")
    cuts[REFERENCE] = (skip, lambda macs: cut_by_ranking(skip, macs))
    for name, importance in TORCH_PRUNING.items():
        cuts[name] = (plain, TorchPruning(plain, importance))
    return {name: cuts[name] for name in args.methods or cuts}


def folder_of(args: argparse.Namespace, name: str, share: float) -> Path:
    """Where the net of a method and size lies."""
    return args.out / "nets" / f"{name.replace(',', '').replace(' ', '-')}-{share:g}"


def measure(args: argparse.Namespace, name: str, share: float, job: Job, made: tuple[list[dict], dict]) -> dict:
    """Save a cut net with new statistics as a checkpoint, and score it: one row of the table."""
    defs, state = made
    net = Darknet(defs).to(next(job.dense.parameters()).device)
    net.load_state_dict(state)
    recalibrate(net, job.train_batches(args.recalibrate))
    folder = folder_of(args, name, share)
    write_model_config(folder / "net.cfg", defs)
    save_checkpoint(folder / "net.pth", weights_content(net, str(folder / "net.cfg"), "tradeoff", rescale=job.rescale))
    result = evaluate(net, job.loader, job.data.names, job.options.scoring, quiet=True)
    cost = total_cost(defs, *job.size)
    row = {
        "method": name,
        "flops_share": share,
        "parameters": cost.parameters,
        "flops": 2 * cost.macs,
        "latency_ms": "",
        "speed_up": "",
        "map50": round(result.map50, 4),
        "map": round(result.map, 4),
        **dict.fromkeys(TUNED, ""),
        "folder": str(folder),
    }
    write_json(folder / "row.json", row)
    return row


def time_all(args: argparse.Namespace, dense: nn.Module, size: tuple[int, int], rows: list[dict]) -> None:
    """Latency of every cut net into the rows, each beside the dense net."""
    device = next(dense.parameters()).device
    nets = (Darknet(str(Path(row["folder"]) / "net.cfg")).to(device) for row in rows)
    whole, seconds, protocol = latencies_beside(lambda net: compare_latency([dense, net], size, args.repeats), nets)
    for row, own in zip(rows, seconds):
        row.update(latency_ms=round(1e3 * own, 2), speed_up=round(whole / own, 2))
    print(f"dense: {1e3 * whole:.1f} ms; {protocol}")


def tuned(args: argparse.Namespace, folder: Path, seed: int) -> tuple[float, float]:
    """(mAP@.5, AP) of the best epoch of one net fine-tuned with the flags of --tune; a run that was made is not made
    again, one that was stopped goes on."""
    run = Path("logs") / f"{stages.run_name(folder)}-seed{seed}"
    stages.tune(
        run,
        [
            "--model_def",
            folder / "net.cfg",
            "-pre",
            folder / "net.pth",
            "--data",
            args.data,
            "--no-publish",
            "--seed",
            seed,
            *shlex.split(args.tune),
        ],
    )
    with open(run / "metrics.csv", newline="") as file:
        best = max((row for row in csv.DictReader(file) if row["map50"]), key=lambda row: float(row["map50"]))
    return float(best["map50"]), float(best["map"])


def tune(args: argparse.Namespace, row: dict) -> None:
    """Fine-tune the net of a row with every seed; mean mAP@.5 and AP, and largest less smallest mAP@.5 of several, go
    into the row."""
    map50, ap = zip(*(tuned(args, Path(row["folder"]), seed) for seed in args.seeds))
    row.update(tuned_map50=round(fmean(map50), 4), tuned_map=round(fmean(ap), 4), seeds=len(map50),
               tuned_spread=round(max(map50) - min(map50), 4) if len(map50) > 1 else "")
    write_json(Path(row["folder"]) / "row.json", row)


def save(args: argparse.Namespace, rows: list[dict]) -> None:
    """Table, CSV and PNG of what is known so far."""
    write_csv(args.out / "tradeoff.csv", [{key: row[key] for key in SHOWN} for row in rows])
    curves: dict[str, list[dict]] = {}
    for row in rows:
        curves.setdefault(row["method"], []).append(row)
    plot_tradeoff(curves, args.out / "tradeoff.png")


def main() -> None:
    """Cut every method to every size -> score -> tune -> table."""
    args = parse_args()
    check_methods(args.methods)
    os.chdir(ROOT)
    select_device("cpu", args.threads)
    rows, job = [], None
    for name, (job, cut) in method_cuts(args).items():
        for share in args.flops:
            if (kept := folder_of(args, name, share) / "row.json").exists():
                rows.append(dict.fromkeys(TUNED, "") | json.loads(kept.read_text()))
                continue
            made = cut(share * total_cost(job.dense.module_defs, *job.size).macs)
            if made is None:
                print(f"{name}: cannot go to {share:g} of the FLOPs", flush=True)
                continue
            rows.append(measure(args, name, share, job, made))
            print(rows[-1], flush=True)
            save(args, rows)
    for row in (row for row in rows if args.tune and row["flops_share"] in args.tune_flops):
        tune(args, row)
        save(args, rows)
    if not args.no_timing:
        time_all(args, job.dense, job.size, rows)
        save(args, rows)
    print(ascii_table([list(SHOWN), *([row[key] for key in SHOWN] for row in rows)]))


if __name__ == "__main__":
    cli.run(main)
