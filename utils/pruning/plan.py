"""Which residual blocks and channels go: the ranking, the threshold of --percent or the search for a target, and what
to say before anything is cut."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable, Iterator, Sequence

import torch
from torch import nn

from utils.batch_norm import FREE, gammas_by_layer, recalibrate
from utils.compare import TOLERANCE, deviation
from utils.deploy.layer_time import LayerClock
from utils.evaluation.evaluate import evaluate
from utils.letterbox import input_channels, to_input
from utils.loss import yolo_loss
from utils.pruning import importance, selection
from utils.pruning.blocks import Block, new_places, remove_blocks, residual_blocks, silenced_state, weakest_blocks
from utils.pruning.channel_graph import channel_graph
from utils.pruning.job import Job, PruneError, compact_of, loaded, stays
from utils.pruning.latency_choices import Offer, choose, chosen_blocks, with_tables
from utils.pruning.latency_search import LatencySearch, OutOfReach, calibrate
from utils.pruning.pace import Pace
from utils.pruning.selection import (
    COSTLY,
    STARVED,
    Cut,
    candidates,
    describe_cut,
    describe_sparsity,
    global_threshold,
    in_blocks,
    make_room,
    obtain_filters_mask,
    percent_limit,
    starved_layers,
    without_ties,
)
from utils.pruning.sizes import NoCutError, mildest_within, most_allowed
from utils.pruning.surgery import narrow_defs
from utils.shapes import LayerCost, total_cost

TAYLOR_BATCHES = 8
SEARCH_LEVELS = 64  # cuts among which a search that measures or scores each one chooses
MAKE_ROOM_ROUNDS = 6
LEAST_REPEATS = 5  # forward passes per net that --target-latency measures


@dataclass
class Ranking:
    """Groups by an importance, `kind`. scores: (G,) as computed; ranked: the same without ties and in blocks of
    --divisor, what thresholds apply to."""

    kind: str
    scores: torch.Tensor
    ranked: torch.Tensor
    members: torch.Tensor
    free: torch.Tensor

    @classmethod
    def of(cls, job: Job, kind: str | None = None) -> "Ranking":
        """The ranking by `kind`, default --score."""
        kind = kind or job.options.rule.importance
        members = importance.member_count(job.graph)
        scores = score_groups(job, kind)
        ranked = in_blocks(job.graph, without_ties(job.graph, scores), job.options.rule.divisor)
        return cls(kind, scores, ranked, members, candidates(job.graph, members))


@dataclass
class Plan:
    """Which channels go. score: by which importance; cut: by groups; masks: the same by layers, (C_i,) bool, True for
    those that stay; share: of prunable channels, actually cut; limit_threshold, limit: the threshold, and the share of
    channels under it, from which on a layer would be empty; predicted: with --target-latency, the share of the dense
    net's time that was expected of the cut before it was measured."""

    score: str
    cut: Cut
    masks: dict[int, torch.Tensor]
    share: float
    limit_threshold: float
    limit: float
    predicted: float | None = None


def remove_layers(job: Job) -> Job:
    """The job with the residual blocks of least --score, as many as --layers says, taken out of its model, and those
    whose time keeps more elsewhere, by --target-latency; checked against the net in which they add nothing."""
    kind, count = job.options.rule.importance, job.options.rule.layers
    blocks, found = residual_blocks(job.dense.module_defs), []
    if count:
        scores = importance.block_scores(kind, job.model, job.graph, blocks, changes_by_blocks(job, blocks))
        found = weakest_blocks(blocks, scores, count)
    gone = [block for block, _ in found]
    for block, score in found:
        print(f"residual block of layers {block.stream + 1} to {block.shortcut} goes: score {kind} {score:.3g}")
    job = without_blocks(job, gone)
    if job.options.aims.target_latency is None:
        return job
    left = [block for block in blocks if block not in gone]
    return without_slow_blocks(job, left)


def without_blocks(job: Job, gone: list[Block]) -> Job:
    """The job with residual blocks of its dense net taken out; nothing changes where there are none."""
    if not gone:
        return job
    defs, state = job.dense.module_defs, job.dense.state_dict()
    model = loaded(job, *remove_blocks(defs, state, gone))
    graph = channel_graph(model.module_defs, job.options.rule.strategy)
    silent = loaded(job, defs, silenced_state(state, gone))
    if not (worst := deviation(silent, model, job.size)) <= TOLERANCE:
        raise PruneError(f"the net without its residual blocks differs by {worst:.3g} of the largest raw value from "
                         f"the one in which they add nothing, expected at most {TOLERANCE:g}")
    if not graph.prunable:
        way = "--layers" if job.options.rule.layers else "a larger --target-latency"
        raise PruneError(f"{job.cfg}: nothing is left to prune without those blocks; remove fewer with {way}")
    return replace(job, model=model, graph=graph, blocks=tuple(gone), probes={})


