"""What a pruning leaves behind: tables on the screen, the compact net's files, pictures and numbers."""

import csv
import shlex
from contextlib import nullcontext
from pathlib import Path

import torch

from utils.batch_norm import gammas_by_layer
from utils.checkpoint import save_checkpoint, weights_content
from utils.cli import joined_class_names
from utils.compare import Latency
from utils.darknet_weights import darknet_bytes
from utils.deploy.darknet_export import export_darknet
from utils.evaluation.metrics import EvalResult
from utils.evaluation.words import map_name
from utils.lock import fixed_names
from utils.output import ascii_table, change, environment, markdown_table, one_step, replacing, write_json, write_text
from utils.parse_config import explicit, resized, write_model_config
from utils.plots import plot_channels, plot_gammas, plot_pr_curves
from utils.pruning.compact import Compact
from utils.pruning.int8 import int8_path, table
from utils.pruning.job import Job, OutputNames, PruneError
from utils.pruning.plan import Plan
from utils.replaced import keep_replaced, same_weights
from utils.shapes import LayerCost, total_cost


def report(job: Job, plan: Plan, compact: Compact, before, masked, after) -> None:
    """Print the tables, write every file and say what comes next."""
    names, repeats, rule = job.names, job.options.repeats, job.options.rule
    write_outputs(job, compact, names, after)
    times = job.watch.beside(compact.model, repeats) if repeats else None
    file_bytes = darknet_bytes(job.dense), names.darknet_weights.stat().st_size
    costs = total_cost(job.dense.module_defs, *job.size), total_cost(compact.model.module_defs, *job.size)
    rows = comparison_rows(before, masked, after, costs, file_bytes, times)
    if not rule.exact and masked:
        rows.insert(3, fold_row(rule.fold, masked, compact.folded or after))
    channels = channel_rows(job, compact)
    print(ascii_table(channels))
    print(ascii_table(rows))
    say_int8(job, compact)
    if times:
        print(f"inference: {times[0].protocol}")
        print(prediction_words(job, plan, times), end="")
        warn_about_speed(costs, times)
    scores = {"before": before, "masked": masked, "after": after}
    base = names.darknet_cfg.with_suffix("")
    draw(job, plan, compact, scores, base)
    write_channels(base.with_name(base.name + "-channels.csv"), channels)
    write_text(base.with_name(base.name + "-table.md"), markdown_table(rows) + "\n")
    write_json(base.with_name(base.name + "-report.json"), numbers(job, plan, compact, scores, times))
    print(f"written: {names.cfg}, {names.checkpoint}, {names.weights}, {names.darknet_cfg}, {names.darknet_weights}")
    print(next_steps(job, names))


def say_int8(job: Job, compact: Compact) -> None:
    """Print what --int8 gave, and write its table."""
    if compact.int8:
        path = int8_path(job.names.darknet_weights, job.options.int8)
        rows = table(compact.int8.columns, job.options.limit)
        write_text(path.with_name(f"{path.stem}-table.md"), markdown_table(rows) + "\n")
        print(ascii_table(rows))
        print(f"written: {path}; {compact.int8.made.words()}")


def next_steps(job: Job, names: OutputNames) -> str:
    """The commands that tune the compact net, and that train its shape without what it inherited: often all that a cut
    of a net that was narrow already is good for (Liu et al. 2019, Rethinking the Value of Network Pruning)."""
    some = len(job.data.written or ()) > job.data.classes
    kept = job.options.source.keep_classes or (job.data.names if some else ())
    few = ["--keep-classes", joined_class_names(kept)] if kept else []
    data = shlex.join(["--data", job.options.source.data, *few])
    cfg = shlex.quote(str(names.cfg))
    return (f"next: python train.py --model_def {cfg} -pre {shlex.quote(str(names.checkpoint))} {data}\n"
            "to compare, its shape from random weights, with the epochs of the whole chain: "
            f"python train.py --model_def {cfg} --weights none {data}")


