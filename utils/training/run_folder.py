"""A run's own folder, logs/<run>/: args.json, metrics.csv, last.pth, best.pth and its pictures."""

import argparse
import csv
import os
import time
from pathlib import Path
from typing import Callable

import torch

from utils.checkpoint import copy_file, is_torch_file, read_checkpoint, save_checkpoint
from utils.deploy.darknet_export import export_darknet
from utils.loading import stem
from utils.output import environment, write_json, write_text
from utils.parse_config import explicit, input_size, parse_model_config
from utils.replaced import keep_replaced

# what a published checkpoint holds of a run's last.pth
KEPT = ("model", "module_defs", "cfg", "run", "seen", "epoch", "rescale", "map50", "names", "size", "data")
MARK = "published.txt"  # in the run folder: the fixed names that the finished run was copied to


class RunFolder:
    """logs/<name>. Opening an existing one (a resumed run) keeps its files; metrics.csv goes on from `epoch`."""

    def __init__(self, path: str | os.PathLike, epoch: int = 0):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.metrics = self.path / "metrics.csv"
        if self.metrics.exists():
            self._rewrite([row for row in self.rows() if int(row["epoch"]) <= epoch])

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    def write_arguments(self, args: argparse.Namespace) -> None:
        """args.json: what the run is made with, and where."""
        write_json(self.path / "args.json", {**vars(args), "environment": environment()})

    def rows(self) -> list[dict]:
        """Lines of metrics.csv, one an epoch, values as text."""
        with open(self.metrics, newline="") as file:
            return list(csv.DictReader(file))

    def add_row(self, row: dict) -> None:
        """Append one epoch to metrics.csv."""
        fresh = not self.metrics.exists()
        with open(self.metrics, "a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if fresh:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})

    def write_tensorboard(self, row: dict, gammas: torch.Tensor) -> None:
        """The numbers of one epoch and the histogram of gammas (n,), for TensorBoard."""
        with require_tensorboard()(str(self.path)) as writer:
            for key, value in row.items():
                if key != "epoch" and value != "":
                    writer.add_scalar(key, value, row["epoch"])
            writer.add_histogram("bn_weights/hist", gammas, row["epoch"])

    def _rewrite(self, rows: list[dict]) -> None:
        self.metrics.unlink()
        for row in rows:
            self.add_row(row)


def require_tensorboard() -> type:
    """TensorBoard's SummaryWriter. Raises ValueError, naming the pip command, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs a package that is not installed: pip install tensorboard") from None
    return SummaryWriter


def new_run_path(stem: str, kind: str) -> Path:
    """logs/<stem>-<kind>-<month day-time>, not there yet; no character that a file system forbids."""
    base = Path("logs") / f"{stem}-{kind}-{time.strftime('%m%d-%H%M%S')}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def is_published(folder: Path) -> bool:
    """Whether a finished run's files were copied to the fixed names."""
    return (folder / MARK).is_file()


def publish(folder: Path, cfg: Path, start: str | None, best: float, build: Callable) -> None:
    """Copy a run's weights to checkpoints/ and weights/; a Darknet file in pruned/ that was its start gets its best
    written back. A start that is replaced is kept as *-init, another run's files as utils.replaced says. build:
    module_defs -> Darknet."""
    name = stem(cfg)
    checkpoint = Path("checkpoints") / f"{name}_ckpt.pth"
    targets = [Path("weights") / f"{name}_ckpt.pth", Path("weights/best.pt")]
    kept = [note for path in (checkpoint, targets[0]) for note in _keep_start(start, path)]
    last = read_checkpoint(folder / "last.pth")
    replaced = keep_replaced([checkpoint, *targets],
                             lambda old: (old.get("run"), old.get("cfg")) == (last["run"], last["cfg"]))
    slim = {key: last.get(key) for key in KEPT}
    save_checkpoint(checkpoint, slim)
    for target in targets:
        copy_file(folder / "best.pth", target)
    written = [f"{checkpoint} (last)"] + [f"{target} (best)" for target in targets] + kept
    if start and Path(start).is_file() and Path(start).parent.name == "pruned" and not is_torch_file(start):
        written += _write_back(Path(start), read_checkpoint(folder / "best.pth"), build)
    write_text(folder / MARK, "\n".join(written) + "\n")
    print("\n".join([f"{folder}: best mAP {best:.4f}; written: {', '.join(written)}", *replaced]))


def _keep_start(start: str | None, path: Path) -> list[str]:
    """Copy `path`, about to be replaced, to *-init.pth when it was the run's start. Returns what was done."""
    kept = path.with_name(f"{path.stem}-init.pth")
    if start is None or Path(start).resolve() != path.resolve():
        return []
    if not kept.exists():  # a second tuning keeps the first start
        copy_file(path, kept)
    return [f"{kept} (the start)"]


def _write_back(start: Path, content: dict, build: Callable) -> list[str]:
    """Replace the Darknet pair of `start` by a checkpoint's net when it is that of the cfg beside it, keeping the first
    start as *-init.weights; returns what was done."""
    pair = start.with_suffix(".cfg")
    if not pair.is_file():
        return []
    defs, tuned = explicit(parse_model_config(pair)), explicit(content["module_defs"])
    if defs[1:] != tuned[1:]:
        return []
    kept = start.with_name(f"{start.stem}-init.weights")
    if not kept.exists():  # a second tuning keeps the first start
        copy_file(start, kept)
    model = build(defs).eval()
    model.load_state_dict(content["model"])
    model.seen = content["seen"]
    size = content.get("size") or input_size(defs)
    words = export_darknet(model, content["rescale"], start, size, content.get("names"))
    return [f"{start} (best; the start is kept as {kept.name}; {words})"]
