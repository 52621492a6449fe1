"""--steps: prune a part, fine-tune, prune again. Runs test_prune.py and train.py, and goes on where it was stopped."""

import contextlib
import io
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

from torch import nn

from utils.data.net_classes import by_name
from utils.data.prepare import data_of, dataset, labelled_dataset, model_and_data
from utils.deploy.darknet_export import export_darknet
from utils.deploy.quantisation import LosesTooMuch
from utils.loading import (
    checked_size,
    default_weights,
    load_net,
    resolve_cfg,
    select_device,
    stem,
    stored_names,
    trained_size,
)
from utils.lock import Lock
from utils.output import ascii_table, environment, markdown_table, one_step, write_json, write_text
from utils.parse_config import input_size, parse_model_config
from utils.pruning.args import INT8_FORMATS, PruneOptions
from utils.pruning.int8 import Column, Int8, int8_path, quantised, refusal, table
from utils.pruning.job import Job, OutputNames, PruneError, load, require_int8, runtime_of
from utils.pruning.plan import Ranking, remove_layers, require_something_to_lose, size_threshold
from utils.pruning.stages import (
    best_of,
    prune,
    remember,
    require_free,
    require_later,
    run_name,
    sha256,
    training_flags,
    tune,
    without,
)
from utils.shapes import LayerCost, total_cost
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
    "--layers",
    "--calibration",
)
INT8 = "--int8"  # of the whole as well; its format may be left out
SHARED_OUT = ("--percent", "--target-params", "--target-flops", "--target-latency", "--layer-keep")  # among the steps


@dataclass(frozen=True)
class Step:
    """A pruning that was fine-tuned. run: of the fine-tuning; report: what test_prune.py wrote of the pruning."""

    cfg: Path
    run: Path
    report: dict

    @property
    def weights(self) -> Path:
        """The tuned net's."""
        return self.run / "best.pth"


def run_steps(options: PruneOptions, argv: list[str], net: type[nn.Module]) -> None:
    """Prune the net of --cfg in --steps parts, each followed by `train.py` with the flags of --tune; argv: this command
    line's flags, passed on to every pruning; net: models.Darknet. Everything lies in --out (default pruned/steps-STEM)
    and logs/<its name>-step<i>. With --int8, a pair and a file in 8-bit numbers come of it."""
    options = checked(options)
    size = reachable_from(options, net)
    source = options.source
    out = options.out or Path("pruned") / f"steps-{stem(source.cfg)}"
    cfg, weights = resolve_cfg(source.cfg), Path(source.weights)
    flags = flags_of_a_step(options, argv, size)
    remember(out / "steps.json", {"cfg": str(cfg), "weights": str(weights), "weights_sha256": sha256(weights),
                                  "prune": flags, "layers": options.rule.layers, "tune": options.tune})
    rows, steps = [["Step", "Parameters", "MACs (G)", "mAP pruned", "mAP tuned"]], []
    with Lock(out / ".lock", str(out)):
        for number, step in enumerate(prune_and_tune(options, (cfg, weights), flags, out), start=1):
            steps.append(step)
            defs = parse_model_config(step.cfg)
            cost = total_cost(defs, *checked_size(source.img_size, defs))
            rows.append([number, f"{cost.parameters:,}", f"{cost.macs / 1e9:.3f}", score_of(step.report),
                         best_of(step.run)])
        print(ascii_table(rows))
        print(f"written: {step.cfg}, {step.weights}")
        if options.int8:
            quantise_steps(options, net, steps, out)


