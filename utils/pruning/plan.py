"""Which residual blocks and channels go: the ranking, the threshold of --percent or the search for a target, and what
to say before anything is cut."""

from dataclasses import dataclass, replace
from typing import Callable

import torch
from torch import nn

from utils.batch_norm import gammas_by_layer, recalibrate
from utils.compare import TOLERANCE, compare_latency, deviation
from utils.evaluation.evaluate import evaluate
from utils.letterbox import input_channels, to_input
from utils.loss import yolo_loss
from utils.pruning import importance, selection
from utils.pruning.blocks import Block, remove_blocks, residual_blocks, silenced_state, weakest_blocks
from utils.pruning.channel_graph import channel_graph
from utils.pruning.job import Job, PruneError, compact_of, loaded
from utils.pruning.selection import (
    COSTLY,
    Cut,
    candidates,
    describe_cut,
    describe_sparsity,
    global_threshold,
    in_blocks,
    make_room,
    obtain_filters_mask,
    percent_limit,
)
from utils.pruning.surgery import narrow_defs, staying_groups
from utils.shapes import LayerCost, total_cost

TAYLOR_BATCHES = 8
SEARCH_LEVELS = 64  # cuts among which a search that measures or scores each one chooses
MAKE_ROOM_ROUNDS = 6


@dataclass
class Ranking:
    """Groups by what they are worth. scores: (G,) as computed; ranked: the same in blocks of --divisor, what thresholds
    apply to."""

    scores: torch.Tensor
    ranked: torch.Tensor
    members: torch.Tensor
    free: torch.Tensor

    @classmethod
    def of(cls, job: Job) -> "Ranking":
        """The ranking by --score."""
        members = importance.member_count(job.graph)
        scores = score_groups(job)
        ranked = in_blocks(job.graph, scores, job.options.rule.divisor)
        return cls(scores, ranked, members, candidates(job.graph, members))


@dataclass
class Plan:
    """Which channels go. share: of prunable channels, actually cut; limit: share from which on a layer would be
    empty."""

    cut: Cut
    masks: dict[int, torch.Tensor]
    scores: torch.Tensor
    share: float
    limit_threshold: float
    limit: float


def remove_layers(job: Job) -> Job:
    """The job with the residual blocks of least --score, as many as --layers says, taken out of its model; checked
    against the net in which they add nothing."""
    rule = job.options.rule
    if not rule.layers:
        return job
    defs, state = job.dense.module_defs, job.dense.state_dict()
    blocks = residual_blocks(defs)
    found = weakest_blocks(blocks, score_blocks(job, blocks), rule.layers)
    gone = tuple(block for block, _ in found)
    for block, score in found:
        print(f"residual block of layers {block.stream + 1} to {block.shortcut} goes: score {rule.score} {score:.3g}")
    model = loaded(job, *remove_blocks(defs, state, gone))
    graph = channel_graph(model.module_defs, rule.strategy)
    silent = loaded(job, defs, silenced_state(state, gone))
    if not (worst := deviation(silent, model, job.size)) <= TOLERANCE:
        raise PruneError(f"the net without its residual blocks differs by {worst:.3g} of the largest raw value from "
                         f"the one in which they add nothing, expected at most {TOLERANCE:g}")
    if not graph.prunable:
        raise PruneError(f"{job.cfg}: nothing is left to prune without those blocks; remove fewer with --layers")
    return replace(job, model=model, graph=graph, blocks=gone, probes={})


def score_blocks(job: Job, blocks: list[Block]) -> torch.Tensor:
    """(blocks,) the --score of every residual block."""
    kind, model = job.options.rule.score, job.model
    if not blocks:
        return torch.zeros(0)
    first_order = None
    if kind == "taylor":
        batches = job.train_batches(TAYLOR_BATCHES, labelled=True)
        first_order = importance.taylor_of_blocks(model, blocks, batches, batch_loss)
    return importance.block_scores(kind, model, job.graph, blocks, first_order)


def score_groups(job: Job) -> torch.Tensor:
    """(G,) the --score of every group."""
    rule, model = job.options.rule, job.model
    first_order = None
    if rule.score == "taylor":
        first_order = importance.taylor(model, job.graph, job.train_batches(TAYLOR_BATCHES, labelled=True), batch_loss)
    return importance.group_scores(rule.score, model, job.graph, rule.group_norm, first_order)


