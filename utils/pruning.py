"""The steps of test_prune.py, from a trained net to a verified compact one."""

import argparse
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterable

import torch
from torch import nn

from utils import cli, prune_scores, prune_search, sparsity
from utils.channel_cost import saved_macs, seconds_per_mac
from utils.checkpoint import ALL_LAYERS, load_weights
from utils.datasets import TrainSampler, evaluation_loader, to_input, training_loader
from utils.evaluate import ScoreOptions, evaluate
from utils.loss import yolo_loss
from utils.metrics import EvalResult
from utils.profile import compare_latency
from utils.prune_depth import Block, remove_blocks, silenced_state, weakest_blocks
from utils.prune_graph import ChannelGraph, channel_graph
from utils.prune_masks import Cut, candidates, global_threshold, in_blocks, make_room, obtain_filters_mask, percent_limit
from utils.prune_surgery import Surgery, compact_net, masked_state, narrow_defs, staying_groups
from utils.recalibrate import recalibrate
from utils.setup import dataset, model_and_data
from utils.shapes import LayerCost, total_cost

TOLERANCE = 1e-4  # largest deviation in float32, relative to the largest value of a raw map
TOLERANCE_DOUBLE = 1e-9
TAYLOR_BATCHES = 8
RECALIBRATION_BATCHES = 20  # after a search, unless --recalibrate says otherwise
SEARCH_LEVELS = 64  # cuts among which a search that measures or scores each one chooses
MAKE_ROOM_ROUNDS = 6


class PruneError(ValueError):
    """The compact net is not what it should be, or cannot be what was asked for; nothing was written."""


@dataclass
class Job:
    """What is pruned, and the means to score it. dense: the net as loaded; model: the same less --layers blocks, whose channels
    are cut."""

    args: argparse.Namespace
    cfg: Path
    weights: Path
    dense: nn.Module
    model: nn.Module
    graph: ChannelGraph
    size: tuple[int, int]
    names: tuple[str, ...]
    loader: object | None
    train_batches: Callable[[int], Iterable]  # count -> that many training batches, not augmented
    options: ScoreOptions
    rescale: float  # the factor that the gammas carry (utils.rescale)
    build: Callable[..., nn.Module]  # models.Darknet
    blocks: list[Block] = field(default_factory=list)  # residual blocks that were removed
    before: EvalResult | None = None  # of the dense net, once it was scored


@dataclass
class Ranking:
    """Groups by what they are worth. scores: (G,) as computed; ranked: the same in blocks of --divisor, what thresholds apply to."""

    scores: torch.Tensor
    ranked: torch.Tensor
    members: torch.Tensor
    free: torch.Tensor

    @classmethod
    def of(cls, job: Job) -> "Ranking":
        """The ranking by --score."""
        members = prune_scores.member_count(job.graph)
        scores = score_groups(job)
        return cls(scores, in_blocks(job.graph, scores, job.args.divisor), members, candidates(job.graph, members))


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
    """A verified compact net. deviation: largest difference from the masked net, relative to the largest raw value; by_layer: the same
    of each convolution's output, with an inexact --fold."""

    model: nn.Module
    surgery: Surgery
    deviation: float
    by_layer: dict[int, float] = field(default_factory=dict)


# ---- what is pruned

