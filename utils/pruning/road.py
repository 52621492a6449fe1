"""--road: from a dense checkpoint to a small, quantised file by one command. Every stage is a command that could have
been typed, is printed, and is done once: the same command goes on where it was stopped."""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

from torch import nn

from utils.cli import joined_class_names
from utils.darknet_weights import file_bytes
from utils.deploy.args import parse_export_args
from utils.deploy.formats import out_name, out_paths, require_writer
from utils.evaluation.words import map_name
from utils.loading import checked_size, resolve_cfg, stem
from utils.lock import Lock
from utils.output import ascii_table, change, markdown_table, write_json, write_text
from utils.parse_config import parse_model_config
from utils.pruning.args import PruneOptions, parse_prune_args, prune_options
from utils.pruning.iterative import (
    Step,
    checked,
    flags_of_a_step,
    prune_and_tune,
    quantise_steps,
    reachable_from,
)
from utils.pruning.job import OutputNames
from utils.pruning.stages import (
    data_flags,
    newer,
    prune,
    remember,
    require_free,
    require_later,
    run,
    run_name,
    score_flags,
    sha256,
    training_flags,
    tune,
    without,
)
from utils.shapes import total_cost
from utils.training.args import parse_train_args

OF_THE_ROAD = ("--sparse", "--quantise")  # flags with a value that no stage takes
NONE = "none"
USUAL = ("--s", "0.02", "--s-schedule", "ease")  # of a sparse training for no size in particular
# arguments that settle it
HOW_STRONG = {"s", "s_schedule", "percent", "target_flops", "target_params", "target_latency"}


@dataclass(frozen=True)
class Row:
    """A stage of the road and the net that came of it. scores: with "map50" and "map"."""

    stage: str
    parameters: int
    macs: int
    bytes: int
    scores: dict

    def cells(self) -> list[str]:
        """As a row under `HEADER`."""
        return [self.stage, f"{self.parameters:,}", f"{self.macs / 1e9:.3f}", f"{self.bytes / 1e6:.2f}",
                f"{self.scores['map50']:.4f}", f"{self.scores['map']:.4f}"]


HEADER = ["Stage", "Parameters", "MACs (G)", "File MB", "mAP", "AP@[.5:.95]"]  # mAP by its IoU: map_name


