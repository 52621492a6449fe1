"""What test_prune.py prunes, and the means to score and to compare nets made of it."""

import argparse
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterable

import torch
from torch import nn

from utils.checkpoint import ALL_LAYERS, load_weights
from utils.data.data_config import DataConfig, parse_data_config
from utils.data.datasets import DataError, ListDataset, TrainSampler, evaluation_loader, training_loader
from utils.data.prepare import data_of, dataset, defs_to_prune, given_names, labelled_dataset, require_classes
from utils.evaluation.evaluate import ScoreOptions, evaluate
from utils.evaluation.metrics import EvalResult
from utils.loading import default_weights, input_size, names_of, resolve_cfg, select_device
from utils.parse_config import class_count
from utils.pruning.blocks import Block
from utils.pruning.channel_graph import ChannelGraph, channel_graph
from utils.pruning.selection import Cut
from utils.pruning.surgery import Surgery, compact_net

RECALIBRATION_BATCHES = 20  # after a search, unless --recalibrate says otherwise


class PruneError(ValueError):
    """The compact net is not what it should be, or cannot be what was asked for; nothing was written."""


@dataclass
class Job:
    """What is pruned, and the means to score it. dense: the net as loaded; model: the same less --layers blocks, whose
    channels are cut."""

    args: argparse.Namespace
    cfg: Path
    weights: Path
    dense: nn.Module
    model: nn.Module
    graph: ChannelGraph
    size: tuple[int, int]
    names: tuple[str, ...]
    loader: object | None
    # count -> that many training batches, not augmented; labelled=True: of images with boxes, or an error
    train_batches: Callable[..., Iterable]
    options: ScoreOptions
    rescale: float  # the factor that the gammas carry (utils.batch_norm)
    build: Callable[..., nn.Module]  # models.Darknet
    blocks: list[Block] = field(default_factory=list)  # residual blocks that were removed
    before: EvalResult | None = None  # of the dense net, once it was scored
    about: dict = field(default_factory=dict)  # "names" of the classes and "data", for the files that are written


def load(args: argparse.Namespace, build: Callable[[list[dict]], nn.Module]) -> Job:
    """Build and load the net of --cfg and --weights. A rescaling that its gammas carry stays: ranks do not depend on
    it."""
    device = select_device(args.device, args.threads)
    cfg = resolve_cfg(args.cfg)
    weights = Path(args.weights or default_weights(cfg, "checkpoints"))
    args.data = args.data or data_of(weights)
    data = parse_data_config(args.data, args.class_path)
    defs = defs_to_prune(cfg, weights, data, scored=not args.no_eval)
    model = build(defs)
    words, content = load_weights(model, weights, strict=False)
    if words != ALL_LAYERS:
        print(f"warning: {weights}: {words}; its mAP means nothing before training (train.py makes heads for the data)")
    size = input_size(args, defs)
    loader = None
    if not args.no_eval:
        loader = evaluation_loader(validation_images(args, data, size), args.batch_size, args.n_cpu)
    else:
        _refuse_searches_by_score(args)
    _decide_recalibration(args, data)

    def train_batches(count: int, labelled: bool = False) -> Iterable:
        """The first `count` batches of training images, not augmented, the same each time."""
        if not count:
            return []
        require_classes(defs, weights, data)
        images = (labelled_dataset if labelled else dataset)(args, data, "train", size)
        return itertools.islice(training_loader(images, TrainSampler(len(images), args.batch_size, size), 0), count)

    options = ScoreOptions(args.conf_thres, args.nms_thres, args.iou_thres, scorer=args.scorer)
    print(f"{cfg}, {weights}: {words}")
    model = model.eval().to(device)
    job = Job(
        args,
        cfg,
        weights,
        model,
        model,
        channel_graph(model.module_defs, args.strategy),
        size,
        data.names,
        loader,
        train_batches,
        options,
        content.get("rescale", 1.0),
        build,
    )
    fits = class_count(defs) == data.classes
    known = words == ALL_LAYERS and names_of(cfg, weights, content, class_count(defs))
    job.about = {"names": known or (given_names(data) if fits else None),
                 "data": content.get("data") or (str(data.path) if fits else None)}
    if not job.graph.prunable:
        raise PruneError(f"{cfg}: no layer can be pruned with --strategy {args.strategy}")
    return job


