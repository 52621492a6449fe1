"""What --steps and --road are made of: the project's own commands, printed and run in turn, each of them once."""

import csv
import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Iterable

from utils.checkpoint import read_checkpoint
from utils.cli import joined_class_names
from utils.origin import missing
from utils.output import write_json
from utils.pruning.args import PruneOptions
from utils.training.args import parse_train_args

ROOT = Path(__file__).resolve().parent.parent.parent
LONGEST = 150  # characters of a run's name, to which -sparse or -step12 is added
# what a stage is given, in every spelling
GIVEN = ("--cfg", "--model_def", "--base", "--weights", "--weights_path", "-pre", "--pretrained_weights", "--name",
         "--resume")


def remember(path: Path, command: dict) -> None:
    """Write what the stages in this folder are made with. Raises ValueError when they were begun with something
    else."""
    if path.exists() and (begun := json.loads(path.read_text())) != command:
        key = next(key for key in command if begun.get(key) != command[key])
        raise ValueError(f"{path}: found {path.stem} begun with {key} {begun.get(key)!r}, expected {command[key]!r}; "
                         "choose another --out, or remove the folder and its runs to begin anew")
    write_json(path, command)


def sha256(weights: Path) -> str:
    """What tells a weights file from a later one of its name. Raises FileNotFoundError."""
    if not weights.is_file():
        raise missing(weights, "weights file")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def run_name(out: Path) -> str:
    """Name that the runs below `out` carry under logs/: its whole path, so that equal folder names are not taken for
    each other. As --name takes it (utils.cli.run_name): a path that is too long is told apart by its hash."""
    path = "-".join(part for part in out.parts if part not in (out.anchor, ".", "..")) or out.resolve().name or "root"
    name = re.sub(r"[\\:*?\"<>|\x00-\x1f]", "-", path).lstrip(".")
    if len(name) <= LONGEST:
        return name
    return f"{name[-LONGEST:].lstrip('.')}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


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


def require_free(flag: str, value: str) -> None:
    """Raise ValueError where the `value` of --tune, --sparse or --quantise names what the stage is given: the last of
    two flags counts, so another net would be made."""
    words = shlex.split(value)
    if taken := [word for word in words if without([word], GIVEN) == []]:
        raise ValueError(f"{flag}: found {' and '.join(taken)} in it, expected none of {', '.join(GIVEN)}: every stage "
                         "takes the net of the one before, and its run is named by --out")


def data_flags(options: PruneOptions) -> list:
    """--data and how pictures are read, of a pruning's command line, for train.py and test.py."""
    source, read = options.source, options.read
    flags = ["--data", source.data, "--n_cpu", source.n_cpu, "--threads", source.threads, "--cache-gb", read.cache_gb]
    for flag, value in (("--class_path", source.class_path), ("--img_size", source.img_size),
                        ("--device", source.device)):
        flags += [flag, value] if value else []
    return flags + ["--skip-bad"] * read.skip_bad


def score_flags(options: PruneOptions) -> list:
    """How nets are scored, for train.py and test.py: one way on the whole road."""
    scoring = options.scoring
    return ["--conf_thres", scoring.conf_thres, "--nms_thres", scoring.nms_thres, "--iou_thres", scoring.iou_thres,
            "--scorer", scoring.scorer]


def training_flags(options: PruneOptions) -> list:
    """What train.py has to know of a pruning's command line."""
    source, flags = options.source, [*data_flags(options), *score_flags(options)]
    if options.unlabelled:
        flags += ["--unlabelled", "--teacher-cfg", source.cfg, "--teacher-weights", source.weights]
    return flags + (["--keep-classes", joined_class_names(source.keep_classes)] if source.keep_classes else [])


def run(script: str, flags: list) -> None:
    """Run one of the project's scripts, its command line printed first. Raises ValueError when it fails."""
    words = [str(flag) for flag in flags]
    print(f"\n$ python {script} {shlex.join(words)}", flush=True)
    with subprocess.Popen([sys.executable, str(ROOT / script), *words]) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # a terminal has told the script as well, `kill` has not; it saves before it ends
            process.terminate()
            raise
    if status:
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


def newer(product: Path, source: Path) -> bool:
    """Whether `product` is there and was made after `source`."""
    return product.exists() and product.stat().st_mtime >= source.stat().st_mtime


def require_later(products: Iterable[Path], source: Path) -> None:
    """Raise ValueError where one of `products`, of those that are there, is older than the file it was made of."""
    for product in products:
        if product.exists() and not newer(product, source):
            raise ValueError(f"{product}: found it older than {source}, which it was made of, expected it to be later; "
                             f"remove {product.parent}, and the same command makes it anew")


def best_of(folder: Path) -> str:
    """Best mAP of a training run."""
    with open(folder / "metrics.csv", newline="") as file:
        scores = [float(row["map50"]) for row in csv.DictReader(file) if row["map50"]]
    return f"{max(scores):.4f}" if scores else "-"
