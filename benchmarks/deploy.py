"""--only deploy: every file that export.py writes of one net x every runtime that loads it: bytes, score, time,
start-up and memory. What cannot run is a row that says why."""

import argparse
import copy
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from benchmarks import materials, run_deploy
from benchmarks.contest import Contestant, Item, Outcome
from benchmarks.output import duration, megabytes, over_imports, shorten
from models import Darknet
from utils.checkpoint import is_exported
from utils.class_names import numbered_names
from utils.data.data_config import parse_data_config
from utils.data.datasets import ListDataset, evaluation_loader
from utils.deploy.formats import (
    DARKNET, FORMATS, Order, describe, export_format, export_int8, out_paths, require_writer
)
from utils.deploy.processor import ABILITIES, instructions
from utils.deploy.quantisation import Limits, Pictures, quantise_unscored
from utils.deploy.runtimes import RUNTIMES, open_exported
from utils.deploy.score_note import BFLOAT16, FLOAT32, ScoreNote
from utils.evaluation.evaluate import evaluate
from utils.loading import load_net, resolve_cfg, select_device
from utils.parse_config import write_model_config

PAIR_RUNTIMES = ("torch", run_deploy.PLAIN, run_deploy.OPENCV, "auto")
CALIBRATION = 192  # training images, as export.py takes by default
RANDOM_IMAGES = 8  # that calibrate a net without data, for its time alone
HEADER = ["file", "run by", "bytes", "AP@.5", "AP@[.5:.95]", "median", "quartiles", "n", "time / first", "start-up",
          "peak MB", "over imports", "note"]


@dataclass(frozen=True)
class Subject:
    """What is compared. Stands in for a model where images are made for one."""

    model: nn.Module | None  # None: files that were made before are all there is
    names: tuple[str, ...]
    size: tuple[int, int]  # (width, height) in pixels
    channels: int
    words: str
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True)
class File:
    """An exported file, or why there is none."""

    name: str
    path: Path | None = None
    cfg: Path | None = None  # of a Darknet pair
    why: str = ""

    def bytes(self) -> int | None:
        """Of all that a device needs."""
        if self.path is None:
            return None
        weights = [self.path.with_suffix(".bin")] * (self.path.suffix in (".xml", ".param"))
        return sum(part.stat().st_size for part in (self.path, self.cfg, *weights) if part)

    def runtimes(self) -> tuple[str, ...]:
        """That load such a file; the one of its format where there is none."""
        if self.cfg:
            return PAIR_RUNTIMES
        if self.path is None:
            return (FORMATS[self.name.split()[0]].runtime,)
        return RUNTIMES[self.path.suffix.lower()] + (run_deploy.OPENCV,) * (self.path.suffix == ".onnx")


class Way(NamedTuple):
    """A file with a runtime."""

    file: File
    runtime: str

    @property
    def name(self) -> str:
        """Of the contestant."""
        return f"{self.file.name}, {self.runtime}"

    def options(self, subject: Subject) -> dict:
        """What run_deploy.opened takes."""
        cfg = {"cfg": str(self.file.cfg)} if self.file.cfg else {}
        return {"path": str(self.file.path), "runtime": self.runtime, "size": subject.size, **cfg}

    def contestant(self, subject: Subject) -> Contestant:
        """To be timed."""
        options = self.options(subject) | {"channels": subject.channels}
        return Contestant(self.name, "run_deploy.py", "run", options, why=self.file.why)


