"""--steps: prune a part, fine-tune, prune again. Runs test_prune.py and train.py, and goes on where it was stopped."""

import csv
import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from utils.checkpoint import read_checkpoint
from utils.data.prepare import data_of, dataset, labelled_dataset, model_and_data
from utils.loading import checked_size, default_weights, resolve_cfg, stem
from utils.origin import missing
from utils.output import ascii_table, write_json
from utils.parse_config import parse_model_config
from utils.pruning.args import PruneOptions
from utils.pruning.job import OutputNames
from utils.shapes import total_cost
from utils.training.args import parse_train_args

# flags that hold for all steps together, not for each
OF_THE_WHOLE = (
    "--steps",
    "--tune",
    "--cfg",
    "--model_def",
    "--weights",
    "--weights_path",
    "-pre",
    "--pretrained_weights",
    "--out",
    "--percent",
    "--target-params",
    "--target-flops",
    "--target-latency",
    "--layers",
    "--layer-keep",
)
ROOT = Path(__file__).resolve().parent.parent.parent


def run_steps(options: PruneOptions, argv: list[str]) -> None:
    """Prune the net of --cfg in --steps parts, each followed by `train.py` with the flags of --tune; argv: this command
    line's flags, passed on to every pruning. Everything lies in --out (default pruned/steps-STEM) and logs/<its
    name>-step<i>."""
    options = checked(options)
    source, layers = options.source, options.rule.layers
    out = options.out or Path("pruned") / f"steps-{stem(source.cfg)}"
    cfg, weights = resolve_cfg(source.cfg), Path(source.weights)
    shares, passed = step_shares(options), without(argv, OF_THE_WHOLE)
    remember(
        out / "steps.json",
        {
            "cfg": str(cfg),
            "weights": str(weights),
            "weights_sha256": sha256(weights),
            "prune": [*shares, *passed],
            "layers": layers,
            "tune": options.tune,
        },
    )
    rows = [["Step", "Parameters", "MACs (G)", "mAP pruned", "mAP tuned"]]
    for step in range(1, options.steps + 1):
        folder, run = out / f"step{step}", Path("logs") / f"{run_name(out)}-step{step}"
        blocks = ["--layers", layers] if step == 1 and layers else []
        report = prune(folder, ["--cfg", cfg, "--weights", weights, *shares, *blocks, *passed])
        names = OutputNames.of(cfg, folder)
        cfg = names.cfg
        tune(run, ["--cfg", cfg, "--weights", names.checkpoint, *training_flags(options), "--no-publish",
                   *shlex.split(options.tune)])
        weights = run / "best.pth"
        defs = parse_model_config(cfg)
        cost = total_cost(defs, *checked_size(source.img_size, defs))
        rows.append([step, f"{cost.parameters:,}", f"{cost.macs / 1e9:.3f}", score_of(report), best_of(run)])
    print(ascii_table(rows))
    print(f"written: {cfg}, {weights}")


def checked(options: PruneOptions) -> PruneOptions:
    """The options with weights and data named. A wrong flag of --tune, and images without a box, are known here,
    before the first step is pruned."""
    parse_train_args("fine-tuning of --steps", shlex.split(options.tune))
    source = options.source
    weights = source.weights or default_weights(source.cfg, "checkpoints")
    source = replace(source, weights=weights, data=source.data or data_of(weights))
    _, defs, data = model_and_data(source.cfg, source.data, source.class_path, True, source.keep_classes)
    read = dataset if options.unlabelled else labelled_dataset
    for part in ("train", "valid"):
        read(options.read, data, part, checked_size(source.img_size, defs), labelled=not options.unlabelled)
    return replace(options, source=source)


def remember(path: Path, command: dict) -> None:
    """Write what the steps in this folder are made with. Raises ValueError when they were begun with something else."""
    if path.exists() and (begun := json.loads(path.read_text())) != command:
        key = next(key for key in command if begun.get(key) != command[key])
        raise ValueError(f"{path}: found steps begun with {key} {begun.get(key)!r}, expected {command[key]!r}; choose "
                         "another --out, or remove the folder and its runs to begin anew")
    write_json(path, command)


