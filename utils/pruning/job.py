"""What test_prune.py prunes, and the means to score and to compare nets made of it."""

import itertools
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Iterable

import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.checkpoint import load_weights
from utils.data.data_config import DataConfig, parse_data_config
from utils.data.datasets import DataError, ListDataset, TrainSampler, evaluation_loader, training_loader
from utils.data.keep_classes import kept_net
from utils.data.net_classes import by_name, data_for_net, given_names, require_classes
from utils.data.prepare import data_of, dataset, defs_to_prune, labelled_dataset
from utils.deploy.formats import FORMATS
from utils.deploy.net_time import Stopwatch, named_runtime
from utils.deploy.packages import require_packages
from utils.evaluation.evaluate import evaluate
from utils.evaluation.metrics import EvalResult
from utils.evaluation.own_labels import SCORE, label_by
from utils.loading import (
    checked_size,
    default_weights,
    names_of,
    picture_defs,
    pruned_name,
    resolve_cfg,
    select_device,
    stem,
    stored_names,
)
from utils.lock import Lock, of_pair
from utils.parse_config import class_count, input_size
from utils.pruning.args import PruneOptions
from utils.pruning.blocks import Block
from utils.pruning.channel_graph import ChannelGraph, channel_graph
from utils.pruning.pace import Pace
from utils.pruning.selection import Cut
from utils.pruning.surgery import Surgery, compact_net, staying_groups, vectors_of


class PruneError(ValueError):
    """The compact net is not what it should be, or cannot be what was asked for; nothing was written."""


@dataclass(frozen=True)
class OutputNames:
    """The files of one pruning. cfg, checkpoint and weights are read back by this program, the two of Darknet by every
    other."""

    cfg: Path
    checkpoint: Path
    weights: Path
    darknet_cfg: Path
    darknet_weights: Path

    def starts(self) -> list[Path]:
        """Where tunings of this pruning keep what they began with (utils.training.run_folder)."""
        tuned = (self.checkpoint, self.weights, self.darknet_weights)
        return [path.with_name(f"{path.stem}-init{path.suffix}") for path in tuned]

    @classmethod
    def of(cls, cfg: Path, out: Path | None) -> "OutputNames":
        """Fixed names for the n-th pruning of `cfg`: prune_NAME, prune2_NAME, ...; below `out` when given."""
        name, times = pruned_name(cfg)
        number = str(times + 1) if times else ""
        folder = {kind: out or Path(kind) for kind in ("config", "weights", "pruned")}
        pruned = folder["config"] / f"prune{number}_{name}.cfg"
        deployed = folder["pruned"] / f"{stem(f'{name}.cfg')}-pruned{number}.cfg"
        checkpoint, weights = Path(default_weights(pruned, "checkpoints")), Path(default_weights(pruned)).name
        return cls(pruned, (out or Path()) / checkpoint, folder["weights"] / weights,
                   deployed, deployed.with_suffix(".weights"))


@dataclass(frozen=True)
class Job:
    """What is pruned, and the means to score it. dense: the net as loaded; model: the same less the residual blocks
    that were removed, whose channels are cut; loader: validation images, None with --no-eval; watch: times nets beside
    the dense one; about: "names" of the classes and "data", for the files that are written; probes: mAP of the cuts
    that a search scored, by the groups that they keep; pace: with --target-latency, what was measured."""

    options: PruneOptions
    cfg: Path
    weights: Path
    dense: nn.Module
    model: nn.Module
    graph: ChannelGraph
    size: tuple[int, int]  # (width, height) in pixels
    data: DataConfig
    loader: DataLoader | None
    rescale: float  # the factor that the gammas carry (utils.batch_norm)
    watch: Stopwatch
    blocks: tuple[Block, ...] = ()  # residual blocks that were removed
    about: dict = field(default_factory=dict)
    probes: dict[bytes, float] = field(default_factory=dict)
    training: dict[bool, ListDataset] = field(default_factory=dict)  # training images, by whether they need boxes
    pace: Pace | None = None

    @property
    def names(self) -> OutputNames:
        """The files that this pruning writes."""
        return OutputNames.of(self.cfg, self.options.out)

    @cached_property
    def before(self) -> EvalResult | None:
        """Score of the net as loaded, computed once."""
        return eval_model(self, self.dense, "dense")

    def locked(self) -> Lock:
        """Keeps another pruning of the same names out. Raises LockError where one is at work."""
        return of_pair(self.names.darknet_cfg)

    def train_batches(self, count: int, labelled: bool = False) -> Iterable:
        """The first `count` batches of training images, not augmented, the same each time. labelled: of images with
        boxes, or an error."""
        if not count:
            return []
        require_classes(class_count(self.dense.module_defs), self.weights, self.data)
        by_itself = labelled and self.options.unlabelled
        if labelled not in self.training:  # a search asks again and again
            read = labelled_dataset if labelled and not by_itself else dataset
            self.training[labelled] = read(self.options.read, self.data, "train", self.size,
                                           labelled=not self.options.unlabelled)
        images = self.training[labelled]
        sampler = TrainSampler(len(images), self.options.source.batch_size, self.size)
        if by_itself:
            drawn = [draw.index for batch in itertools.islice(sampler, count) for draw in batch]
            label_by(self.dense, images, drawn, self.options.scoring.nms_thres)
        return itertools.islice(training_loader(images, sampler, 0), count)


