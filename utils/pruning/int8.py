"""--int8: the pruned net in 8-bit numbers, under the one limit of lost mAP that --max-drop counts from the net as
loaded to this file."""

import copy
import importlib.util
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Sequence

import torch
from torch import nn

from utils.data.prepare import dataset
from utils.deploy.darknet_export import write_pair
from utils.deploy.equalisation import equalised
from utils.deploy.formats import FORMATS, Order, float32_file
from utils.deploy.onnx_runtimes import BF16, Predict
from utils.deploy.quantisation import Limits, LosesTooMuch, Pictures, Quantised, alternate_seconds, quantise
from utils.deploy.runtimes import RUNTIMES, Exported, open_exported
from utils.evaluation.metrics import EvalResult
from utils.evaluation.words import map_name
from utils.output import one_step, replacing
from utils.pruning.args import PruneOptions
from utils.pruning.job import Job
from utils.shapes import total_cost


@dataclass(frozen=True)
class Column:
    """A net in the table. runtime, seconds: the fastest way to run it on one image; seconds None: not timed."""

    name: str
    map50: float
    map: float
    parameters: int
    macs: int
    bytes: int
    runtime: str
    seconds: float | None
    iou: float = 0.5  # of map50

    @classmethod
    def of(cls, name: str, score: EvalResult, net: nn.Module, file: Exported, fastest: tuple[str, float | None]):
        """Of a Darknet, as it is or as `file`."""
        cost = total_cost(net.module_defs, *file.size)
        return cls(name, score.map50, score.map, cost.parameters, cost.macs, file.bytes(), *fastest,
                   score.options.iou_thres)


@dataclass(frozen=True)
class Int8:
    """A net in 8-bit numbers that kept the limit, not written yet. files: suffix -> content, the data before what
    describes it; columns: the net as loaded, the pruned one, and the pruned one in 8 bits."""

    files: dict[str, bytes]
    made: Quantised
    columns: tuple[Column, ...]

    def write(self, path: Path) -> None:
        """Put the files to `path` and beside it, in one step."""
        with one_step():
            for suffix, content in self.files.items():
                with replacing(path.with_suffix(suffix)) as temporary:
                    temporary.write_bytes(content)

    def to_dict(self) -> dict:
        """Ready for JSON."""
        return {"columns": [asdict(column) for column in self.columns], "in_float": list(self.made.in_float),
                "calibrated": self.made.calibrated}


def table(columns: Sequence[Column], limit: float | None) -> list[list[str]]:
    """The three nets side by side; limit: of the mAP that is lost."""
    first, last = columns[0], columns[-1]
    rows = [["", *(column.name for column in columns)],
            [map_name(first.iou), *(f"{column.map50:.4f}" for column in columns)],
            [f"  lost{'' if limit is None else f', of {limit:g}'}", "",
             *(f"{first.map50 - column.map50:.4f}" for column in columns[1:])],
            ["AP@[.5:.95]", *(f"{column.map:.4f}" for column in columns)],
            ["parameters", *(f"{column.parameters:,}" for column in columns)],
            ["bytes of the file", *(f"{column.bytes:,}" for column in columns)],
            ["MACs (G)", *(f"{column.macs / 1e9:.3f}" for column in columns)]]
    if last.seconds is not None:
        rows.append(["ms per image, fastest runtime",
                     *(f"{column.seconds * 1e3:.2f} ({column.runtime})" for column in columns)])
    return rows


def int8_path(weights: Path, form: str) -> Path:
    """Where the file of format `form` lies beside a pair's .weights."""
    return weights.with_name(f"{weights.stem}-int8{FORMATS[form].suffix}")


def limits_of(options: PruneOptions, before: EvalResult) -> Limits:
    """What the file may lose: --max-drop from the score `before` pruning; without it, what export.py lets 8 bits lose.
    A slower file is written as well: it may be for another processor."""
    if options.limit is None:
        return Limits(allow_slower=True)
    return Limits(options.limit, allow_slower=True, dense=before)