def comparison_rows(
    before: EvalResult | None,
    masked: EvalResult | None,
    after: EvalResult | None,
    costs: tuple[LayerCost, LayerCost],
    file_bytes: tuple[int, int],
    times: list[Latency] | None,
) -> list[list]:
    """Metric | Before | After | Change."""
    rows = [["Metric", "Before", "After", "Change"]]
    if before and after:
        rows.append([map_name(before.options.iou_thres), f"{before.map50:.4f}", f"{after.map50:.4f}",
                     f"{after.map50 - before.map50:+.4f}"])
        rows.append(["  masked, not yet compact", "", f"{masked.map50:.4f}", f"{masked.map50 - before.map50:+.4f}"])
        for key, label in (("map", "AP@[.5:.95]"), ("precision", "precision"), ("recall", "recall")):
            rows.append([label, f"{getattr(before, key):.4f}", f"{getattr(after, key):.4f}",
                         f"{getattr(after, key) - getattr(before, key):+.4f}"])
    dense, slim = costs
    rows.append(
        ["parameters", f"{dense.parameters:,}", f"{slim.parameters:,}", change(dense.parameters, slim.parameters)]
    )
    rows.append(["weights file MB", *[f"{size / 1e6:.2f}" for size in file_bytes], change(*file_bytes)])
    rows.append(["MACs (G)", f"{dense.macs / 1e9:.3f}", f"{slim.macs / 1e9:.3f}", change(dense.macs, slim.macs)])
    rows.append(
        ["FLOPs (G, 2 x MACs)", f"{dense.macs / 5e8:.3f}", f"{slim.macs / 5e8:.3f}", change(dense.macs, slim.macs)]
    )
    if times:
        rows.append(["inference (quartiles)", *times, change(times[0].median, times[1].median)])
    return rows


def fold_row(fold: str, masked: EvalResult, compact: EvalResult) -> list:
    """What an inexact --fold costs in mAP: the compact net, its statistics as they were, against the masked one."""
    return [f"  compact, --fold {fold}, against it", "", f"{compact.map50:.4f}", f"{compact.map50 - masked.map50:+.4f}"]


def channel_rows(job: Job, compact: Compact) -> list[list]:
    """Layer | Channels before | after | of which carriers, for every prunable layer; with an inexact --fold also how
    far its output is off."""
    rows = [["Layer", "Channels", "Kept", "of them carriers"]]
    off = compact.by_layer
    if off:
        rows[0].append("off by (of its largest)")
    for layer_i in job.graph.prunable:
        carriers = compact.surgery.carriers.get(layer_i, 0)
        rows.append([layer_i, len(job.graph.outputs[layer_i]), len(compact.surgery.kept[layer_i]), carriers or ""])
        rows[-1] += [f"{off[layer_i]:.2g}"] if off else []
    return rows


def warn_about_speed(costs: tuple[LayerCost, LayerCost], times: list[Latency]) -> None:
    """Say why a net that lost most of its operations is not that much faster."""
    fewer, faster = costs[0].macs / costs[1].macs, times[0].median / times[1].median
    at_best = times[0].high / times[1].low
    if faster >= 0.6 * fewer:
        return
    why = ("thin layers spend their time in overhead and memory traffic, not in arithmetic; a larger input or a wider "
           "net gains more")
    if at_best >= 0.6 * fewer:
        why = "the times vary too much to tell: does something else run on this machine?"
    print(f"note: {fewer:.1f}x fewer operations made it {faster:.1f}x faster: {why}")


def prediction_words(job: Job, plan: Plan, times: list[Latency]) -> str:
    """--target-latency: a line on what was predicted of the compact net and what was measured; both by the dense net's
    time in this measurement."""
    if plan.predicted is None:
        return ""
    expected, found = plan.predicted * times[0].median, times[1].median
    return (f"{job.watch.runtime}: predicted {1e3 * expected:.2f} ms, measured {1e3 * found:.2f} ms "
            f"({100 * (found / expected - 1):+.1f} %)\n")


def write_outputs(job: Job, compact: Compact, names: OutputNames, after: EvalResult | None) -> None:
    """cfg and checkpoint for fine-tuning, the same weights under weights/, and the Darknet pair."""
    for path in (names.cfg, names.darknet_cfg):
        if path.exists() and path.resolve() == job.cfg.resolve():
            raise PruneError(f"{path}: would be written over its own input; choose another place with --out")
    net = compact.model
    net.seen = 0  # a start for fine-tuning: Darknet ends a training at once whose count of images is past max_batches
    net.module_defs = explicit(resized(net.module_defs, *job.size))
    content = weights_content(net, str(names.cfg), f"test_prune of {job.weights}", epoch=0, rescale=job.rescale,
                              map50=after.map50 if after else None, size=job.size, **job.about)
    # a pruning of the same names stays whole until this one is
    with nullcontext() if job.options.out else fixed_names(), one_step():
        keep_earlier(job, content)
        for path in (names.checkpoint, names.weights):
            save_checkpoint(path, content)
        # the checkpoint keeps the scale it trains well at
        words = export_darknet(net, job.rescale, names.darknet_weights, job.size, job.about.get("names"))
        write_model_config(names.cfg, net.module_defs)
        if compact.int8:
            compact.int8.write(int8_path(names.darknet_weights, job.options.int8))
    print(f"{names.darknet_weights}: {words}")
    for path in names.starts():  # an earlier tuning's; they belong to another pruning
        path.unlink(missing_ok=True)