def load(options: PruneOptions, net: type[nn.Module]) -> Job:
    """Build and load the net of --cfg and --weights; net: models.Darknet. A rescaling that its gammas carry stays:
    ranks do not depend on it."""
    source = options.source
    device = select_device(source.device, source.threads)
    runtime = runtime_of(options, device)
    cfg = resolve_cfg(source.cfg)
    weights = Path(source.weights or default_weights(cfg, "checkpoints"))
    source = replace(source, data=source.data or data_of(weights))
    model, data, about, rescale = _net_and_data(replace(options, source=source), net, cfg, weights)
    size = checked_size(source.img_size, model.module_defs)
    if (named := input_size(picture_defs(cfg))) != size and source.img_size is None:
        print(f"note: {weights} was trained at {size[0]}x{size[1]}, {cfg} is for {named[0]}x{named[1]}: the pruned net "
              "is for the former, and is tuned so; --img_size names another")
    require_int8(options, data)
    model = model.eval().to(device)
    loader = validation_loader(options, data, size, model)
    options = with_recalibration(replace(options, source=source), data)
    graph = channel_graph(model.module_defs, options.rule.strategy)
    if not graph.prunable:
        raise PruneError(f"{cfg}: no layer can be pruned with --strategy {options.rule.strategy}")
    watch = Stopwatch(runtime, model, size)
    return Job(options, cfg, weights, model, model, graph, size, data, loader, rescale, watch, about=about)


def runtime_of(options: PruneOptions, device: torch.device) -> str:
    """--latency-backend or its default, for nets on `device`. Raises ValueError where it lacks packages, naming the pip
    command."""
    wanted = options.latency_backend or options.aims.target_latency
    return named_runtime(options.latency_backend, device) if wanted else "torch"


def _net_and_data(options: PruneOptions, net: type[nn.Module], cfg: Path,
                  weights: Path) -> tuple[nn.Module, DataConfig, dict, float]:
    """(the net as loaded, or cut to --keep-classes, the data for it, Job.about, the factor of its gammas)."""
    source = options.source
    if source.keep_classes:
        data = parse_data_config(source.data)
        if given_names(data) is None and source.class_path:
            data = parse_data_config(source.data, source.class_path)
        model, content, names = kept_net(source.keep_classes, net, (cfg, weights), data, source.class_path)
        if not options.no_eval or set(names) <= set(data.names):
            data = data.keeping(names)
        about = {"names": list(names), "data": content.get("data") or str(data.path)}
        return model, data, about, content.get("rescale", 1.0)
    data = by_name(parse_data_config(source.data, source.class_path), stored_names(cfg, weights))
    defs = defs_to_prune(cfg, weights, data, scored=not options.no_eval)
    model = net(defs)
    report, content = load_weights(model, weights, strict=False)
    if not report.complete:
        print(f"warning: {weights}: {report}; its mAP means nothing before training (train.py makes heads for the "
              "data)")
    print(f"{cfg}, {weights}: {report}")
    fits = class_count(defs) == data.classes
    known = report.complete and names_of(cfg, weights, content, class_count(defs))
    if known and fits:
        data = data_for_net(data, known, class_count(defs), weights)
    about = {"names": known or (given_names(data) if fits else None),
             "data": content.get("data") or (str(data.path) if fits else None)}
    return model, data, about, content.get("rescale", 1.0)