@dataclass(frozen=True)
class Road:
    """One --road. start: cfg and weights of the dense net; flags: what every pruning is asked for; out: the folder of
    all its files but the runs, which are logs/<its name>-sparse and logs/<its name>-step<i>; net: models.Darknet."""

    options: PruneOptions
    start: tuple[Path, Path]
    flags: list[str]
    out: Path
    net: type[nn.Module]

    def rows(self) -> Iterator[Row]:
        """Do what is left to do, stage by stage."""
        cfg, weights = self.start
        if self.options.source.keep_classes:
            cfg, weights = self.with_few_classes()
        yield self.row("dense", cfg, self.scored("dense", ["--cfg", cfg, "--weights", weights], weights))
        sparse, dense_cfg = self.trained_sparse(cfg, weights), cfg
        require_later((self.out / "step1").glob("*-report.json"), sparse)
        tuning = replace(self.options, tune=with_teacher(self.options.tune, cfg, weights))
        steps = []
        for i, step in enumerate(prune_and_tune(tuning, (cfg, sparse), self.flags, self.out), start=1):
            steps.append(step)
            number = f" {i}" * (self.options.steps > 1)
            if i == 1:
                yield self.row("sparse", cfg, step.report["before"])
            cfg, weights = step.cfg, step.weights
            yield self.row(f"cut{number}", cfg, step.report["after"])
            found = self.scored(f"tuned{i}", ["--cfg", cfg, "--weights", weights], weights)
            yield self.row(f"tuned{number}", cfg, found)
        if self.options.int8:
            yield self.within_budget(steps)
        else:
            yield from self.quantised(cfg, weights, stem(dense_cfg))

    def within_budget(self, steps: list[Step]) -> Row:
        """--int8: the strongest step whose 8-bit net keeps --max-drop of the dense one."""
        found = quantise_steps(self.options, self.net, steps, self.out)
        small, several = found["columns"][-1], f" of step {found['step']}" * (len(steps) > 1)
        return Row(f"{self.options.int8} int8{several}", small["parameters"], small["macs"], small["bytes"], small)

    def row(self, stage: str, cfg: Path, scores: dict) -> Row:
        """The row of a float32 net."""
        defs = parse_model_config(cfg)
        cost = total_cost(defs, *checked_size(self.options.source.img_size, defs))
        return Row(stage, cost.parameters, cost.macs, file_bytes(defs), scores)

    def with_few_classes(self) -> tuple[Path, Path]:
        """(cfg, weights) of the net whose heads were cut to --keep-classes."""
        folder, (cfg, weights), source = self.out / "heads", self.start, self.options.source
        prune(folder, ["--cfg", cfg, "--weights", weights, "--percent", 0, "--repeats", 0, "--no-eval",
                       "--keep-classes", joined_class_names(source.keep_classes), *data_flags(self.options)])
        names = OutputNames.of(cfg, folder)
        return names.cfg, names.checkpoint

    def trained_sparse(self, cfg: Path, weights: Path) -> Path:
        """Weights of the net after sparse training."""
        folder = Path("logs") / f"{run_name(self.out)}-sparse"
        tune(folder, ["--cfg", cfg, "--weights", weights, *training_flags(self.options), "--no-publish",
                      "-sr", *sparse_flags(self.options, self.flags)])
        return folder / "best.pth"

    def scored(self, name: str, net: list, weights: Path, flags: tuple = ()) -> dict:
        """What test.py finds of a net, in `name`.json; once for these weights."""
        found = self.out / f"{name}.json"
        if not newer(found, weights):
            run("test.py", [*net, *data_flags(self.options), *score_flags(self.options), *flags, "--batch_size",
                            self.options.source.batch_size, "--pr", self.out / f"{name}-pr.png", "--json", found])
        return json.loads(found.read_text())

    def quantised(self, cfg: Path, weights: Path, name: str) -> Iterator[Row]:
        """Export the tuned net by --quantise, and score its files in their runtimes."""
        if self.options.quantise == NONE:
            return
        source, typed = self.options.source, shlex.split(self.options.quantise)
        asked = parse_export_args("", ["--out", str(self.out / f"{name}-pruned"), *typed])
        files = out_paths(out_name(asked.out, cfg), asked.format, asked.precision)
        done, command = self.out / "quantise.json", {"quantise": self.options.quantise}
        if not (newer(done, weights) and json.loads(done.read_text()) == command):
            flags = ["--data", source.data, "--threads", source.threads, "--out", asked.out]
            flags += ["--class_path", source.class_path] if source.class_path else []
            run("export.py", ["--cfg", cfg, "--weights", weights, *flags, *typed])
            write_json(done, command)
        for kind, path in files.items():
            net = ["--weights", path, *(["--cfg", path.with_suffix(".cfg")] if kind == "darknet" else [])]
            found = self.scored(f"{kind}-{asked.precision}", net, done, ("--device", "cpu"))
            parts = [part for part in {path, path.with_suffix(".bin")} if part.is_file()]
            yield replace(self.row(f"{kind} {asked.precision}", cfg, found),
                          bytes=sum(part.stat().st_size for part in parts))


def run_road(options: PruneOptions, argv: list[str], net: type[nn.Module]) -> None:
    """Train the dense net of --cfg and --weights sparse, cut it in --steps, fine-tune and quantise it, and say in a
    table what each stage gave. argv: this command line's flags; net: models.Darknet. Everything lies in --out (default
    pruned/road-STEM) and logs/<its name>-*. What is done when a stage fails is in the table, too."""
    road = planned(options, argv, net)
    rows: list[Row] = []
    try:
        with Lock(road.out / ".lock", str(road.out)):
            for row in road.rows():
                rows.append(row)
    finally:
        if rows:
            report(rows, road.out, map_name(options.scoring.iou_thres))