def sha256(weights: Path) -> str:
    """What tells a weights file from a later one of its name. Raises FileNotFoundError."""
    if not weights.is_file():
        raise missing(weights, "weights file")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def run_name(out: Path) -> str:
    """Name that the runs below `out` carry under logs/: its whole path, so that equal folder names are not taken for
    each other."""
    return "-".join(part for part in out.parts if part not in (out.anchor, ".", ".."))


def training_flags(options: PruneOptions) -> list:
    """What train.py has to know of a pruning's command line."""
    source, read = options.source, options.read
    flags = ["--data", source.data, "--n_cpu", source.n_cpu, "--threads", source.threads, "--cache-gb", read.cache_gb]
    for flag, value in (("--class_path", source.class_path), ("--img_size", source.img_size),
                        ("--device", source.device)):
        flags += [flag, value] if value else []
    if options.unlabelled:
        flags += ["--unlabelled", "--teacher-cfg", source.cfg, "--teacher-weights", source.weights]
    flags += ["--keep-classes", ",".join(source.keep_classes)] if source.keep_classes else []
    return flags + ["--skip-bad"] * read.skip_bad


def step_shares(options: PruneOptions) -> list[str]:
    """Flags of one step: equal ratios, so that as many of them as --steps says compound to what was asked for."""
    rule, source, steps = options.rule, options.source, options.steps
    flags = ["--layer-keep", f"{rule.layer_keep ** (1 / steps):.6f}"] if rule.layer_keep else []
    aims = len(flags)
    for name in ("target_params", "target_flops", "target_latency"):
        if (target := getattr(options.aims, name)) is None:
            continue
        ratio = target.value
        if not target.is_ratio:
            if name == "target_latency":
                raise ValueError("--steps: found a --target-latency in milliseconds, expected a ratio such as 0.5")
            _, defs, _ = model_and_data(source.cfg, source.data, source.class_path, True, source.keep_classes)
            cost = total_cost(defs, *checked_size(source.img_size, defs))
            ratio = target.value / (cost.parameters if name == "target_params" else 2 * cost.macs)
        flags += [f"--{name.replace('_', '-')}", f"{min(ratio, 1.0) ** (1 / steps):.6f}"]
    if len(flags) == aims and options.aims.max_drop is None:
        flags += ["--percent", f"{1 - (1 - rule.percent) ** (1 / steps):.6f}"]
    return flags


def without(argv: list[str], names: tuple[str, ...]) -> list[str]:
    """argv less the flags in `names`, in either spelling, and their values: `--flag value` or `--flag=value`."""
    kept, skip, names = [], False, [name.replace("_", "-") for name in names]
    for word in argv:
        flag, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif flag.replace("_", "-") in names:
            skip = not equals
        else:
            kept.append(word)
    return kept


def run(script: str, flags: list) -> None:
    """Run one of the project's scripts, its command line printed first. Raises ValueError when it fails."""
    words = [str(flag) for flag in flags]
    print(f"\n$ python {script} {shlex.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, str(ROOT / script), *words]).returncode:
        raise ValueError(f"{script} ended with status {status}, for the reason above; once that is mended, the same "
                         "command goes on from there")


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
        if state["epoch"] < state["args"]["epochs"]:  # its own arguments count, but for the machine's
            here = parse_train_args("", [str(flag) for flag in flags])
            run(
                "train.py",
                ["--resume", folder, f"--device={here.device}", "--n_cpu", here.n_cpu, "--threads", here.threads],
            )
    else:
        run("train.py", [*flags, "--name", folder.relative_to("logs")])


def score_of(report: dict) -> str:
    """mAP of a pruned net before tuning."""
    return f"{report['after']['map50']:.4f}" if report["after"] else "-"


def best_of(folder: Path) -> str:
    """Best mAP of a training run."""
    with open(folder / "metrics.csv", newline="") as file:
        scores = [float(row["map50"]) for row in csv.DictReader(file) if row["map50"]]
    return f"{max(scores):.4f}" if scores else "-"