def prune_and_tune(options: PruneOptions, start: tuple[Path, Path], flags: list[str], out: Path) -> Iterator[Step]:
    """--steps times: cut the net of the step before, the first one that of `start` (cfg, weights), by `flags`, and
    fine-tune it by --tune."""
    cfg, weights = start
    for number in range(1, options.steps + 1):
        folder, run = out / f"step{number}", Path("logs") / f"{run_name(out)}-step{number}"
        blocks = ["--layers", options.rule.layers] if number == 1 and options.rule.layers else []
        if number > 1:  # what a step begins with was made by the one before
            require_later(folder.glob("*-report.json"), weights)
        report = prune(folder, ["--cfg", cfg, "--weights", weights, *blocks, *flags])
        names = OutputNames.of(cfg, folder)
        require_later([run / "last.pth"], names.checkpoint)
        tune(run, ["--cfg", names.cfg, "--weights", names.checkpoint, *training_flags(options), "--no-publish",
                   *shlex.split(options.tune)])
        step = Step(names.cfg, run, report)
        cfg, weights = step.cfg, step.weights
        yield step


def flags_of_a_step(options: PruneOptions, argv: list[str], size: LayerCost | None) -> list[str]:
    """Flags of test_prune.py for each step; those of a single one stay as they were typed, but for what is left to the
    end. size: as of `reachable_from`."""
    argv = without_int8(argv)
    if options.int8 and options.aims.max_drop is None:
        argv = without(argv, ("--max-drop",))
    if options.steps == 1:
        return without(argv, OF_THE_WHOLE)
    return [*step_shares(options, size), *without(argv, OF_THE_WHOLE + SHARED_OUT)]


def without_int8(argv: list[str]) -> list[str]:
    """argv less --int8 and its format."""
    pairs = zip(["", *argv], argv)
    return [word for before, word in pairs
            if word.partition("=")[0] != INT8 and not (before == INT8 and word in INT8_FORMATS)]


def quantise_steps(options: PruneOptions, net: type[nn.Module], steps: list[Step], out: Path) -> dict:
    """The last step whose net in 8 bits loses at most --max-drop against the net that the steps began with: its pair
    and its 8-bit file, in `out`; once for these weights. Returns what `int8.json` there says. Raises PruneError where
    there is none."""
    done, pair = out / "int8.json", out / f"{stem(options.source.cfg)}-pruned.weights"
    path = int8_path(pair, options.int8)
    order = {"int8": options.int8, "limit": options.limit, "calibration": options.calibration,
             "weights": [sha256(step.weights) for step in steps]}
    if not (path.is_file() and done.is_file() and json.loads(done.read_text())["order"] == order):
        number, made = strongest(load(options, net), steps, pair)
        rows = table(made.columns, options.limit)
        write_text(path.with_name(f"{path.stem}-table.md"), markdown_table(rows) + "\n")
        write_json(done, {"order": order, "step": number, **made.to_dict(), "environment": environment()})
        print(f"{path}: {made.made.words()}")
    found = json.loads(done.read_text())
    print(ascii_table(table([Column(**column) for column in found["columns"]], options.limit)))
    print(f"written: {pair.with_suffix('.cfg')}, {pair}, {path}, of step {found['step']} of {len(steps)}")
    return found


def strongest(job: Job, steps: list[Step], pair: Path) -> tuple[int, Int8]:
    """(number of the last step whose 8-bit net keeps the limit, that net), written with its Darknet `pair`. Raises
    PruneError where none does; the nets of all steps stay as they are."""
    require_something_to_lose(job)
    path = int8_path(pair, job.options.int8)
    for number in range(len(steps), 0, -1):
        step = steps[number - 1]
        tuned = load_net(step.cfg, step.weights, type(job.dense), job.options.source.img_size)
        model, rescale = tuned.model.eval(), tuned.content.get("rescale", 1.0)
        try:
            made = quantised(job, model, rescale, path)
        except LosesTooMuch as error:
            print(f"step {number}: {error.finding}", flush=True)
            last = error
            continue
        with one_step():
            print(f"{pair}: {export_darknet(model, rescale, pair, job.size, job.about.get('names'))}")
            made.write(path)
        return number, made
    ways = ["cut less", "fine-tune longer (--tune)", "calibrate on more images (--calibration)",
            "allow more (--max-drop)"]
    raise PruneError(f"{refusal(last, ways)}; the float32 nets are whole: "
                     f"{', '.join(str(step.weights) for step in steps)}")