def batch_loss(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The training loss of one batch in eval mode, scalar."""
    images = to_input(images, next(model.parameters()).device, input_channels(model))
    return yolo_loss(model.raw_maps(images), model.heads(), targets, (images.shape[3], images.shape[2])).total()


def plan_cut(job: Job, room: float = 0.0) -> Plan:
    """The cut of --percent, or the one that a search for the targets finds. room: of --max-drop, left to what comes
    after the cut."""
    ranking = Ranking.of(job)
    free, percent = ranking.free, job.options.rule.percent
    cut = cut_at(job, ranking, search(job, ranking, room) if job.options.aims.any else
                 global_threshold(ranking.ranked[free], ranking.members[free], percent))
    return Plan(
        cut,
        cut.masks(job.graph),
        ranking.scores,
        share_of(ranking, cut),
        *percent_limit(job.graph, ranking.ranked, ranking.members),
    )


def warn_before(job: Job, plan: Plan) -> None:
    """Say, before anything is evaluated or written, what this cut means and whether the gammas are ready for it."""
    rule, graph = job.options.rule, job.graph
    print(f"strategy {rule.strategy}: {len(graph.prunable)} prunable layers, "
          f"{sum(len(plan.masks[i]) for i in graph.prunable):,} channels")
    for layer_i, reason in graph.reasons.items():
        print(f"  layer {layer_i} is left alone{' in part' if layer_i in graph.prunable else ''}: {reason}")
    searched = job.options.aims.any
    name = "this search" if searched else f"percent {rule.percent:g}"
    print(f"{name}: threshold {plan.cut.threshold:.4g} of score {rule.score}, cuts {plan.share:.1%} of the channels; "
          f"limit {plan.limit:.4f} (threshold {plan.limit_threshold:.4g}), beyond it a layer would be empty")
    gammas = gammas_by_layer(job.model)
    # ties, which such a cut would keep, count: equal gammas are not sparse
    if rule.score == "gamma" and not searched:
        energy, words = describe_sparsity(graph, gammas, rule.percent)
    else:
        energy, words = describe_cut(graph, gammas, ~plan.cut.keep, name)
    print(words)
    if energy >= COSTLY:
        strength = " ".join(job.options.aims.of_size or ("--s", "0.01"))
        print(f"warning: the gammas of {job.weights} are not sparse enough for this cut; train them first:\n"
              f"  python train.py --model_def {job.cfg} -pre {job.weights} -sr {strength} "
              f"--data {job.options.source.data}")
    if plan.cut.rescued and rule.layer_keep:
        print(f"layers {', '.join(map(str, plan.cut.rescued))} keep more than the threshold asks for (--layer-keep "
              f"{rule.layer_keep:g})")
    elif plan.cut.rescued:
        print(f"warning: {name} is above the limit: layers {', '.join(map(str, plan.cut.rescued))} keep "
              f"{'one channel' if rule.divisor == 1 else f'{rule.divisor} channels'} each")


def share_of(ranking: Ranking, cut: Cut) -> float:
    """Share of the prunable channels that a cut takes."""
    return (ranking.members[ranking.free & ~cut.keep].sum() / ranking.members[ranking.free].sum()).item()


def cut_at(job: Job, ranking: Ranking, threshold: float) -> Cut:
    """What a threshold leaves under --layer-keep and --divisor, carriers included in the widths that are aligned."""
    rule, graph = job.options.rule, job.graph
    cut = obtain_filters_mask(graph, ranking.ranked, ranking.members, threshold, rule.layer_keep, rule.divisor)
    keep = cut.keep
    for _ in range(MAKE_ROOM_ROUNDS if rule.divisor > 1 and rule.exact else 0):
        aligned = make_room(graph, keep, stays(job, keep), ranking.scores, rule.divisor, rule.layer_keep)
        if torch.equal(aligned, keep):
            break
        keep = aligned
    return Cut(keep, cut.threshold, cut.rescued)


def stays(job: Job, keep: torch.Tensor) -> torch.Tensor:
    """(G,) bool: groups present in the compact net, carriers included."""
    if not job.options.rule.exact:
        return keep
    return staying_groups(
        job.model.module_defs, {key: value.cpu() for key, value in job.model.state_dict().items()}, job.graph, keep
    )


def cost_of(job: Job, cut: Cut) -> LayerCost:
    """Parameters and MACs of the compact net of a cut, before it is made."""
    return total_cost(narrow_defs(job.model.module_defs, job.graph, stays(job, cut.keep)), *job.size)


def search(job: Job, ranking: Ranking, room: float = 0.0) -> float:
    """Threshold of the mildest cut that meets every --target-..., or with --max-drop of the strongest that does and
    keeps its mAP but for that less `room`.

    Raises PruneError, naming what could be had, when there is none.
    """
    start, max_drop = 0.0, job.options.aims.max_drop
    # probes that are measured or scored choose among fewer cuts than those that are counted
    for fits, flags, most in (
        (size_check(job), "--target-params/--target-flops", None),
        (latency_check(job), "--target-latency", SEARCH_LEVELS),
    ):
        if fits is None:
            continue
        levels = selection.thresholds(ranking.ranked, ranking.free, most, start)
        threshold = selection.mildest(levels, lambda level: fits(cut_at(job, ranking, level)))
        if threshold is None:
            least = cost_of(job, cut_at(job, ranking, levels[-1]))
            raise PruneError(f"{flags}: no cut gets there; the strongest leaves {least.parameters:,} parameters and "
                             f"{2 * least.macs / 1e9:.3g} GFLOPs; {', or '.join(ways_to_cut_more(job))}")
        start = threshold
    if max_drop is None:
        return start
    require_something_to_lose(job)
    levels = selection.thresholds(ranking.ranked, ranking.free, SEARCH_LEVELS, start)
    threshold = selection.strongest(levels, lambda level: keeps_map(job, ranking, cut_at(job, ranking, level), room))
    if threshold is None:
        less = f" less {room:.4f} for 8 bits" if room else ""
        raise PruneError(f"--max-drop {max_drop:g}{less}: even the mildest cut that was searched loses more mAP; train "
                         "with -sr first, or allow more")
    return threshold


def ways_to_cut_more(job: Job) -> list[str]:
    """What would let a search get further, of the flags that have something left to give."""
    rule = job.options.rule
    offers = {"lower --layer-keep": rule.layer_keep > 0, "lower --divisor": rule.divisor > 1,
              "take --strategy group": rule.strategy == "skip",
              "remove more blocks with --layers": bool(residual_blocks(job.model.module_defs))}
    return ["ask for less", *(way for way, helps in offers.items() if helps)]


def require_something_to_lose(job: Job) -> None:
    """Raise PruneError when the dense net scores so little that a cut which leaves nothing would pass --max-drop. A
    drop of 1 allows that in so many words."""
    most = job.options.limit
    if most is not None and (before := job.before.map50) <= most < 1:
        raise PruneError(f"--max-drop {most:g}: found a net of mAP {before:.4f}, expected more than the "
                         f"drop, or the score chooses nothing: any cut passes; train {job.weights} first, or cut by "
                         "--percent" + " without --max-drop" * ("percent" in job.options.typed))


def size_check(job: Job) -> Callable[[Cut], bool] | None:
    """Whether a cut meets --target-params and --target-flops; None without either."""
    aims, dense = job.options.aims, total_cost(job.dense.module_defs, *job.size)
    if aims.target_params is None and aims.target_flops is None:
        return None
    most_parameters = aims.target_params.of(dense.parameters) if aims.target_params else float("inf")
    most_macs = aims.target_flops.of(2 * dense.macs) / 2 if aims.target_flops else float("inf")

    def fits(cut: Cut) -> bool:
        """Counted, nothing is built."""
        cost = cost_of(job, cut)
        return cost.parameters <= most_parameters and cost.macs <= most_macs

    return fits


def latency_check(job: Job) -> Callable[[Cut], bool] | None:
    """Whether a cut meets --target-latency, measured beside the dense net; None without it."""
    target = job.options.aims.target_latency
    if target is None:
        return None

    def fits(cut: Cut) -> bool:
        """Built and measured."""
        dense, slim = compare_latency([job.dense, compact_of(job, cut)[0]], job.size, max(job.options.repeats, 10))
        print(f"  probe: {cost_of(job, cut).parameters:,} parameters take {slim} against {dense}")
        return slim.median <= target.of(dense.median)

    return fits


def keeps_map(job: Job, ranking: Ranking, cut: Cut, room: float = 0.0) -> bool:
    """Whether the compact net of a cut, statistics recalibrated, scores within --max-drop less `room` of the dense
    one."""
    before, key = job.before.map50, cut.keep.numpy().tobytes()
    if key not in job.probes:
        model = recalibrate(compact_of(job, cut)[0], job.train_batches(job.options.candidate_batches))
        found = evaluate(model, job.loader, job.data.names, job.options.scoring, quiet=True).map50
        print(f"  probe: cut of {share_of(ranking, cut):.1%} leaves {cost_of(job, cut).parameters:,} parameters and "
              f"mAP {found:.4f} ({found - before:+.4f})", flush=True)
        job.probes[key] = found
    return job.probes[key] >= before - (job.options.aims.max_drop - room)
