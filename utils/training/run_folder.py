"""A run's own folder, logs/<run>/: args.json, metrics.csv, last.pth, best.pth and its pictures."""

import csv
import itertools
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from utils.checkpoint import copy_file, is_torch_file, read_checkpoint, save_checkpoint
from utils.loading import stem
from utils.lock import Lock, fixed_names, of_pair
from utils.output import environment, one_step, settle, write_csv, write_json, write_text
from utils.parse_config import explicit, input_size, parse_model_config
from utils.plots import plot_training
from utils.replaced import keep_replaced
from utils.training.args import TrainOptions
from utils.training.summary import is_row

# what a published checkpoint holds of a run's last.pth
KEPT = ("model", "module_defs", "cfg", "run", "seen", "epoch", "rescale", "map50", "names", "size", "data")
MARK = "published.txt"  # in the run folder: the fixed names that the finished run was copied to


class RunFolder:
    """logs/<name>. Opening an existing one (a resumed run) keeps its files; metrics.csv goes on from `epoch`."""

    def __init__(self, path: str | os.PathLike, epoch: int = 0):
        self.path = Path(path)
        self.lock = Lock(self.path / ".lock", str(path))
        self.metrics = self.path / "metrics.csv"
        if self.metrics.exists():
            self._write_rows([row for row in self._sound_rows() if int(row["epoch"]) <= epoch])

    @classmethod
    def of_run(cls, options: TrainOptions, cfg: Path, epoch: int) -> "RunFolder":
        """The folder of a run that has `epoch` epochs behind it. Raises ValueError where another run has the name."""
        output = options.output
        if output.tensorboard:
            require_tensorboard()
        if output.resume:
            folder = cls(Path(output.resume).parent, epoch)
            if epoch < options.steps.epochs:  # perhaps more than it was begun with
                folder.write_arguments(options.given)
                (folder.path / MARK).unlink(missing_ok=True)  # what was published is no longer its last epoch
            return folder
        path = run_path(options, cfg)
        refuse_existing(path)
        folder = cls(path)
        folder.write_arguments(options.given)
        return folder

    @property
    def name(self) -> str:
        """Name of the run, RUN or GROUP/RUN."""
        return run_name(self.path)

    def write_arguments(self, given: dict) -> None:
        """args.json: what the run is made with, and where."""
        write_json(self.path / "args.json", {**given, "environment": environment()})

    def rows(self) -> list[dict]:
        """Lines of metrics.csv, one per epoch, values as text."""
        with open(self.metrics, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))

    def _sound_rows(self) -> list[dict]:
        """`rows`; none, and the file set aside, where another program has written them otherwise: they are a log, and
        no reason not to go on."""
        rows = self.rows()
        if all(map(is_row, rows)):
            return rows
        names = (self.path / f"metrics-unreadable{number or ''}.csv" for number in itertools.count())
        aside = next(name for name in names if not name.exists())
        os.replace(self.metrics, aside)
        print(f"warning: {self.metrics}: found lines that are not as train.py writes them (a spreadsheet's, or half a "
              f"line); set aside as {aside}, metrics.csv begins anew")
        return []

    def add_row(self, row: dict, curves: bool = False) -> None:
        """Add one epoch to metrics.csv; curves: draw curves.png anew as well."""
        text = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in row.items()}
        self._write_rows([*(self.rows() if self.metrics.exists() else []), text])
        if curves:
            plot_training(self.rows(), self.path / "curves.png")

    def _write_rows(self, rows: list[dict]) -> None:
        if rows:
            write_csv(self.metrics, rows)
        else:
            self.metrics.unlink(missing_ok=True)

    def save(self, content: dict, resume: dict, best: bool = False, numbered: bool = False) -> None:
        """A checkpoint `content`: last.pth, with what --resume needs; best.pth where it is the best; and epoch_N.pth
        where it is to be kept."""
        if best:  # before last.pth, which says that this epoch is done
            save_checkpoint(self.path / "best.pth", content)
        save_checkpoint(self.path / "last.pth", content | resume)
        settle()  # something has come of it
        if numbered:
            save_checkpoint(self.path / f"epoch_{content['epoch']}.pth", content)

    def write_tensorboard(self, row: dict, gammas: torch.Tensor) -> None:
        """The numbers of one epoch and the histogram of gammas (n,), for TensorBoard."""
        with require_tensorboard()(str(self.path)) as writer:
            for key, value in row.items():
                if key != "epoch" and value != "":
                    writer.add_scalar(key, value, row["epoch"])
            writer.add_histogram("bn_weights/hist", gammas, row["epoch"])


