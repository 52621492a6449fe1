"""Cuts by --target-latency and by --target-flops beside each other: what was predicted of each, what it takes in the
runtime, what it scores with its batch-norm statistics taken anew.

    python -m benchmarks.latency "--target-latency 0.5" "--target-flops 0.3" --runtime openvino \\
        --prune "--cfg config/yolov3-hand-w25.cfg --weights dense.pth --data egohands.data --threads 1" --out logs/cuts

Writes table.csv and, for each cut, a profile: the time of each convolution by its table. --cpu-time counts the seconds
of this process alone (with one thread), for a machine that others use as well.
"""

import argparse
import shlex
import time

import torch
from torch import nn

from models import Darknet
from utils import cli
from utils.batch_norm import recalibrate
from utils.deploy.layer_time import LayerClock, WidthTable, conv_specs
from utils.evaluation.evaluate import evaluate
from utils.output import ascii_table, environment, write_csv
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.job import Job, compact_of, load
from utils.pruning.plan import Plan, plan_cut, remove_layers
from utils.shapes import total_cost


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    p = cli.Parser(prog="python -m benchmarks.latency", description=__doc__)
    p.add_argument("cuts", nargs="+", metavar="FLAGS", help="of test_prune.py, one cut each")
    p.add_argument("--prune", required=True, metavar="FLAGS", help="of test_prune.py, the same for all cuts")
    p.add_argument("--runtime", choices=("openvino", "onnxruntime", "torch"), default="openvino", help="what runs them")
    p.add_argument("--rounds", type=cli.positive_int, default=3, metavar="N", help="measurements of each cut")
    p.add_argument("--repeats", type=cli.positive_int, default=60, metavar="N", help="forward passes per measurement")
    p.add_argument("--cpu-time", action="store_true", help="seconds of this process alone, for a machine in use")
    p.add_argument("--out", type=cli.out_folder, required=True, metavar="DIR", help="for table.csv and profiles")
    return p.parse_args(argv)


def main() -> None:
    """Make every cut, measure each alternately with the dense net, round by round, write the table."""
    args = parse_args()
    made = [made_by(args, words) for words in args.cuts]
    shares = [[] for _ in made]
    for _ in range(args.rounds):
        for (job, _, net), own in zip(made, shares):
            dense, slim = job.watch.beside(net, args.repeats)
            own.append((slim.median / dense.median, dense.median))
    rows = [row_of(words, *one, sorted(own)) for words, one, own in zip(args.cuts, made, shares)]
    write_csv(args.out / "table.csv", rows)
    print(ascii_table([list(rows[0]), *(list(row.values()) for row in rows)]))
    for number, (job, _, net) in enumerate(made):
        write_csv(args.out / f"profile{number}.csv", profile(job, net, args.runtime))
    print(environment())


def made_by(args: argparse.Namespace, words: str) -> tuple[Job, Plan, nn.Module]:
    """(job, plan, compact net with its statistics taken anew) of one cut."""
    flags = [*shlex.split(args.prune), *shlex.split(words), "--latency-backend", args.runtime]
    job = load(prune_options(parse_prune_args("", flags)), Darknet)
    if args.cpu_time:
        job.watch.clock = time.process_time
    print(f"\n{words}", flush=True)
    job = remove_layers(job)
    plan = plan_cut(job)
    net = compact_of(job, plan.cut)[0]
    return job, plan, net if job.loader is None else recalibrate(net, job.train_batches(20))


def row_of(words: str, job: Job, plan: Plan, net: nn.Module, shares: list[tuple[float, float]]) -> dict:
    """A line of the table; shares: (of the dense net's time, seconds of that) per round, ascending."""
    dense, slim = (total_cost(own.module_defs, *job.size) for own in (job.dense, net))
    share = shares[len(shares) // 2][0]
    score = evaluate(net, job.loader, job.data.names, job.options.scoring, quiet=True).map50 if job.loader else None
    return {
        "cut": words,
        "runtime": job.watch.runtime,
        "blocks gone": len(job.blocks),
        "parameters": slim.parameters,
        "FLOPs": round(slim.macs / dense.macs, 3),
        "dense ms": round(1e3 * shares[len(shares) // 2][1], 2),
        "predicted": "" if plan.predicted is None else round(plan.predicted, 3),
        "time": round(share, 3),
        "least": round(shares[0][0], 3),
        "most": round(shares[-1][0], 3),
        "off by %": "" if plan.predicted is None else round(100 * (share / plan.predicted - 1), 1),
        "speed-up / FLOPs": round(slim.macs / dense.macs / share, 2),
        "mAP": "" if score is None else round(score, 4),
    }


def profile(job: Job, net: nn.Module, runtime: str) -> list[dict]:
    """Each convolution of a cut: widths and its time alone in the runtime."""
    clock = LayerClock.of(runtime, torch.device("cpu"))
    unit, rows = clock.unit(), []
    for layer_i, spec in conv_specs(net.module_defs, job.size).items():
        seconds = WidthTable.of(spec, (False, False), unit, clock).seconds[0, 0]
        rows.append({"layer": layer_i, "inputs": spec.inputs, "outputs": spec.outputs, "size": spec.size,
                     "rows": spec.rows, "ms": round(1e3 * seconds, 4)})
    return rows


if __name__ == "__main__":
    cli.run(main)