def deploy(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Export (or take files that were made before) -> score each file by each runtime -> contestants."""
    select_device("cpu", args.threads)
    made = made_before(args.files)
    subject = subject_of(args)
    pictures = pictures_of(args, subject)
    files = [*(exported(args, subject, pictures, args.out / "files") if subject.model else ()), *made]
    ways = sorted((Way(file, runtime) for file in files for runtime in file.runtimes()), key=lambda w: bool(w.file.why))
    scores = scores_of(ways, subject, pictures and pictures.valid)
    contestants = [way.contestant(subject) for way in ways] + palms(args)
    known = {way.name: {"bytes": way.file.bytes()} | scores.get(way.name, {}) for way in ways}
    width, height = subject.size
    scored = f", scored on {len(pictures.valid)} images of {args.data}" if pictures else ", not scored: no --data"
    title = f"Deployment of {subject.words}: {width}x{height}, batch 1, decoding included, without suppression{scored}"
    return [Item("deploy", title, contestants, repeats=30, warmup=3, remarks=remarks, table=table_of(known))]


def subject_of(args: argparse.Namespace) -> Subject:
    """The net of --cfg and --weights; the files of --files alone; else the net with random weights."""
    if args.files and not args.weights:
        file = open_exported(args.files[0], size=args.size and (args.size, args.size))
        return Subject(None, file.metadata.names, file.size, file.channels, "files made before")
    if not args.weights:
        model = materials.random_net(materials.sized_defs(args.cfg, args.size))
        for head_i in model.head_layers():  # near its start, 1 % objectness: a random net's boxes compare nothing
            model.module_list[head_i - 1][0].weight.data *= 0.01
        size = tuple(int(model.module_defs[0][side]) for side in ("width", "height"))
        words = f"{Path(args.cfg).name}, random weights"
        return Subject(model, numbered_names(model.heads()[0].classes), size, model.channels, words)
    cfg = resolve_cfg(args.cfg)
    net = load_net(cfg, args.weights, Darknet, args.size)
    names = net.names or numbered_names(net.model.heads()[0].classes)
    return Subject(net.model.eval(), tuple(names), net.size, net.model.channels, f"{cfg.name}, {args.weights}")


def pictures_of(args: argparse.Namespace, subject: Subject) -> Pictures | None:
    """Of --data: training images that calibrate, and --images validation images, evenly spaced, that score."""
    if not args.data:
        return None
    data = parse_data_config(args.data)
    train, valid = (ListDataset(data.lists(part), subject.size, data.classes, cache_gb=0.5)
                    for part in ("train", "valid"))
    valid.require_boxes()
    count = min(args.images or len(valid), len(valid))
    return Pictures(train, Subset(valid, [i * len(valid) // count for i in range(count)]), CALIBRATION)


# ---- files

def made_before(paths: list[Path]) -> list[File]:
    """Those of --files, by their names. Raises FileNotFoundError, ValueError on what is not an exported file."""
    if wrong := [path for path in paths if not is_exported(path)]:
        raise ValueError(f"--files {wrong[0]}: found a file that no runtime here loads, expected a name that ends in "
                         f"{', '.join(RUNTIMES)}")
    return [File(file.path.name, file.path.resolve()) for file in map(open_exported, paths)]


def exported(args: argparse.Namespace, subject: Subject, pictures: Pictures | None, folder: Path) -> list[File]:
    """A file of each of --formats in each of --precisions, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [export(subject, name, precision, folder / Path(args.cfg).stem, pictures)
            for name in args.formats for precision in args.precisions]


def export(subject: Subject, name: str, precision: str, out: Path, pictures: Pictures | None) -> File:
    """The net as format `name`, checked and, where there are pictures, scored as export.py does it; or why not."""
    label = f"{name} {precision}"
    order = Order(subject.names, subject.size, precision, None)
    try:
        [path] = out_paths(out, [name], precision).values()
        require_writer(name, precision)
        if (name, precision) == ("torchscript", "float16"):
            return File(label, why="for GPUs: a processor takes fifty times as long")
        if name == DARKNET:
            return File(label, *darknet_pair(subject, path))
        if precision != "int8":
            export_format(subject.model, name, path, order)
        elif pictures:
            export_int8(subject.model, name, path, order, pictures, Limits())
        else:
            export_unscored(subject, name, path, order)
    except ValueError as error:
        return File(label, why=" ".join(str(error).replace(f"{out.parent}/", "").split()))
    return File(label, path)


def darknet_pair(subject: Subject, path: Path) -> tuple[Path, Path]:
    """Weights and cfg as a Darknet pair of the size that is compared."""
    defs = [section.copy() for section in subject.model.module_defs]
    defs[0].update(width=str(subject.size[0]), height=str(subject.size[1]))
    write_model_config(path.with_suffix(".cfg"), defs)
    subject.model.save_darknet_weights(path)
    return path, path.with_suffix(".cfg")


def export_unscored(subject: Subject, name: str, path: Path, order: Order) -> None:
    """An 8-bit file calibrated on random images, whose time alone means something."""
    model = copy.deepcopy(subject.model).eval()
    reference = path.with_name(f"{path.stem}-reference{path.suffix}")
    FORMATS[name].write(model, reference, replace(describe(model, name, order), precision="float32"))
    generator = torch.Generator().manual_seed(0)
    shape = (1, subject.channels, *reversed(subject.size))
    quantise_unscored(open_exported(reference), path, [torch.rand(shape, generator=generator)
                                                       for _ in range(RANDOM_IMAGES)])


# ---- scores

def scores_of(ways: list[Way], subject: Subject, images: Dataset | None) -> dict[str, dict]:
    """Name of a way -> its AP@.5 and AP@[.5:.95]; none of a way that cannot run, which says so where it is timed. A
    pair is scored last, when it is known what bfloat16 costs."""
    found: dict[str, dict] = {}
    for way in sorted(ways, key=lambda way: way.runtime == "auto") if images else ():
        if way.file.why:
            continue
        if way.runtime == "auto":
            note_scores(way.file, subject, found)
        try:
            predict = run_deploy.opened(**way.options(subject))[1]
            result = evaluate(subject, evaluation_loader(images, 8, 0), subject.names, quiet=True, predict=predict)
        except Exception as error:  # whatever a runtime raises
            print(f"{way.name}: not scored: {shorten(str(error), 200)}")
            continue
        found[way.name] = {"ap50": result.map50, "ap": result.map}
    return found


def note_scores(pair: File, subject: Subject, found: dict[str, dict]) -> None:
    """Beside a Darknet pair, as test.py does it: what its float32 file scored by OpenVINO, in float32 and bfloat16."""
    for precision, runtime in ((FLOAT32, "openvino"), (BFLOAT16, "openvino-bf16")):
        if score := found.get(f"openvino float32, {runtime}"):
            ScoreNote.of(pair.path).add(subject.model, precision, (score["ap50"], score["ap"]), {"data": "the same"})


# ---- MediaPipe

def palms(args: argparse.Namespace) -> list[Contestant]:
    """MediaPipe's palm detectors, where --palm names them."""
    if not args.palm:
        return []
    why = "" if importlib.util.find_spec("ai_edge_litert") else "not installed: pip install ai-edge-litert"
    options = {"path": str(args.palm.resolve()), "threads": args.threads or torch.get_num_threads()}
    return [Contestant(f"MediaPipe {Path(name).stem}, {run_deploy.LITERT}", "run_deploy.py", "palm",
                       options | {"model": name}, why=why) for name in run_deploy.palm_models(args.palm)]


# ---- the table

def remarks(outcomes: list[Outcome]) -> list[str]:
    """What the processor can do, and how to take MediaPipe's detector in."""
    able = [words for words, flags in ABILITIES.items() if instructions(flags)]
    lines = [f"this processor has {', '.join(able) or 'none of ' + ', '.join(ABILITIES)}",
             "start-up: from the file to the first result, import of the runtime included; over imports: peak memory "
             "less that of Python with PyTorch, which only this benchmark needs"]
    if not any(outcome.contestant.function == "palm" for outcome in outcomes):
        lines.append("MediaPipe's palm detector (Apache-2.0) beside these: pip install ai-edge-litert; npm pack "
                     "@mediapipe/hands; tar xf mediapipe-hands-*.tgz; then --palm package")
    return lines


def row_of(row: dict, known: dict) -> list[str]:
    """Of a contestant's summary and what is known of its file."""
    facts = known | row["facts"]
    file, _, runtime = row["name"].rpartition(", ")
    times = ["-"] * 4
    if row["n"]:
        times = [duration(row["median_s"]), f"{duration(row['low_s'])} - {duration(row['high_s'])}", str(row["n"]),
                 f"{row['ratio']:.2f}" if "ratio" in row else "-"]
    return [file, facts.get("run_by", runtime), f"{facts['bytes']:,}" if facts.get("bytes") else "-",
            *(f"{facts[key]:.4f}" if key in facts else "-" for key in ("ap50", "ap")), *times,
            duration(facts["start_s"]) if "start_s" in facts else "-", megabytes(row["peak_mb"]),
            megabytes(over_imports(row)), shorten(row["error"]) or facts.get("note", "")]


def table_of(known: dict[str, dict]) -> Callable[[dict], list[list[str]]]:
    """A function that makes the rows of the item's summary; known: contestant -> facts about its file."""
    def table(summary: dict) -> list[list[str]]:
        return [HEADER] + [row_of(row, known.get(row["name"], {})) for row in summary["contestants"]]
    return table
