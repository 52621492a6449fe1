"""The steps of test_prune.py, from a trained net to a verified compact one and its files."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from utils import cli, sparsity
from utils.checkpoint import ALL_LAYERS, load_weights
from utils.datasets import evaluation_loader
from utils.evaluate import ScoreOptions, evaluate
from utils.metrics import EvalResult
from utils.prune_graph import ChannelGraph, channel_graph
from utils.prune_masks import Cut, candidates, global_threshold, group_scores, obtain_filters_mask, percent_limit
from utils.prune_surgery import Surgery, compact_net, masked_state
from utils.setup import dataset, model_and_data

TOLERANCE = 1e-4  # largest deviation in float32, relative to the largest value of a raw map
TOLERANCE_DOUBLE = 1e-9


class PruneError(ValueError):
    """The compact net is not what it should be; nothing was written."""


@dataclass
class Job:
    """What is pruned: the net as loaded, its graph, and the means to score it."""

    args: argparse.Namespace
    cfg: Path
    weights: Path
    model: nn.Module
    graph: ChannelGraph
    size: tuple[int, int]
    names: tuple[str, ...]
    loader: object | None
    options: ScoreOptions
    rescale: float  # the factor that the gammas carry (utils.rescale)
    build: Callable[[list[dict]], nn.Module]  # module_defs -> nn.Module


@dataclass
class Plan:
    """Which channels go. share: of prunable channels, actually cut; limit: share from which on a layer would be empty."""

    cut: Cut
    masks: dict[int, torch.Tensor]
    scores: torch.Tensor
    share: float
    limit_threshold: float
    limit: float


@dataclass
class Compact:
    """A verified compact net. deviation: largest difference from the masked net, relative to the largest raw value."""

    model: nn.Module
    surgery: Surgery
    deviation: float


def load(args: argparse.Namespace, build: Callable[[list[dict]], nn.Module]) -> Job:
    """Build and load the net of --cfg and --weights. A rescaling that its gammas carry stays: ranks do not depend on it."""
    cfg, defs, data = model_and_data(args)
    device = cli.select_device(args.device, args.threads)
    model = build(defs)
    weights = Path(args.weights or f"checkpoints/{cli.stem(cfg)}_ckpt.pth")
    words, content = load_weights(model, weights, strict=False)
    if words != ALL_LAYERS:
        print(f"warning: {weights}: {words}; its mAP means nothing before training")
    graph = channel_graph(model.module_defs, args.strategy)
    if not graph.prunable:
        raise PruneError(f"{cfg}: no layer can be pruned with --strategy {args.strategy}")
    size = cli.input_size(args, defs)
    loader = None
    if not args.no_eval:
        loader = evaluation_loader(dataset(args, data, "valid", size), args.batch_size, args.n_cpu)
    options = ScoreOptions(args.conf_thres, args.nms_thres, args.iou_thres, scorer=args.scorer)
    print(f"{cfg}, {weights}: {words}")
    return Job(args, cfg, weights, model.eval().to(device), graph, size, data.names, loader, options, content.get("rescale", 1.0), build)


def gammas_by_layer(model: nn.Module) -> dict[int, torch.Tensor]:
    """layer -> (C_i,) gammas of every convolution with batch norm."""
    return {layer_i: bn.weight.detach() for layer_i, _, bn in model.convolutions() if bn is not None}


def plan_cut(job: Job) -> Plan:
    """Scores, global threshold and masks for --percent."""
    scores, members = group_scores(job.graph, gammas_by_layer(job.model))
    free = candidates(job.graph, members)
    threshold = global_threshold(scores[free], members[free], job.args.percent)
    cut = obtain_filters_mask(job.graph, scores, members, threshold)
    share = members[free & ~cut.keep].sum().item() / members[free].sum().item()
    return Plan(cut, cut.masks(job.graph), scores, share, *percent_limit(job.graph, scores, members))


def warn_before(job: Job, plan: Plan) -> None:
    """Say, before anything is evaluated or written, what this cut means and whether the gammas are ready for it."""
    args, graph = job.args, job.graph
    print(f"strategy {args.strategy}: {len(graph.prunable)} prunable layers, {sum(len(plan.masks[i]) for i in graph.prunable):,} channels")
    for layer_i, reason in graph.reasons.items():
        print(f"  layer {layer_i} is left alone: {reason}")
    print(f"percent {args.percent:g}: threshold {plan.cut.threshold:.4g}, cuts {plan.share:.1%} of the channels; limit {plan.limit:.4f} "
          f"(threshold {plan.limit_threshold:.4g}), beyond it a layer would be empty")
    energy, words = sparsity.describe_sparsity(graph, gammas_by_layer(job.model), args.percent)
    print(words)
    if energy >= sparsity.COSTLY:
        print(f"warning: the gammas of {job.weights} are not sparse enough for percent {args.percent:g}; train them first:\n"
              f"  python train.py --model_def {job.cfg} -pre {job.weights} -sr --s 0.01 --sparsity prox --rescale auto")
    if plan.cut.rescued:
        print(f"warning: percent {args.percent:g} is above the limit: layers {', '.join(map(str, plan.cut.rescued))} keep one channel each")


def eval_model(job: Job, model: nn.Module, label: str) -> EvalResult | None:
    """Score a net on the validation images and print one line; None with --no-eval."""
    if job.loader is None:
        return None
    result = evaluate(model, job.loader, job.names, job.options)
    print(f"{label}: mAP {result.map50:.4f}  AP {result.map:.4f}  P {result.precision:.3f}  R {result.recall:.3f}", flush=True)
    return result


def masked_model(job: Job, plan: Plan) -> nn.Module:
    """A copy of the net whose removed channels have gamma 0: what the compact one must reproduce."""
    masked = job.build(job.model.module_defs)
    masked.load_state_dict(masked_state(job.model.state_dict(), plan.masks))
    return masked.eval().to(next(job.model.parameters()).device)


def prune_and_eval(job: Job, plan: Plan) -> tuple[EvalResult | None, EvalResult | None]:
    """Score the net as loaded and with its channels masked, before anything is written."""
    before = eval_model(job, job.model, "dense")
    masked = eval_model(job, masked_model(job, plan), "masked") if job.loader else None
    if before and masked and masked.map50 < before.map50 - 0.05:
        print(f"warning: this cut takes mAP from {before.map50:.4f} to {masked.map50:.4f} before fine-tuning; a smaller --percent "
              "or more training with -sr avoids that")
    return before, masked


def compact_and_verify(job: Job, plan: Plan) -> Compact:
    """Build the compact net and compare its raw maps with the masked net's everywhere.

    Raises PruneError when they differ (with --fold exact); with bias and none the deviation is reported.
    """
    surgery = compact_net(job.model.module_defs, job.model.state_dict(), job.graph, plan.cut.keep, job.args.fold)
    device = next(job.model.parameters()).device
    model = job.build(surgery.module_defs).eval().to(device)
    model.load_state_dict(surgery.state)
    model.seen = job.model.seen
    masked = masked_model(job, plan)
    worst = deviation(masked, model, job.size)
    if job.args.fold == "exact" and not worst <= TOLERANCE:  # written so that NaN does not pass
        exact = deviation_in_double(job, plan)  # rounding, or a wrong net? float64 tells
        if not exact <= TOLERANCE_DOUBLE:
            raise PruneError(f"the compact net differs from the masked one by {exact:.3g} of the largest raw value, expected at most "
                             f"{TOLERANCE_DOUBLE:g} in float64; nothing was written")
    print(f"compact net verified: differs from the masked one by at most {worst:.2g} of the largest raw value"
          if job.args.fold == "exact" else f"--fold {job.args.fold}: the compact net differs from the masked one by up to {worst:.2g} "
          "of the largest raw value")
    return Compact(model, surgery, worst)


def deviation_in_double(job: Job, plan: Plan) -> float:
    """`deviation` of the whole removal done again in float64."""
    state = {key: value.double() if value.is_floating_point() else value for key, value in job.model.state_dict().items()}
    surgery = compact_net(job.model.module_defs, state, job.graph, plan.cut.keep, job.args.fold)
    masked, compact = job.build(job.model.module_defs).double().eval(), job.build(surgery.module_defs).double().eval()
    masked.load_state_dict(masked_state(state, plan.masks))
    compact.load_state_dict(surgery.state)
    return deviation(masked, compact, job.size)


@torch.inference_mode()
def deviation(one: nn.Module, other: nn.Module, size: tuple[int, int]) -> float:
    """Largest difference between two nets' raw maps on a random image, over all heads and places, relative to the largest value;
    NaN when either net gives one."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, size[1], size[0], generator=generator).to(next(one.parameters()))
    pairs = zip(one.raw_maps(image), other.raw_maps(image))
    return torch.stack([(a - b).abs().max() / a.abs().max().clamp(min=1e-12) for a, b in pairs]).max().item()