def without_slow_blocks(job: Job, left: list[Block]) -> Job:
    """The job without the residual blocks that a choice of widths and blocks for --target-latency takes out. left:
    those of its model, as blocks of the dense net."""
    place = new_places(job.dense.module_defs, job.blocks)
    here = {block.shortcut: block for block in residual_blocks(job.model.module_defs)}
    own = [here[place[block.shortcut]] for block in left]
    job, offer = calibrated(job, own)
    found = chosen_blocks(offer, choose(offer, job.pace.budget(job.pace.most), partial(stays, job)).choice)
    slow = [block for block, here in zip(left, own, strict=True) if here in found]
    for block in slow:
        print(f"residual block of layers {block.stream + 1} to {block.shortcut} goes: its time keeps more importance "
              "elsewhere")
    return without_blocks(job, sorted([*job.blocks, *slow], key=lambda block: block.shortcut))


def calibrated(job: Job, blocks: list[Block]) -> tuple[Job, Offer]:
    """(the job with its `pace`, what it may choose from for --target-latency). Raises PruneError, naming the least that
    could be had, where that takes longer."""
    repeats = max(job.options.repeats, LEAST_REPEATS)
    clock = LayerClock.of(job.watch.runtime, next(job.dense.parameters()).device)
    pace = Pace(clock, job.watch, job.options.aims.target_latency, repeats)
    job = replace(job, pace=pace)
    offer = offer_of(job, Ranking.of(job), blocks)
    with in_reach(job):
        calibrate(pace, offer, job.model, lambda defs: random_net(job, defs))
    return job, offer


@contextmanager
def in_reach(job: Job) -> Iterator[None]:
    """Turn the OutOfReach of a search for --target-latency into a PruneError that says what to do."""
    try:
        yield
    except OutOfReach as error:
        ways = ways_to_cut_more(job, offers_blocks=False)
        raise PruneError(f"--target-latency: {error}; {', or '.join(ways)}") from None


def changes_by_blocks(job: Job, blocks: list[Block]) -> torch.Tensor | None:
    """(blocks,) what --score taylor makes of every residual block; None for other scores, which need no images."""
    if job.options.rule.importance != "taylor" or not blocks:
        return None
    batches = job.train_batches(TAYLOR_BATCHES, labelled=True)
    return importance.taylor_of_blocks(job.model, blocks, batches, batch_loss)


def score_groups(job: Job, kind: str | None = None) -> torch.Tensor:
    """(G,) the importance `kind` of every group, default --score."""
    rule, model = job.options.rule, job.model
    kind, first_order = kind or rule.importance, None
    if kind == "taylor":
        first_order = importance.taylor(model, job.graph, job.train_batches(TAYLOR_BATCHES, labelled=True), batch_loss)
    return importance.group_scores(kind, model, job.graph, rule.group_norm, first_order)