def planned(options: PruneOptions, argv: list[str], net: type[nn.Module]) -> Road:
    """The road, its flags checked before anything runs. Raises ValueError where a stage could not be done."""
    without_scores = [flag for flag, on in (("--no-eval", options.no_eval), ("--unlabelled", options.unlabelled)) if on]
    if without_scores:
        raise ValueError(f"--road: found {' and '.join(without_scores)}, expected pictures with boxes to score every "
                         "stage on; run the stages one by one instead")
    require_free("--sparse", options.sparse)
    require_free("--quantise", options.quantise)
    parse_train_args("sparse training of --road", ["-sr", *shlex.split(options.sparse)])
    if options.int8 and "quantise" in options.typed:
        raise ValueError("--int8: found --quantise beside it, expected one of them: --int8 is the road's quantisation "
                         "under the limit of --max-drop")
    if not options.int8:
        require_quantiser(options.quantise)
    options = checked(options)
    size = reachable_from(options, net)
    source = options.source
    out = options.out or Path("pruned") / f"road-{stem(source.cfg)}"
    cfg, weights = resolve_cfg(source.cfg), Path(source.weights)
    flags = [word for word in without(flags_of_a_step(options, argv, size), OF_THE_ROAD) if word != "--road"]
    remember(out / "road.json", {"cfg": str(cfg), "weights": str(weights), "weights_sha256": sha256(weights),
                                 "prune": flags, "steps": options.steps, "layers": options.rule.layers,
                                 "sparse": options.sparse, "tune": options.tune})
    return Road(options, (cfg, weights), flags, out, net)


def sparse_flags(options: PruneOptions, flags: list[str]) -> list[str]:
    """--sparse, and how strong: for the size of the (first) cut, which `flags` of test_prune.py name, or else by a
    usual s; unless --sparse says so itself."""
    typed = shlex.split(options.sparse)
    asked = parse_train_args("", ["-sr", *typed])
    if "strategy" not in asked.typed:  # what is pulled is what can be cut
        typed += ["--strategy", options.rule.strategy]
    if HOW_STRONG & asked.typed.keys() or asked.sparsity == "l1":
        return typed
    cut = prune_options(parse_prune_args("", flags))
    return [*typed, *(cut.aims.of_sparsity(cut.latency_backend) or USUAL)]


def require_quantiser(flags: str) -> None:
    """Raise ValueError unless export.py knows these flags and has what it takes here."""
    if flags == NONE:
        return
    asked = parse_export_args("quantisation of --road", shlex.split(flags))
    try:
        for kind in out_paths(Path("net"), asked.format, asked.precision):
            require_writer(kind, asked.precision)
    except ValueError as error:
        raise ValueError(f"--quantise: {error} (--quantise none ends the road before it)") from None


def with_teacher(tune_flags: str, cfg: Path, weights: Path) -> str:
    """Flags of a fine-tuning that also learns from the dense net, unless they name a teacher."""
    with_dense = f"{shlex.join(['--teacher-cfg', str(cfg), '--teacher-weights', str(weights)])} {tune_flags}"
    own = parse_train_args("fine-tuning of --road", shlex.split(with_dense)).teacher_cfg != str(cfg)
    return tune_flags if own else with_dense


def report(rows: list[Row], out: Path, map_name: str) -> None:
    """Print the table, and write it to road.md in `out`. map_name: what its mAP is called."""
    table = [[map_name if cell == "mAP" else cell for cell in HEADER], *(row.cells() for row in rows)]
    write_text(out / "road.md", markdown_table(table) + "\n")
    first, last = rows[0], rows[-1]
    print(ascii_table(table))
    print(f"from {first.stage} to {last.stage}: parameters {change(first.parameters, last.parameters)}, MACs "
          f"{change(first.macs, last.macs)}, file {change(first.bytes, last.bytes)}, {map_name} "
          f"{last.scores['map50'] - first.scores['map50']:+.4f}")
    print(f"written: {out / 'road.md'}; everything else of the road lies in {out} and logs/{run_name(out)}-*")