def require_tensorboard() -> type:
    """TensorBoard's SummaryWriter. Raises ValueError, naming the pip command, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs a package that is not installed: pip install tensorboard") from None
    return SummaryWriter


def run_name(folder: Path) -> str:
    """RUN or GROUP/RUN of logs/RUN or logs/GROUP/RUN; of a folder elsewhere its last part."""
    logs, path = Path("logs").resolve(), folder.resolve()
    return path.relative_to(logs).as_posix() if logs in path.parents else path.name


def run_path(options: TrainOptions, cfg: str | os.PathLike) -> Path:
    """The folder of a new run of `cfg`: that of --name, or one not there yet."""
    name, kind = options.output.name, "sr" if options.sparsity.sr else "train"
    return Path("logs") / name if name else new_run_path(stem(cfg), kind)


def new_run_path(stem: str, kind: str) -> Path:
    """logs/<stem>-<kind>-<month day-time>, not there yet; no character that a file system forbids."""
    base = Path("logs") / f"{stem}-{kind}-{time.strftime('%m%d-%H%M%S')}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def refuse_existing(path: Path) -> None:
    """Raise ValueError when there is a run in the folder `path`, saying how to go on with it."""
    if not (path / "last.pth").exists():
        return
    state = read_checkpoint(path / "last.pth")
    longer = f" --epochs {2 * state['epoch']}" if state["epoch"] >= state.get("args", {}).get("epochs", 0) else ""
    raise ValueError(f"{path}: there is a run of this name; take another --name, or go on with it: "
                     f"--resume {path}{longer}")


def is_published(folder: Path) -> bool:
    """Whether a finished run's files were copied to the fixed names."""
    return (folder / MARK).is_file()


def publish(folder: Path, cfg: Path, start: str | None, net: type[nn.Module], export: Callable[..., str]) -> str:
    """Copy a run's weights to checkpoints/ and weights/; a Darknet file in pruned/ that was its start gets its best
    written back. A start that is replaced is kept as *-init, another run's files as utils.replaced says. Returns
    what was written. net: Darknet; export: utils.deploy.darknet_export.export_darknet."""
    name, pair = stem(cfg), _pair(start)
    checkpoint = Path("checkpoints") / f"{name}_ckpt.pth"
    targets = [Path("weights") / f"{name}_ckpt.pth", Path("weights/best.pt")]
    last = read_checkpoint(folder / "last.pth")
    own = lambda old: (old.get("run"), old.get("cfg")) == (last["run"], last["cfg"])
    own_pair = of_pair(pair, waits=True) if pair else nullcontext()
    # what is replaced is kept in the same step, and the mark says that all of it is done
    with own_pair, fixed_names(), one_step():
        kept = [note for path in (checkpoint, targets[0]) for note in _keep_start(start, path)]
        replaced = keep_replaced([checkpoint, *targets], own)
        save_checkpoint(checkpoint, {key: last.get(key) for key in KEPT})
        for target in targets:
            copy_file(folder / "best.pth", target)
        written = [f"{checkpoint} (last)"] + [f"{target} (best)" for target in targets] + kept
        if pair:
            written += _write_back(Path(start), read_checkpoint(folder / "best.pth"), net, export)
        write_text(folder / MARK, "\n".join(written) + "\n")
    return "\n".join([f"{folder}: best mAP {last['best']:.4f}; written: {', '.join(written)}", *replaced])


def _keep_start(start: str | None, path: Path) -> list[str]:
    """Copy `path`, about to be replaced, to *-init.pth when it was the run's start. Returns what was done."""
    kept = path.with_name(f"{path.stem}-init.pth")
    if start is None or Path(start).resolve() != path.resolve():
        return []
    if not kept.exists():  # a second tuning keeps the first start
        copy_file(path, kept)
    return [f"{kept} (the start)"]


def _pair(start: str | None) -> Path | None:
    """The cfg of the Darknet pair in pruned/ that a run began with; None where it began with something else."""
    path = Path(start or "")
    pair = path.with_suffix(".cfg") if path.is_file() and path.parent.name == "pruned" else None
    return pair if pair and pair.is_file() and not is_torch_file(path) else None


def _write_back(start: Path, content: dict, net: type[nn.Module], export: Callable[..., str]) -> list[str]:
    """Replace the Darknet pair of `start` by a checkpoint's net when it is that of the cfg beside it, keeping the first
    start as *-init.weights; returns what was done."""
    defs, tuned = explicit(parse_model_config(start.with_suffix(".cfg"))), explicit(content["module_defs"])
    if defs[1:] != tuned[1:]:
        return []
    kept = start.with_name(f"{start.stem}-init.weights")
    if not kept.exists():  # a second tuning keeps the first start
        copy_file(start, kept)
    model = net(defs).eval()
    model.load_state_dict(content["model"])
    model.seen = content["seen"]
    size = content.get("size") or input_size(defs)
    words = export(model, content["rescale"], start, size, content.get("names"))
    return [f"{start} (best; the start is kept as {kept.name}; {words})"]