def batch_loss(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The training loss of one batch in eval mode, scalar."""
    images = to_input(images, next(model.parameters()).device, input_channels(model))
    return yolo_loss(model.raw_maps(images), model.heads(), targets, (images.shape[3], images.shape[2])).total()


def plan_cut(job: Job, room: float = 0.0) -> Plan:
    """The cut of --percent, or the one that a search for the targets finds. room: of --max-drop, left to what comes
    after the cut. Where --score was left open, a cut to a size is made by |gamma| and by gamma-norm, see `better`."""
    rule = job.options.rule
    if rule.score is None and job.options.aims.size_alone:
        plain = plan_by(job, "gamma")
        try:
            normed = plan_by(job, "gamma-norm")
        except PruneError:  # what |gamma| reaches gamma-norm may not
            return plain
        return better(job, plain, normed)
    return plan_by(job, rule.importance, room)


def plan_by(job: Job, kind: str, room: float = 0.0) -> Plan:
    """The same by the importance `kind`."""
    ranking, predicted, rule = Ranking.of(job, kind), None, job.options.rule
    free, tied = ranking.free, in_blocks(job.graph, ranking.scores, rule.divisor)
    if job.options.aims.target_latency:
        cut, predicted = latency_cut(job, ranking, room)
    else:
        cut = cut_at(job, ranking, search(job, ranking, room) if job.options.aims.any else
                     global_threshold(tied[free], ranking.members[free], rule.percent))
    return Plan(
        kind,
        cut,
        cut.masks(job.graph),
        share_of(ranking, cut),
        *percent_limit(job.graph, tied, ranking.members),
        predicted,
    )


def better(job: Job, plain: Plan, normed: Plan) -> Plan:
    """Of two cuts to one size, by |gamma| and by gamma-norm, |gamma|'s where it is free, else the one whose compact net
    scores more before fine-tuning; without scores gamma-norm's where |gamma|'s takes so much that it costs mAP.

    Past the gammas at 0 neither is better everywhere: |gamma| takes most from layers whose gammas are small as a whole,
    and may break a net by it; gamma-norm leaves more parameters at the same FLOPs.
    """
    energy, _ = describe_cut(job.graph, gammas_by_layer(job.model), ~plain.cut.keep, "")
    if energy <= FREE or torch.equal(plain.cut.keep, normed.cut.keep):
        return plain
    if job.loader is None:
        return normed if energy >= COSTLY else plain
    found = [probed_map(job, plan.score, plan.cut, plan.share) for plan in (plain, normed)]
    return normed if found[1] > found[0] else plain


def warn_before(job: Job, plan: Plan) -> None:
    """Say, before anything is evaluated or written, what this cut means and whether the gammas are ready for it."""
    rule, graph = job.options.rule, job.graph
    print(f"strategy {rule.strategy}: {len(graph.prunable)} prunable layers, "
          f"{sum(len(plan.masks[i]) for i in graph.prunable):,} channels")
    for layer_i, reason in graph.reasons.items():
        print(f"  layer {layer_i} is left alone{' in part' if layer_i in graph.prunable else ''}: {reason}")
    searched = job.options.aims.any
    name = "this search" if searched else f"percent {rule.percent:g}"
    by = "most importance" if plan.cut.threshold is None else f"threshold {plan.cut.threshold:.4g}"
    print(f"{name}: {by} of score {plan.score}, cuts {plan.share:.1%} of the channels; "
          f"limit {plan.limit:.4f} (threshold {plan.limit_threshold:.4g}), beyond it a layer would be empty")
    gammas = gammas_by_layer(job.model)
    # ties, which such a cut would keep, count: equal gammas are not sparse
    if plan.score == "gamma" and not searched:
        energy, words = describe_sparsity(graph, gammas, rule.percent)
    else:
        energy, words = describe_cut(graph, gammas, ~plan.cut.keep, name)
    print(words)
    if energy >= COSTLY:
        strength = " ".join(job.options.aims.of_sparsity(job.options.latency_backend) or ("--s", "0.01"))
        strength += f" --strategy {rule.strategy}" * (rule.strategy != "group")
        print(f"warning: the gammas of {job.weights} are not sparse enough for this cut; train them first:\n"
              f"  python train.py --model_def {job.cfg} -pre {job.weights} -sr {strength} "
              f"--data {job.options.source.data}")
    if plan.score == "gamma" and (starved := starved_layers(graph, gammas, plan.cut.keep)):
        print(f"warning: layers {', '.join(map(str, starved))} keep less than {STARVED:.0%} of their channels that are "
              "not at zero: their gammas are small beside those of other layers; --score gamma-norm, which divides by "
              "the layer's mean, spreads the cut")
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


def cost_of(job: Job, cut: Cut) -> LayerCost:
    """Parameters and MACs of the compact net of a cut, before it is made."""
    return total_cost(narrow_defs(job.model.module_defs, job.graph, stays(job, cut.keep)), *job.size)


def search(job: Job, ranking: Ranking, room: float = 0.0) -> float:
    """Threshold of the mildest cut that meets --target-params and --target-flops, or with --max-drop of the strongest
    that does and keeps its mAP but for that less `room`."""
    start = size_threshold(job, ranking)
    if job.options.aims.max_drop is None:
        return start
    levels = selection.thresholds(ranking.ranked, ranking.free, SEARCH_LEVELS, start)
    return strongest_of(job, ranking, levels, room, lambda level: cut_at(job, ranking, level))


def size_threshold(job: Job, ranking: Ranking) -> float:
    """Threshold of the mildest cut that meets --target-params and --target-flops, 0 without them. Raises PruneError,
    naming what could be had, when there is none."""
    aims = job.options.aims
    if not aims.of_size:
        return 0.0
    most = most_allowed(aims.target_params, aims.target_flops, total_cost(job.dense.module_defs, *job.size))
    levels = selection.thresholds(ranking.ranked, ranking.free)
    try:
        return mildest_within(levels, lambda level: cost_of(job, cut_at(job, ranking, level)), most)
    except NoCutError as error:
        ways = ", or ".join(ways_to_cut_more(job))
        raise PruneError(f"--target-params/--target-flops: {error}; {ways}") from None


def strongest_of(job: Job, ranking: Ranking, levels: Sequence[float], room: float,
                 cut_of: Callable[[float], Cut]) -> float:
    """The last of `levels`, from mild to strong, whose cut keeps its mAP within --max-drop less `room`. Raises
    PruneError."""
    require_something_to_lose(job)
    level = selection.strongest(levels, lambda level: keeps_map(job, ranking, cut_of(level), room))
    if level is None:
        less = f" less {room:.4f} for 8 bits" if room else ""
        raise PruneError(f"--max-drop {job.options.aims.max_drop:g}{less}: even the mildest cut that was searched "
                         "loses more mAP; train with -sr first, or allow more")
    return level


def offer_of(job: Job, ranking: Ranking, blocks: list[Block], keep: torch.Tensor | None = None) -> Offer:
    """What --target-latency chooses from, with measured tables: groups of `keep` (G,) bool (default: all), and
    blocks."""
    rule, graph = job.options.rule, job.graph
    of_groups = importance.summed_over_groups(ranking.kind, graph, ranking.scores)
    of_groups = of_groups if keep is None else of_groups * keep
    of_blocks = importance.summed_over_blocks(ranking.kind, job.model, graph, blocks, changes_by_blocks(job, blocks))
    offer = Offer(job.model.module_defs, graph, of_groups, job.size, rule.divisor, rule.layer_keep, tuple(blocks),
                  of_blocks.numpy())
    return with_tables(offer, job.pace.clock)


def random_net(job: Job, defs: list[dict]) -> nn.Module:
    """A net to be timed, with any weights."""
    return type(job.dense)(defs).eval().to(next(job.dense.parameters()).device)


def latency_cut(job: Job, ranking: Ranking, room: float = 0.0) -> tuple[Cut, float]:
    """(the widths of most importance that meet --target-latency, what the sizes of other targets take being gone; the
    share of the dense net's time that was expected of them). With --max-drop the fastest that keep their mAP."""
    start = size_threshold(job, ranking)
    offer = offer_of(job, ranking, [], cut_at(job, ranking, start).keep if start else None)
    cut_of = lambda keep: Cut(keep, None, [])
    finder = LatencySearch(job.pace, offer, partial(stays, job), lambda keep: compact_of(job, cut_of(keep))[0])
    with in_reach(job):
        found, expected = finder.meet()
    if job.options.aims.max_drop is not None:
        shares = torch.linspace(job.pace.share(found.seconds), job.pace.floor, SEARCH_LEVELS).tolist()
        level = strongest_of(job, ranking, shares, room, lambda share: cut_of(finder.at(share).keep))
        found = finder.at(level)
        expected = job.pace.share(found.seconds)
    return cut_of(found.keep), expected


def ways_to_cut_more(job: Job, offers_blocks: bool = True) -> list[str]:
    """What would let a search get further, of the flags that have something left to give."""
    rule = job.options.rule
    offers = {"lower --layer-keep": rule.layer_keep > 0, "lower --divisor": rule.divisor > 1,
              "take --strategy group": rule.strategy == "skip",
              "remove more blocks with --layers": offers_blocks and bool(residual_blocks(job.model.module_defs))}
    return ["ask for less", *(way for way, helps in offers.items() if helps)]


def require_something_to_lose(job: Job) -> None:
    """Raise PruneError when the dense net scores so little that a cut which leaves nothing would pass --max-drop. A
    drop of 1 allows that in so many words."""
    most = job.options.limit
    if most is not None and (before := job.before.map50) <= most < 1:
        raise PruneError(f"--max-drop {most:g}: found a net of mAP {before:.4f}, expected more than the "
                         f"drop, or the score chooses nothing: any cut passes; train {job.weights} first, or cut by "
                         "--percent" + " without --max-drop" * ("percent" in job.options.typed))


def keeps_map(job: Job, ranking: Ranking, cut: Cut, room: float = 0.0) -> bool:
    """Whether the compact net of a cut, statistics recalibrated, scores within --max-drop less `room` of the dense
    one."""
    found = probed_map(job, ranking.kind, cut, share_of(ranking, cut))
    return found >= job.before.map50 - (job.options.aims.max_drop - room)


def probed_map(job: Job, kind: str, cut: Cut, share: float) -> float:
    """mAP of the compact net of a cut, statistics recalibrated; scored once. kind, share: its importance and its share
    of the channels, for the line about it."""
    before, key = job.before.map50, cut.keep.numpy().tobytes()
    if key not in job.probes:
        model = recalibrate(compact_of(job, cut)[0], job.train_batches(job.options.candidate_batches))
        found = evaluate(model, job.loader, job.data.names, job.options.scoring, quiet=True).map50
        print(f"  probe: cut of {share:.1%} by {kind} leaves {cost_of(job, cut).parameters:,} parameters and "
              f"mAP {found:.4f} ({found - before:+.4f})", flush=True)
        job.probes[key] = found
    return job.probes[key]