def validation_loader(options: PruneOptions, data: DataConfig, size: tuple[int, int],
                      model: nn.Module) -> DataLoader | None:
    """What nets are scored on; None with --no-eval. Raises PruneError where --no-eval stands beside a flag that needs
    scores, and what validation_images raises."""
    if not options.no_eval:
        images = validation_images(options, data, size, model)
        return evaluation_loader(images, options.source.batch_size, options.source.n_cpu)
    by_score = (("--max-drop", options.aims.max_drop is not None), ("--curve", options.curve),
                ("--sensitivity", options.sensitivity), ("--int8", options.int8))
    if asked := [flag for flag, value in by_score if value]:
        raise PruneError(f"{', '.join(asked)}: found --no-eval beside it, expected a net that may be scored; leave one "
                         "of them out")
    return None


def require_int8(options: PruneOptions, data: DataConfig) -> None:
    """Raise ValueError, naming the pip command, or CfgError unless all is here that --int8 takes: the packages, and
    training images to calibrate on."""
    if options.int8:
        require_packages(*FORMATS[options.int8].packages, "nncf", what=f"--int8 {options.int8}")
        data.lists("train")


def with_recalibration(options: PruneOptions, data: DataConfig) -> PruneOptions:
    """Without training images, and where --recalibrate does not ask for them, batch-norm statistics stay (and that is
    said)."""
    has_images = bool(data.train) and all(path.exists() for path in data.train)
    if options.recalibrate is None and (options.recalibration_batches or options.curve) and not has_images:
        print(f"{options.source.data}: no training images, so that batch-norm statistics stay as they are")
        return replace(options, recalibrate=0)
    return options


def validation_images(options: PruneOptions, data: DataConfig, size: tuple[int, int], model: nn.Module) -> ListDataset:
    """What nets are scored on, with --unlabelled by the boxes that the dense `model` finds. Raises DataError or
    PruneError where no image, or none of the first --sensitivity ones, has a box."""
    count = options.sensitivity
    if options.unlabelled:
        valid = dataset(options.read, data, "valid", size, labelled=False)
        label_by(model, valid, nms_thres=options.scoring.nms_thres)
        print(f"--unlabelled: {valid.describe()} of score {SCORE} or more that the dense net finds: mAP is agreement "
              "with it")
        return valid
    try:
        valid = labelled_dataset(options.read, data, "valid", size)
    except DataError as error:
        by_score = options.aims.max_drop is not None or options.curve or count or options.int8
        ways = "--unlabelled takes the net's own boxes" + "; --no-eval prunes without a score" * (not by_score)
        raise DataError(f"{error} ({ways})") from None
    if count and not any(map(len, valid.labels[:count])):
        first = next(i for i, labels in enumerate(valid.labels, start=1) if len(labels))
        raise PruneError(f"--sensitivity {count}: found no box in so many images of {valid.source}, "
                         f"expected one or more; the first lies in image {first}")
    return valid


def loaded(job: Job, defs: list[dict], state: dict[str, torch.Tensor]) -> nn.Module:
    """A net in eval mode on the job's device. It holds the tensors of `state` themselves where they lie there already:
    the masked net shares its kernels with the dense one."""
    model = type(job.dense)(defs, initialise=False)
    model.load_state_dict(state, assign=True)
    model.seen = job.dense.seen
    return model.eval().to(next(job.dense.parameters()).device)


def compact_of(job: Job, cut: Cut) -> tuple[nn.Module, Surgery]:
    """The compact net of a cut, not yet verified."""
    surgery = compact_net(job.model.module_defs, job.model.state_dict(), job.graph, cut.keep, job.options.rule.fold)
    return loaded(job, surgery.module_defs, surgery.state), surgery


def stays(job: Job, keep: torch.Tensor) -> torch.Tensor:
    """(G,) bool: groups present in the compact net, carriers included."""
    if not job.options.rule.exact:
        return keep
    return staying_groups(job.model.module_defs, vectors_of(job.model), job.graph, keep)


def eval_model(job: Job, model: nn.Module, label: str) -> EvalResult | None:
    """Score a net on the validation images and print one line; None with --no-eval."""
    if job.loader is None:
        return None
    result = evaluate(model, job.loader, job.data.names, job.options.scoring)
    print(
        f"{label}: mAP {result.map50:.4f}  AP {result.map:.4f}  P {result.precision:.3f}  R {result.recall:.3f}",
        flush=True,
    )
    return result