def load(args: argparse.Namespace, build: Callable[[list[dict]], nn.Module]) -> Job:
    """Build and load the net of --cfg and --weights. A rescaling that its gammas carry stays: ranks do not depend on it."""
    cfg, defs, data = model_and_data(args)
    device = cli.select_device(args.device, args.threads)
    model = build(defs)
    weights = Path(args.weights or f"checkpoints/{cli.stem(cfg)}_ckpt.pth")
    words, content = load_weights(model, weights, strict=False)
    if words != ALL_LAYERS:
        print(f"warning: {weights}: {words}; its mAP means nothing before training")
    size = cli.input_size(args, defs)
    loader = None
    if not args.no_eval:
        loader = evaluation_loader(dataset(args, data, "valid", size), args.batch_size, args.n_cpu)
    elif asked := [flag for flag, value in (("--max-drop", args.max_drop is not None), ("--curve", args.curve), ("--sensitivity", args.sensitivity)) if value]:
        raise PruneError(f"{', '.join(asked)}: found --no-eval beside it, expected a net that may be scored; leave one of them out")

    if args.recalibrate is None and recalibration_batches(args) and not (data.train and data.train.exists()):
        print(f"{args.data}: no training images, so that batch-norm statistics stay as they are")
        args.recalibrate = 0

    def train_batches(count: int) -> Iterable:
        """The first `count` batches of training images, not augmented, the same each time."""
        if not count:
            return []
        images = dataset(args, data, "train", size)
        return itertools.islice(training_loader(images, TrainSampler(len(images), args.batch_size, size), 0), count)

    options = ScoreOptions(args.conf_thres, args.nms_thres, args.iou_thres, scorer=args.scorer)
    print(f"{cfg}, {weights}: {words}")
    model = model.eval().to(device)
    job = Job(args, cfg, weights, model, model, channel_graph(model.module_defs, args.strategy), size, data.names, loader, train_batches,
              options, content.get("rescale", 1.0), build)
    if args.layers:
        remove_layers(job)
    if not job.graph.prunable:
        raise PruneError(f"{cfg}: no layer can be pruned with --strategy {args.strategy}")
    return job


def remove_layers(job: Job) -> None:
    """--layers: take the weakest residual blocks out of job.model, checked against the net in which they add nothing."""
    defs, state = job.dense.module_defs, job.dense.state_dict()
    found = weakest_blocks(defs, state, job.args.layers)
    job.blocks = [block for block, _ in found]
    for block, strength in found:
        print(f"residual block of layers {block.stream + 1} to {block.shortcut} goes: mean |gamma| {strength:.3g} of what it adds")
    job.model = loaded(job, *remove_blocks(defs, state, job.blocks))
    job.graph = channel_graph(job.model.module_defs, job.args.strategy)
    silent = loaded(job, defs, silenced_state(state, job.blocks))
    if not (worst := deviation(silent, job.model, job.size)) <= TOLERANCE:
        raise PruneError(f"the net without its residual blocks differs by {worst:.3g} of the largest raw value from the one in which they "
                         f"add nothing, expected at most {TOLERANCE:g}")


def loaded(job: Job, defs: list[dict], state: dict[str, torch.Tensor]) -> nn.Module:
    """A net in eval mode on the job's device. It holds the tensors of `state` themselves where they lie there already: the masked net
    shares its kernels with the dense one."""
    model = job.build(defs, initialise=False)
    model.load_state_dict(state, assign=True)
    model.seen = job.dense.seen
    return model.eval().to(next(job.dense.parameters()).device)


# ---- what goes

def score_groups(job: Job) -> torch.Tensor:
    """(G,) the --score of every group."""
    args, model = job.args, job.model
    cost = first_order = None
    if args.score == "gamma-cost":
        per_mac = seconds_per_mac(model, job.size) if args.cost == "latency" else None
        cost = saved_macs(model.module_defs, job.graph, job.size, per_mac)
    if args.score == "taylor":
        first_order = prune_scores.taylor(model, job.graph, job.train_batches(TAYLOR_BATCHES), batch_loss)
    return prune_scores.group_scores(args.score, model, job.graph, args.group_norm, cost, first_order)


