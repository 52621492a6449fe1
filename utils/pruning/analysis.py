"""What other cuts would give: a trade-off curve over cuts from mild to strong, and the sensitivity of each layer
alone."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

from utils.batch_norm import recalibrate
from utils.compare import latencies_beside
from utils.data.datasets import collate
from utils.evaluation.evaluate import evaluate
from utils.output import ascii_table, write_csv
from utils.plots import plot_sensitivity, plot_tradeoff
from utils.pruning.importance import axes
from utils.pruning.job import Job, compact_of, loaded
from utils.pruning.plan import Ranking, cut_at, share_of
from utils.pruning.selection import Cut, curve_levels
from utils.pruning.surgery import masked_state
from utils.shapes import total_cost

SHARES = (0.25, 0.5, 0.75, 0.9)  # of a layer's channels, for its sensitivity


@dataclass(frozen=True)
class Point:
    """One net of a trade-off curve. latency: seconds a forward pass, or None."""

    share: float
    parameters: int
    macs: int
    latency: float | None
    map50: float
    map: float

    def row(self) -> dict:
        """The values of a CSV line."""
        return {
            "share_cut": round(self.share, 4),
            "parameters": self.parameters,
            "flops": 2 * self.macs,
            "latency_ms": "" if self.latency is None else round(self.latency * 1e3, 3),
            "map50": round(self.map50, 4),
            "map": round(self.map, 4),
        }


@dataclass(frozen=True)
class Sensitivity:
    """What a set of tied layers costs when it alone is cut. dense: mAP with all channels; map50: one value per share
    of SHARES."""

    layers: tuple[int, ...]
    channels: int
    dense: float
    map50: tuple[float, ...]

    def row(self) -> dict:
        """The values of a CSV line."""
        layers = " ".join(map(str, self.layers))
        by_share = {f"{share:g}": round(value, 4) for share, value in zip((0, *SHARES), (self.dense, *self.map50))}
        return {"layers": layers, "channels": self.channels, **by_share}

    def __str__(self) -> str:
        drops = "  ".join(f"-{share:.0%} {value:.4f}" for share, value in zip(SHARES, self.map50))
        return f"layers {' '.join(map(str, self.layers))} ({self.channels} channels): {drops}"


def explore(job: Job, kind: str) -> None:
    """--curve and --sensitivity by the importance `kind` of the cut: tables on the screen, CSV and PNG beside the
    pruned net."""
    options = job.options
    if not (options.curve or options.sensitivity):
        return
    base = job.names.darknet_cfg.with_suffix("")
    if options.curve:
        points = tradeoff(job, options.curve, kind)
        print(ascii_table([list(points[0].row()), *(list(point.row().values()) for point in points)]))
        save_curves({kind: points}, base.with_name(base.name + "-curve"))
    if options.sensitivity:
        rows = sensitivity(job, options.sensitivity, kind)
        write_csv(base.with_name(base.name + "-sensitivity.csv"), [row.row() for row in rows])
        plot_sensitivity(rows, SHARES, base.with_name(base.name + "-sensitivity.png"))
    made = [f"{base}-{what}.csv and .png" for what in ("curve", "sensitivity") if getattr(options, what)]
    print(f"written: {', '.join(made)}")


def tradeoff(job: Job, count: int, kind: str) -> list[Point]:
    """Points of the dense net and of up to `count` different cuts by the importance `kind`, evenly spread over the
    channels up to the strongest; batch-norm statistics of every cut are taken anew unless --recalibrate says
    otherwise."""
    ranking = Ranking.of(job, kind)
    dense, cost = job.before, total_cost(job.dense.module_defs, *job.size)
    points, cuts, last = [Point(0.0, cost.parameters, cost.macs, None, dense.map50, dense.map)], [], None
    for level in curve_levels(ranking.ranked, ranking.free, count):
        cut = cut_at(job, ranking, level)
        if last is not None and torch.equal(cut.keep, last):  # all between the two is what layers must keep
            continue
        last = cut.keep
        cuts.append(cut)
        points.append(point_of(job, ranking, cut))
        print(f"  {points[-1].row()}", flush=True)
    if job.options.repeats and cuts:
        beside = lambda net: job.watch.beside(net, job.options.repeats)
        whole, seconds, protocol = latencies_beside(beside, (compact_of(job, cut)[0] for cut in cuts))
        points = [replace(point, latency=own) for point, own in zip(points, [whole, *seconds])]
        print(f"latency: each beside the dense net; {protocol}")
    return points


def point_of(job: Job, ranking: Ranking, cut: Cut) -> Point:
    """Cost and score of the compact net of one cut, not yet timed."""
    model = recalibrate(compact_of(job, cut)[0], job.train_batches(job.options.candidate_batches))
    result = evaluate(model, job.loader, job.data.names, job.options.scoring, quiet=True)
    cost = total_cost(model.module_defs, *job.size)
    return Point(share_of(ranking, cut), cost.parameters, cost.macs, None, result.map50, result.map)


def save_curves(curves: dict[str, list[Point]], base: Path) -> None:
    """name -> points, as `base`.csv and `base`.png."""
    write_csv(
        base.with_name(base.name + ".csv"),
        [{"method": name, **point.row()} for name, points in curves.items() for point in points],
    )
    plot_tradeoff({name: [point.row() for point in points] for name, points in curves.items()},
                  base.with_name(base.name + ".png"))


def sensitivity(job: Job, images: int, kind: str) -> list[Sensitivity]:
    """mAP on the first `images` validation images when a layer alone loses the weakest SHARES of its channels by the
    importance `kind`, one row per set of tied layers; the removed channels are masked, so that every row is about the
    same net."""
    ranking, graph = Ranking.of(job, kind), job.graph
    part = Subset(job.loader.dataset, range(min(images, len(job.loader.dataset))))
    loader = DataLoader(part, job.options.source.batch_size, collate_fn=collate)
    score = lambda net: evaluate(net, loader, job.data.names, job.options.scoring, quiet=True).map50  # noqa: E731
    dense = score(job.model)
    print(f"sensitivity on {len(part)} images, {dense:.4f} with all channels")
    rows = []
    for axis in axes(graph):
        members = tuple(i for i in graph.normalised if bool(torch.isin(graph.outputs[i], axis).any()))
        order, scores = axis[ranking.scores[axis].argsort(stable=True)], []
        for share in SHARES:
            keep = torch.ones(len(graph.frozen), dtype=torch.bool)
            keep[order[:min(int(share * len(axis)), len(axis) - 1)]] = False
            masks = {i: keep[graph.outputs[i]] for i in graph.normalised}
            scores.append(score(loaded(job, job.model.module_defs, masked_state(job.model.state_dict(), masks))))
        rows.append(Sensitivity(members, len(axis), dense, tuple(scores)))
        print(f"  {rows[-1]}", flush=True)
    return rows