def quantised(job: Job, model: nn.Module, rescale: float, path: Path) -> Int8:
    """The pruned Darknet `model`, whose gammas carry `rescale`, in 8 bits, as it is read from its pair. path: what the
    file will be called. Raises LosesTooMuch where the limit is broken, ExportError; nothing is written."""
    options, order = job.options, Order(tuple(job.about.get("names") or job.data.names), job.size, "int8", None)
    form, suffix = options.int8, FORMATS[options.int8].suffix
    train = dataset(options.read, job.data, "train", job.size, labelled=False)
    pictures = Pictures(train, job.loader.dataset, options.calibration, options.scoring)
    with tempfile.TemporaryDirectory() as folder:
        dense, slim = plain_copy(job.dense), as_read(model, rescale, job.size, Path(folder))
        whole = float32_file(dense, form, Path(folder) / f"dense{suffix}", order, f"{path}, the net as loaded")
        even = equalised(slim, pictures.sample(slim.channels))
        reference = float32_file(slim, form, Path(folder) / f"float32{suffix}", order, str(path), even)
        made = quantise(even, reference, Path(folder) / path.name, pictures, limits_of(options, job.before), path)
        small = open_exported(Path(folder) / path.name, size=job.size)
        ways = [ways_to_run(whole, dense), ways_to_run(reference, slim), ways_to_run(small)]
        fastest = fastest_of(ways, pictures.one_image(small), options.repeats)
        nets = zip(("dense float32", "pruned float32", "pruned int8"), (job.before, *made.scores), (dense, slim, slim),
                   (whole, reference, small), fastest)
        files = {file.suffix: file.read_bytes() for file in reversed(small.files())}
        return Int8(files, made, tuple(Column.of(*net) for net in nets))


def plain_copy(model: nn.Module) -> nn.Module:
    """In float32, on the CPU, in eval mode."""
    return copy.deepcopy(model).cpu().float().eval()


def as_read(model: nn.Module, rescale: float, size: tuple[int, int], folder: Path) -> nn.Module:
    """The net that reading the Darknet pair of `model` gives: the very one that --backend auto will meet."""
    return write_pair(plain_copy(model), rescale, folder / "net.cfg", folder / "net.weights", size)


def ways_to_run(file: Exported, net: nn.Module | None = None) -> list[tuple[str, Predict]]:
    """(runtime, function) of every runtime that is installed for a file, and of PyTorch for a float32 net."""
    installed = [name for name in RUNTIMES[file.path.suffix] if name != BF16 and importlib.util.find_spec(name)]
    ways = [(name, open_exported(file.path, name, file.size).predict) for name in installed]
    return ways + ([("torch", net.optimize())] if net else [])


@torch.inference_mode()
def fastest_of(nets: list[list[tuple[str, Predict]]], image: torch.Tensor,
               runs: int) -> list[tuple[str, float | None]]:
    """For each net, given as the ways to run it, the fastest one and its seconds on `image`. Each way is measured in
    turn with the first net's first one alone (among many in turn all would run from cold caches), and counts by its
    share of that one's median seconds (the machine's pace drifts). Without runs: the first way, not timed."""
    if not runs:
        return [(ways[0][0], None) for ways in nets]
    first = nets[0][0][1]
    pairs = [[(name, alternate_seconds([first, run], image, runs)) for name, run in ways] for ways in nets]
    whole = statistics.median(pair[0] for ways in pairs for _, pair in ways)
    return [min(((name, whole * own / base) for name, (base, own) in ways), key=lambda way: way[1]) for ways in pairs]


def refusal(error: LosesTooMuch, ways: Sequence[str]) -> str:
    """Why there is no 8-bit file, and what would help."""
    return f"--int8: {error.finding}; {', or '.join(ways)}"