def batch_loss(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The training loss of one batch in eval mode, scalar."""
    images = to_input(images, next(model.parameters()).device)
    return yolo_loss(model.raw_maps(images), model.heads(), targets, (images.shape[3], images.shape[2])).total()


def plan_cut(job: Job) -> Plan:
    """The cut of --percent, or the one that a search for the targets finds."""
    ranking = Ranking.of(job)
    cut = cut_at(job, ranking, search(job, ranking) if searching(job.args) else
                 global_threshold(ranking.ranked[ranking.free], ranking.members[ranking.free], job.args.percent))
    return Plan(cut, cut.masks(job.graph), ranking.scores, share_of(ranking, cut), *percent_limit(job.graph, ranking.ranked, ranking.members))


def share_of(ranking: Ranking, cut: Cut) -> float:
    """Share of the prunable channels that a cut takes."""
    return (ranking.members[ranking.free & ~cut.keep].sum() / ranking.members[ranking.free].sum()).item()


def cut_at(job: Job, ranking: Ranking, threshold: float) -> Cut:
    """What a threshold leaves under --layer-keep and --divisor, carriers included in the widths that are aligned."""
    args, graph = job.args, job.graph
    cut = obtain_filters_mask(graph, ranking.ranked, ranking.members, threshold, args.layer_keep, args.divisor)
    keep = cut.keep
    for _ in range(MAKE_ROOM_ROUNDS if args.divisor > 1 and args.fold == "exact" else 0):
        aligned = make_room(graph, keep, stays(job, keep), ranking.scores, args.divisor)
        if torch.equal(aligned, keep):
            break
        keep = aligned
    return Cut(keep, cut.threshold, cut.rescued)


def stays(job: Job, keep: torch.Tensor) -> torch.Tensor:
    """(G,) bool: groups present in the compact net, carriers included."""
    if job.args.fold != "exact":
        return keep
    return staying_groups(job.model.module_defs, {key: value.cpu() for key, value in job.model.state_dict().items()}, job.graph, keep)


def cost_of(job: Job, cut: Cut) -> LayerCost:
    """Parameters and MACs of the compact net of a cut, before it is made."""
    return total_cost(narrow_defs(job.model.module_defs, job.graph, stays(job, cut.keep)), *job.size)


def searching(args: argparse.Namespace) -> bool:
    """Whether a target takes the place of --percent."""
    return any(value is not None for value in (args.target_params, args.target_flops, args.target_latency, args.max_drop))


def search(job: Job, ranking: Ranking) -> float:
    """Threshold of the mildest cut that meets every --target-..., or with --max-drop of the strongest that does and keeps its mAP.

    Raises PruneError, naming what could be had, when there is none.
    """
    args = job.args
    start = 0.0
    # probes that are measured or scored choose among fewer cuts than those that are counted
    for fits, flags, most in ((size_check(job), "--target-params/--target-flops", None), (latency_check(job), "--target-latency", SEARCH_LEVELS)):
        if fits is None:
            continue
        levels = prune_search.thresholds(ranking.ranked, ranking.free, most, start)
        threshold = prune_search.mildest(levels, lambda level: fits(cut_at(job, ranking, level)))
        if threshold is None:
            least = cost_of(job, cut_at(job, ranking, levels[-1]))
            raise PruneError(f"{flags}: no cut gets there; the strongest leaves {least.parameters:,} parameters and {2 * least.macs / 1e9:.3g} GFLOPs; "
                             "ask for less, or lower --layer-keep, or remove blocks with --layers")
        start = threshold
    if args.max_drop is None:
        return start
    levels = prune_search.thresholds(ranking.ranked, ranking.free, SEARCH_LEVELS, start)
    threshold = prune_search.strongest(levels, lambda level: keeps_map(job, ranking, cut_at(job, ranking, level)))
    if threshold is None:
        raise PruneError(f"--max-drop {args.max_drop:g}: even the mildest cut that was searched loses more mAP; train with -sr first, or allow more")
    return threshold


def size_check(job: Job) -> Callable[[Cut], bool] | None:
    """Whether a cut meets --target-params and --target-flops; None without either."""
    args, dense = job.args, total_cost(job.dense.module_defs, *job.size)
    if args.target_params is None and args.target_flops is None:
        return None
    most_parameters = args.target_params.of(dense.parameters) if args.target_params else float("inf")
    most_macs = args.target_flops.of(2 * dense.macs) / 2 if args.target_flops else float("inf")

    def fits(cut: Cut) -> bool:
        """Counted, nothing is built."""
        cost = cost_of(job, cut)
        return cost.parameters <= most_parameters and cost.macs <= most_macs

    return fits


def latency_check(job: Job) -> Callable[[Cut], bool] | None:
    """Whether a cut meets --target-latency, measured beside the dense net; None without it."""
    target = job.args.target_latency
    if target is None:
        return None

    def fits(cut: Cut) -> bool:
        """Built and measured."""
        dense, slim = compare_latency([job.dense, compact_of(job, cut)[0]], job.size, max(job.args.repeats, 10))
        print(f"  probe: {cost_of(job, cut).parameters:,} parameters take {slim} against {dense}")
        return slim.median <= target.of(dense.median)

    return fits


def keeps_map(job: Job, ranking: Ranking, cut: Cut) -> bool:
    """Whether the compact net of a cut, statistics recalibrated, scores within --max-drop of the dense one."""
    model = recalibrate(compact_of(job, cut)[0], job.train_batches(recalibration_batches(job.args)))
    before, result = dense_score(job), evaluate(model, job.loader, job.names, job.options, quiet=True)
    print(f"  probe: cut of {share_of(ranking, cut):.1%} leaves {cost_of(job, cut).parameters:,} parameters and mAP {result.map50:.4f} "
          f"({result.map50 - before.map50:+.4f})", flush=True)
    return result.map50 >= before.map50 - job.args.max_drop


def recalibration_batches(args: argparse.Namespace) -> int:
    """--recalibrate, or its default."""
    if args.recalibrate is not None:
        return args.recalibrate
    return RECALIBRATION_BATCHES if searching(args) and not args.no_eval else 0


def warn_before(job: Job, plan: Plan) -> None:
    """Say, before anything is evaluated or written, what this cut means and whether the gammas are ready for it."""
    args, graph = job.args, job.graph
    print(f"strategy {args.strategy}: {len(graph.prunable)} prunable layers, {sum(len(plan.masks[i]) for i in graph.prunable):,} channels")
    for layer_i, reason in graph.reasons.items():
        print(f"  layer {layer_i} is left alone{' in part' if layer_i in graph.prunable else ''}: {reason}")
    name = "this search" if searching(args) else f"percent {args.percent:g}"
    print(f"{name}: threshold {plan.cut.threshold:.4g} of score {args.score}, cuts {plan.share:.1%} of the channels; limit {plan.limit:.4f} "
          f"(threshold {plan.limit_threshold:.4g}), beyond it a layer would be empty")
    gammas = prune_scores.gammas_by_layer(job.model)
    if args.score == "gamma" and not searching(args):  # ties, which such a cut would keep, count: equal gammas are not sparse
        energy, words = sparsity.describe_sparsity(graph, gammas, args.percent)
    else:
        energy, words = sparsity.describe_cut(graph, gammas, ~plan.cut.keep, name)
    print(words)
    if energy >= sparsity.COSTLY:
        print(f"warning: the gammas of {job.weights} are not sparse enough for this cut; train them first:\n"
              f"  python train.py --model_def {job.cfg} -pre {job.weights} -sr --s 0.01")
    if plan.cut.rescued and args.layer_keep:
        print(f"layers {', '.join(map(str, plan.cut.rescued))} keep more than the threshold asks for (--layer-keep {args.layer_keep:g})")
    elif plan.cut.rescued:
        print(f"warning: {name} is above the limit: layers {', '.join(map(str, plan.cut.rescued))} keep "
              f"{'one channel' if args.divisor == 1 else f'{args.divisor} channels'} each")


# ---- scoring and removal

def eval_model(job: Job, model: nn.Module, label: str) -> EvalResult | None:
    """Score a net on the validation images and print one line; None with --no-eval."""
    if job.loader is None:
        return None
    result = evaluate(model, job.loader, job.names, job.options)
    print(f"{label}: mAP {result.map50:.4f}  AP {result.map:.4f}  P {result.precision:.3f}  R {result.recall:.3f}", flush=True)
    return result


def dense_score(job: Job) -> EvalResult | None:
    """Score of the net as loaded, computed once."""
    if job.before is None:
        job.before = eval_model(job, job.dense, "dense")
    return job.before


def masked_model(job: Job, plan: Plan) -> nn.Module:
    """A copy of the net whose removed channels have gamma 0: what the compact one must reproduce."""
    return loaded(job, job.model.module_defs, masked_state(job.model.state_dict(), plan.masks))


def prune_and_eval(job: Job, plan: Plan) -> tuple[EvalResult | None, EvalResult | None]:
    """Score the net as loaded and with its channels masked, before anything is written."""
    before = dense_score(job)
    masked = eval_model(job, masked_model(job, plan), "masked") if job.loader else None
    if before and masked and masked.map50 < before.map50 - 0.05:
        print(f"warning: this cut takes mAP from {before.map50:.4f} to {masked.map50:.4f} before fine-tuning; a smaller --percent "
              "or more training with -sr avoids that")
    return before, masked


def compact_of(job: Job, cut: Cut) -> tuple[nn.Module, Surgery]:
    """The compact net of a cut, not yet verified."""
    surgery = compact_net(job.model.module_defs, job.model.state_dict(), job.graph, cut.keep, job.args.fold)
    return loaded(job, surgery.module_defs, surgery.state), surgery


def compact_and_verify(job: Job, plan: Plan) -> Compact:
    """Build the compact net and compare its raw maps with the masked net's everywhere.

    Raises PruneError when they differ (with --fold exact); with bias and none the deviation is reported.
    """
    model, surgery = compact_of(job, plan.cut)
    worst = deviation(masked_model(job, plan), model, job.size)
    if job.args.fold == "exact" and not worst <= TOLERANCE:  # written so that NaN does not pass
        exact = deviation_in_double(job, plan)  # rounding, or a wrong net? float64 tells
        if not exact <= TOLERANCE_DOUBLE:
            raise PruneError(f"the compact net differs from the masked one by {exact:.3g} of the largest raw value, expected at most "
                             f"{TOLERANCE_DOUBLE:g} in float64; nothing was written")
    print(f"compact net verified: differs from the masked one by at most {worst:.2g} of the largest raw value"
          if job.args.fold == "exact" else f"--fold {job.args.fold}: the compact net differs from the masked one by up to {worst:.2g} "
          "of the largest raw value")
    return Compact(model, surgery, worst, {} if job.args.fold == "exact" else layer_deviations(job, plan, model, surgery))


def recalibrate_compact(job: Job, compact: Compact) -> None:
    """--recalibrate: new batch-norm statistics for the compact net, after it was verified."""
    if count := recalibration_batches(job.args):
        batches = list(job.train_batches(count))
        recalibrate(compact.model, batches)
        print(f"batch-norm statistics of the compact net taken anew on {sum(len(images) for images, _ in batches)} training images")


def deviation_in_double(job: Job, plan: Plan) -> float:
    """`deviation` of the whole removal done again in float64."""
    state = {key: value.double() if value.is_floating_point() else value for key, value in job.model.state_dict().items()}
    surgery = compact_net(job.model.module_defs, state, job.graph, plan.cut.keep, job.args.fold)
    masked, compact = job.build(job.model.module_defs).double().eval(), job.build(surgery.module_defs).double().eval()
    masked.load_state_dict(masked_state(state, plan.masks))
    compact.load_state_dict(surgery.state)
    return deviation(masked, compact, job.size)


def probe_image(model: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, height, width) a fixed random image of the net's type, on its device."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, size[1], size[0], generator=generator).to(next(model.parameters()))


@torch.inference_mode()
def deviation(one: nn.Module, other: nn.Module, size: tuple[int, int]) -> float:
    """Largest difference between two nets' raw maps on a random image, over all heads and places, relative to the largest value;
    NaN when either net gives one."""
    image = probe_image(one, size)
    pairs = zip(one.raw_maps(image), other.raw_maps(image))
    return torch.stack([(a - b).abs().max() / a.abs().max().clamp(min=1e-12) for a, b in pairs]).max().item()


@torch.inference_mode()
def layer_deviations(job: Job, plan: Plan, compact: nn.Module, surgery: Surgery) -> dict[int, float]:
    """layer -> largest difference between the channels that a convolution kept and the masked net's, relative to the latter's largest
    value: what --fold bias or none costs, layer by layer."""
    maps = []
    for model in (masked_model(job, plan), compact):
        outputs = {}
        hooks = [model.module_list[i].register_forward_hook(lambda module, inputs, output, i=i, own=outputs: own.__setitem__(i, output.clone()))
                 for i in job.graph.normalised]
        model.raw_maps(probe_image(model, job.size))
        for hook in hooks:
            hook.remove()
        maps.append(outputs)
    masked, slim = maps
    found = {}
    for i in job.graph.normalised:
        kept = surgery.kept[i].to(masked[i].device)
        own = plan.masks[i].to(kept.device)[kept]  # carriers have no counterpart
        difference = (masked[i][:, kept] - slim[i])[:, own].abs().max()
        found[i] = (difference / masked[i].abs().max().clamp(min=1e-12)).item()
    return found
