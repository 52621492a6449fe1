"""A run's own folder, logs/<run>/: args.json, metrics.csv, last.pth, best.pth and its pictures."""

import argparse
import csv
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from utils.writing import write_json


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


def environment() -> dict:
    """What a number was measured on: versions, processor, threads, git commit."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                                cwd=Path(__file__).parent, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"torch": torch.__version__, "python": platform.python_version(), "processor": _processor(), "gpu": gpu,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "commit": commit}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