def checked(options: PruneOptions) -> PruneOptions:
    """The options with weights, data and, where the weights were trained at another than the cfg's, input size named:
    one size for every stage. A wrong flag of --tune, a runtime that is not installed, and images without a box are
    known here, before the first step is pruned."""
    if options.int8 and options.no_eval:
        raise PruneError("--int8: found --no-eval beside it, expected a net that may be scored; leave one of them out")
    require_free("--tune", options.tune)
    runtime_of(options, select_device(options.source.device))
    source = options.source
    weights = source.weights or default_weights(source.cfg, "checkpoints")
    source = replace(source, weights=weights, data=source.data or data_of(weights))
    cfg, defs, data = model_and_data(source.cfg, source.data, source.class_path, True, source.keep_classes)
    size = trained_size(weights) if Path(weights).is_file() else None
    if source.img_size is None and size and size != input_size(defs) and size[0] == size[1]:
        source = replace(source, img_size=size[0])
    teacher = ["--teacher-cfg", str(cfg), "--teacher-weights", str(weights)] if options.road else []
    flags = [*teacher, *map(str, training_flags(replace(options, source=source))), *shlex.split(options.tune)]
    parse_train_args("fine-tuning of --steps", flags)
    few = by_name(data, stored_names(cfg, weights))
    if few.classes < data.classes:  # tuning is told what pruning finds by itself
        source, data = replace(source, keep_classes=few.names), few
    require_int8(options, data)
    read = dataset if options.unlabelled else labelled_dataset
    for part in ("train", "valid"):
        read(options.read, data, part, checked_size(source.img_size, defs), labelled=not options.unlabelled)
    return replace(options, source=source)


def reachable_from(options: PruneOptions, net: type[nn.Module]) -> LayerCost | None:
    """Size of the net that --target-params and --target-flops are shares of, as its weights have it; None without them.
    Raises PruneError where no cut of it meets them: said now, not in the last step, after hours of fine-tuning. net:
    models.Darknet."""
    if not options.aims.of_size:
        return None
    sizes = replace(options.aims, target_latency=None, max_drop=None)
    looked_at = replace(options, aims=sizes, rule=replace(options.rule, score="gamma"), int8=None, curve=0,
                        sensitivity=0, no_eval=True)
    with contextlib.redirect_stdout(io.StringIO()):  # the steps will say it
        job = remove_layers(load(looked_at, net))
    size_threshold(job, Ranking.of(job))
    return total_cost(job.dense.module_defs, *job.size)


def step_shares(options: PruneOptions, size: LayerCost | None) -> list[str]:
    """Flags of one step: equal ratios, so that as many of them as --steps says compound to what was asked for. size: as
    of `reachable_from`."""
    rule, steps = options.rule, options.steps
    flags = ["--layer-keep", f"{rule.layer_keep ** (1 / steps):.6f}"] if rule.layer_keep else []
    aims = len(flags)
    for name in ("target_params", "target_flops", "target_latency"):
        if (target := getattr(options.aims, name)) is None:
            continue
        ratio = target.value
        if not target.is_ratio:
            if name == "target_latency":
                raise ValueError("--steps: found a --target-latency in milliseconds, expected a ratio such as 0.5")
            ratio = target.value / (size.parameters if name == "target_params" else 2 * size.macs)
        flags += [f"--{name.replace('_', '-')}", f"{min(ratio, 1.0) ** (1 / steps):.6f}"]
    if len(flags) == aims and options.aims.max_drop is None:
        flags += ["--percent", f"{1 - (1 - rule.percent) ** (1 / steps):.6f}"]
    return flags


def score_of(report: dict) -> str:
    """mAP of a pruned net before tuning."""
    return f"{report['after']['map50']:.4f}" if report["after"] else "-"