def _refuse_searches_by_score(args: argparse.Namespace) -> None:
    """Raise PruneError where --no-eval stands beside a flag that needs scores."""
    by_score = (("--max-drop", args.max_drop is not None), ("--curve", args.curve), ("--sensitivity", args.sensitivity))
    if asked := [flag for flag, value in by_score if value]:
        raise PruneError(f"{', '.join(asked)}: found --no-eval beside it, expected a net that may be scored; leave one "
                         "of them out")


def _decide_recalibration(args: argparse.Namespace, data: DataConfig) -> None:
    """Without training images, and where --recalibrate does not ask for them, batch-norm statistics stay (and that is
    said)."""
    has_images = bool(data.train) and all(path.exists() for path in data.train)
    if args.recalibrate is None and (recalibration_batches(args) or args.curve) and not has_images:
        print(f"{args.data}: no training images, so that batch-norm statistics stay as they are")
        args.recalibrate = 0


def validation_images(args: argparse.Namespace, data: DataConfig, size: tuple[int, int]) -> ListDataset:
    """What nets are scored on. Raises DataError or PruneError where no image, or none of the first --sensitivity
    ones, has a box."""
    try:
        valid = labelled_dataset(args, data, "valid", size)
    except DataError as error:
        by_score = args.max_drop is not None or args.curve or args.sensitivity
        raise DataError(f"{error}" if by_score else f"{error} (--no-eval prunes without a score)") from None
    if args.sensitivity and not any(map(len, valid.labels[:args.sensitivity])):
        first = next(i for i, labels in enumerate(valid.labels, start=1) if len(labels))
        raise PruneError(f"--sensitivity {args.sensitivity}: found no box in so many images of {valid.source}, "
                         f"expected one or more; the first lies in image {first}")
    return valid


def loaded(job: Job, defs: list[dict], state: dict[str, torch.Tensor]) -> nn.Module:
    """A net in eval mode on the job's device. It holds the tensors of `state` themselves where they lie there already:
    the masked net shares its kernels with the dense one."""
    model = job.build(defs, initialise=False)
    model.load_state_dict(state, assign=True)
    model.seen = job.dense.seen
    return model.eval().to(next(job.dense.parameters()).device)


def compact_of(job: Job, cut: Cut) -> tuple[nn.Module, Surgery]:
    """The compact net of a cut, not yet verified."""
    surgery = compact_net(job.model.module_defs, job.model.state_dict(), job.graph, cut.keep, job.args.fold)
    return loaded(job, surgery.module_defs, surgery.state), surgery


def eval_model(job: Job, model: nn.Module, label: str) -> EvalResult | None:
    """Score a net on the validation images and print one line; None with --no-eval."""
    if job.loader is None:
        return None
    result = evaluate(model, job.loader, job.names, job.options)
    print(
        f"{label}: mAP {result.map50:.4f}  AP {result.map:.4f}  P {result.precision:.3f}  R {result.recall:.3f}",
        flush=True,
    )
    return result


def dense_score(job: Job) -> EvalResult | None:
    """Score of the net as loaded, computed once."""
    if job.before is None:
        job.before = eval_model(job, job.dense, "dense")
    return job.before


def recalibration_batches(args: argparse.Namespace) -> int:
    """--recalibrate, or its default for the cut itself."""
    if args.recalibrate is not None:
        return args.recalibrate
    return RECALIBRATION_BATCHES if searching(args) and not args.no_eval else 0


def candidate_batches(args: argparse.Namespace) -> int:
    """--recalibrate, or its default for nets that are only compared (--max-drop, --curve)."""
    return RECALIBRATION_BATCHES if args.recalibrate is None else args.recalibrate


def searching(args: argparse.Namespace) -> bool:
    """Whether a target takes the place of --percent."""
    return any(
        value is not None for value in (args.target_params, args.target_flops, args.target_latency, args.max_drop)
    )