def keep_earlier(job: Job, content: dict) -> None:
    """Say what the new pruning replaces, and keep what no run folder holds; the same pruning again replaces nothing."""
    names = job.names
    report = names.darknet_cfg.with_name(f"{names.darknet_cfg.stem}-report.json")
    starts = [path for path in names.starts() if path.is_file()]
    own = lambda old: not starts and same_weights(old, content)
    small = int8_path(names.darknet_weights, job.options.int8) if job.options.int8 else None
    others = [names.cfg, names.darknet_cfg, names.darknet_weights, report, *starts,
              *([small, small.with_suffix(".bin")] if small else [])]
    for line in keep_replaced([names.checkpoint, names.weights], own, others):
        print(line)


def gammas_by_fate(job: Job, plan: Plan, compact: Compact) -> dict[str, list[float]]:
    """|gamma| of all prunable channels: "kept", "carrier" (under the threshold, kept for the constants it carries),
    "cut"."""
    fates: dict[str, list[float]] = {"kept": [], "carrier": [], "cut": []}
    for layer_i, gammas in gammas_by_layer(job.model).items():
        if layer_i in job.graph.prunable:
            chosen = plan.masks[layer_i].cpu()
            stays = torch.zeros_like(chosen).index_fill(0, compact.surgery.kept[layer_i].cpu(), True)
            for fate, channels in (("kept", chosen), ("carrier", stays & ~chosen), ("cut", ~stays)):
                fates[fate] += gammas.abs().cpu()[channels].tolist()
    return fates


def gamma_threshold(job: Job, plan: Plan) -> float | None:
    """The |gamma| that channels were cut below; None where the importance was something else."""
    rule = job.options.rule
    return plan.cut.threshold if plan.score == "gamma" and rule.divisor == 1 and rule.group_norm != "l2" else None


def draw(job: Job, plan: Plan, compact: Compact, scores: dict[str, EvalResult | None], base: Path) -> None:
    """Pictures of this pruning, as `base`-gammas.png, -channels.png and, of nets that were scored, -pr.png."""
    layers, outputs, kept = job.graph.prunable, job.graph.outputs, compact.surgery.kept
    gammas = gammas_by_fate(job, plan, compact)
    plot_gammas(gammas, gamma_threshold(job, plan), base.with_name(base.name + "-gammas.png"))
    plot_channels(layers, [len(outputs[i]) for i in layers], [len(kept[i]) for i in layers],
                  base.with_name(base.name + "-channels.png"))
    before, after = scores["before"], scores["after"]
    if before and after:
        name = map_name(before.options.iou_thres)
        curves = {f"before: {name} {before.map50:.4f}": before.curve, f"pruned: {name} {after.map50:.4f}": after.curve}
        plot_pr_curves(curves, f"{job.cfg.stem} before and after pruning", base.with_name(base.name + "-pr.png"))


def write_channels(path: Path, rows: list[list]) -> None:
    """`channel_rows` as a CSV file."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def numbers(job: Job, plan: Plan, compact: Compact, scores: dict[str, EvalResult | None],
            times: list[Latency] | None) -> dict:
    """Everything that this pruning was asked for and found, ready for JSON."""
    return {
        "args": job.options.given | {"data": job.options.source.data, "recalibrate": job.options.recalibrate,
                                     "score": plan.score},
        "cfg": str(job.cfg),
        "weights": str(job.weights),
        "threshold": plan.cut.threshold,
        "share_cut": plan.share,
        "limit": plan.limit,
        "deviation": compact.deviation,
        "carried": compact.surgery.carried,
        "carriers": compact.surgery.carriers,
        "blocks_removed": [[b.stream + 1, b.shortcut] for b in job.blocks],
        "environment": environment(),
        "latency_backend": job.watch.runtime,
        "latency_predicted": plan.predicted,
        "latency_ms": [time.median * 1e3 for time in times] if times else None,
        "protocol": times[0].protocol if times else None,
        "int8": compact.int8.to_dict() if compact.int8 else None,
    } | {name: result.to_dict() if result else None for name, result in scores.items()}
