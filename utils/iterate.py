"""--steps: prune a part, fine-tune, prune again. Runs test_prune.py and train.py, and goes on where it was stopped."""

import argparse
import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

from utils import cli
from utils.checkpoint import read_checkpoint
from utils.parse_config import parse_model_config
from utils.setup import model_and_data
from utils.shapes import total_cost
from utils.tables import ascii_table

ROOT = Path(__file__).resolve().parent.parent


def run_steps(args: argparse.Namespace, argv: list[str]) -> None:
    """Prune args.cfg in args.steps parts, each followed by `train.py` with the flags of --tune; argv: this command line's flags,
    passed on to every pruning. Everything lies in --out (default pruned/steps-STEM) and logs/<its name>-step<i>."""
    out = args.out or Path("pruned") / f"steps-{cli.stem(args.cfg)}"
    cfg, weights = cli.resolve_cfg(args.cfg), Path(args.weights or f"checkpoints/{cli.stem(args.cfg)}_ckpt.pth")
    shares, passed = step_shares(args), without(argv, ("--steps", "--tune", "--cfg", "--model_def", "--weights", "--weights_path", "-pre",
                                                       "--pretrained_weights", "--out", "--percent", "--target-params", "--target-flops", "--target-latency"))
    rows = [["Step", "Parameters", "MACs (G)", "mAP pruned", "mAP tuned"]]
    for step in range(1, args.steps + 1):
        folder, run = out / f"step{step}", Path("logs") / f"{out.name}-step{step}"
        report = prune(folder, ["--cfg", cfg, "--weights", weights, *shares, *passed])
        cfg = next(folder.glob("prune*.cfg"))
        tune(run, ["--cfg", cfg, "--weights", next(folder.glob("checkpoints/*.pth")), "--data", args.data, "--no-publish", *shlex.split(args.tune)])
        weights = run / "best.pth"
        cost = total_cost(parse_model_config(cfg))
        rows.append([step, f"{cost.parameters:,}", f"{cost.macs / 1e9:.3f}", score_of(report), best_of(run)])
    print(ascii_table(rows))
    print(f"written: {cfg}, {weights}")


def step_shares(args: argparse.Namespace) -> list[str]:
    """Flags of one step: equal ratios, so that args.steps of them compound to what was asked for."""
    flags = []
    for name in ("target_params", "target_flops", "target_latency"):
        if (target := getattr(args, name)) is None:
            continue
        ratio = target.value
        if not target.is_ratio:
            if name == "target_latency":
                raise ValueError("--steps: found a --target-latency in milliseconds, expected a ratio such as 0.5")
            cfg, defs, _ = model_and_data(args, quiet=True)
            cost = total_cost(defs, *cli.input_size(args, defs))
            ratio = target.value / (cost.parameters if name == "target_params" else 2 * cost.macs)
        flags += [f"--{name.replace('_', '-')}", f"{min(ratio, 1.0) ** (1 / args.steps):.6f}"]
    if not flags and args.max_drop is None:
        flags = ["--percent", f"{1 - (1 - args.percent) ** (1 / args.steps):.6f}"]
    return flags


def without(argv: list[str], names: tuple[str, ...]) -> list[str]:
    """argv less the flags in `names` and their values, given as `--flag value` or `--flag=value`."""
    kept, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif word.split("=")[0] not in names:
            kept.append(word)
    return kept


def run(script: str, flags: list) -> None:
    """Run one of the project's scripts, its command line printed first. Raises ValueError when it fails."""
    words = [str(flag) for flag in flags]
    print(f"\n$ python {script} {shlex.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, str(ROOT / script), *words]).returncode:
        raise ValueError(f"{script} ended with status {status}; the same command goes on from there")


def prune(folder: Path, flags: list) -> dict:
    """Prune into `folder` unless that was done; returns its report."""
    if not (reports := list(folder.glob("*-report.json"))):  # written last
        run("test_prune.py", [*flags, "--out", folder])
        reports = list(folder.glob("*-report.json"))
    return json.loads(reports[0].read_text())


def tune(folder: Path, flags: list) -> None:
    """Train into the run `folder`, from its last epoch when it has one, unless it is finished."""
    last = folder / "last.pth"
    if last.exists():
        state = read_checkpoint(last)
        if state["epoch"] < state["args"]["epochs"]:
            run("train.py", ["--resume", folder])
    else:
        run("train.py", [*flags, "--name", folder.name])


def score_of(report: dict) -> str:
    """mAP of a pruned net before tuning."""
    return f"{report['after']['map50']:.4f}" if report["after"] else "-"


def best_of(folder: Path) -> str:
    """Best mAP of a training run."""
    with open(folder / "metrics.csv", newline="") as file:
        scores = [float(row["map50"]) for row in csv.DictReader(file) if row["map50"]]
    return f"{max(scores):.4f}" if scores else "-"
