"""The steps of test_prune.py, from a trained net to a verified compact one and its files."""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from models import Darknet
from utils import cli, sparsity
from utils.checkpoint import load_weights, save_checkpoint, weights_content
from utils.datasets import evaluation_loader
from utils.evaluate import ScoreOptions, evaluate
from utils.metrics import EvalResult
from utils.parse_config import write_model_config
from utils.plots import plot_channels, plot_gammas
from utils.profile import Latency, compare_latency
from utils.prune_graph import ChannelGraph, channel_graph
from utils.prune_masks import Cut, candidates, global_threshold, group_scores, obtain_filters_mask, percent_limit
from utils.prune_surgery import Surgery, compact_net, masked_state
from utils.rescale import rescale_gammas
from utils.run_folder import environment
from utils.setup import dataset, model_and_data
from utils.shapes import LayerCost, total_cost
from utils.tables import ascii_table, change, markdown_table

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
    model: Darknet
    graph: ChannelGraph
    size: tuple[int, int]
    names: tuple[str, ...]
    loader: object | None
    options: ScoreOptions


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

    model: Darknet
    surgery: Surgery
    deviation: float


def load(args: argparse.Namespace) -> Job:
    """Build and load the net of --cfg and --weights; undo a rescaling that its gammas still carry."""
    cfg, defs, data = model_and_data(args)
    device = cli.select_device(args.device, args.threads)
    model = Darknet(defs)
    weights = Path(args.weights or f"checkpoints/{cli.stem(cfg)}_ckpt.pth")
    words, content = load_weights(model, weights, strict=False)
    if "heads" in words:
        print(f"warning: {weights}: {words}; its mAP means nothing before training")
    if (factor := content.get("rescale", 1.0)) != 1.0:
        rescale_gammas(model, 1 / factor)
    graph = channel_graph(model.module_defs, args.strategy)
    if not graph.prunable:
        raise PruneError(f"{cfg}: no layer can be pruned with --strategy {args.strategy}")
    size = cli.input_size(args, defs)
    loader = None
    if not args.no_eval:
        loader = evaluation_loader(dataset(args, data, "valid", size), args.batch_size, args.n_cpu)
    options = ScoreOptions(args.conf_thres, args.nms_thres, args.iou_thres, scorer=args.scorer)
    print(f"{cfg}, {weights}: {words}")
    return Job(args, cfg, weights, model.eval().to(device), graph, size, data.names, loader, options)


def gammas_by_layer(model: Darknet) -> dict[int, torch.Tensor]:
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
    free, words = sparsity.describe_sparsity([gammas_by_layer(job.model)[i] for i in graph.prunable], args.percent)
    print(words)
    if not free:
        print(f"warning: the gammas of {job.weights} are not sparse enough for percent {args.percent:g}; train them first:\n"
              f"  python train.py --model_def {job.cfg} -pre {job.weights} -sr --s 0.01 --sparsity prox --rescale auto")
    if plan.cut.rescued:
        print(f"warning: percent {args.percent:g} is above the limit: layers {', '.join(map(str, plan.cut.rescued))} keep one channel each")


def eval_model(job: Job, model: Darknet, label: str) -> EvalResult | None:
    """Score a net on the validation images and print one line; None with --no-eval."""
    if job.loader is None:
        return None
    result = evaluate(model, job.loader, job.names, job.options)
    print(f"{label}: mAP {result.map50:.4f}  AP {result.map:.4f}  P {result.precision:.3f}  R {result.recall:.3f}", flush=True)
    return result


def masked_model(job: Job, plan: Plan) -> Darknet:
    """A copy of the net whose removed channels have gamma 0: what the compact one must reproduce."""
    masked = Darknet(job.model.module_defs)
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
    model = Darknet(surgery.module_defs).eval().to(device)
    model.load_state_dict(surgery.state)
    model.seen = job.model.seen
    masked = masked_model(job, plan)
    worst = deviation(masked, model, job.size)
    if worst > TOLERANCE:  # rounding, or a wrong net? float64 tells
        worst = deviation(masked.double(), model.double(), job.size)
        model.load_state_dict(surgery.state)
        model.float()
        if worst > TOLERANCE_DOUBLE and job.args.fold == "exact":
            raise PruneError(f"the compact net differs from the masked one by {worst:.3g} of the largest raw value, expected at most "
                             f"{TOLERANCE_DOUBLE:g} in float64; nothing was written")
    print(f"compact net verified: differs from the masked one by at most {worst:.2g} of the largest raw value"
          if job.args.fold == "exact" else f"--fold {job.args.fold}: the compact net differs from the masked one by up to {worst:.2g} "
          "of the largest raw value")
    return Compact(model, surgery, worst)


@torch.inference_mode()
def deviation(one: Darknet, other: Darknet, size: tuple[int, int]) -> float:
    """Largest difference between two nets' raw maps on a random image, over all heads and places, relative to the largest value."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, size[1], size[0], generator=generator).to(next(one.parameters()))
    pairs = zip(one.raw_maps(image), other.raw_maps(image))
    return max(((a - b).abs().max() / a.abs().max().clamp(min=1e-12)).item() for a, b in pairs)


@dataclass(frozen=True)
class OutputNames:
    """The files of one pruning."""

    cfg: Path
    checkpoint: Path
    weights: Path
    darknet_cfg: Path
    darknet_weights: Path

    @classmethod
    def of(cls, cfg: Path, out: Path | None) -> "OutputNames":
        """Fixed names for the n-th pruning of `cfg`: prune_NAME, prune2_NAME, ...; below `out` when given."""
        name, times = cli.pruned_name(cfg)
        number = str(times + 1) if times else ""
        stem = name.replace("-hand", "")
        at = lambda folder: (out if out else Path(folder))
        pth = f"prune{number}_{stem}_ckpt.pth"
        checkpoint = out / "checkpoints" / pth if out else Path("checkpoints") / pth
        return cls(at("config") / f"prune{number}_{name}.cfg", checkpoint, at("weights") / pth,
                   at("pruned") / f"{stem}-pruned{number}.cfg", at("pruned") / f"{stem}-pruned{number}.weights")


def compare(job: Job, plan: Plan, compact: Compact, before, masked, after) -> None:
    """Print the tables, write every file and say what comes next."""
    names = OutputNames.of(job.cfg, job.args.out)
    write_outputs(job, compact, names, after)
    times = compare_latency([job.model, compact.model], job.size, job.args.repeats) if job.args.repeats else None
    file_bytes = darknet_bytes(job.model), names.darknet_weights.stat().st_size
    costs = total_cost(job.model.module_defs, *job.size), total_cost(compact.model.module_defs, *job.size)
    rows = comparison_rows(before, masked, after, costs, file_bytes, times)
    print(ascii_table(channel_rows(job, compact)))
    print(ascii_table(rows))
    if times:
        print(f"inference: {times[0].protocol}")
        warn_about_speed(costs, times)
    write_report(job, plan, compact, names, rows, times, (before, masked, after))
    print(f"written: {names.cfg}, {names.checkpoint}, {names.weights}, {names.darknet_cfg}, {names.darknet_weights}")
    print(f"next: python train.py --model_def {names.cfg} -pre {names.checkpoint} --data {job.args.data}")


def darknet_bytes(model: Darknet) -> int:
    """Size of the model's .weights file."""
    tensors = [value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")]
    return 20 + 4 * sum(tensor.numel() for tensor in tensors)


def comparison_rows(before: EvalResult | None, masked: EvalResult | None, after: EvalResult | None,
                    costs: tuple[LayerCost, LayerCost], file_bytes: tuple[int, int], times: list[Latency] | None) -> list[list]:
    """Metric | Before | After | Ratio."""
    rows = [["Metric", "Before", "After", "Change"]]
    if before and after:
        rows.append(["mAP@.5", f"{before.map50:.4f}", f"{after.map50:.4f}", f"{after.map50 - before.map50:+.4f}"])
        rows.append(["  masked, not yet compact", "", f"{masked.map50:.4f}", f"{masked.map50 - before.map50:+.4f}"])
        for key, label in (("map", "AP@[.5:.95]"), ("precision", "precision"), ("recall", "recall")):
            rows.append([label, f"{getattr(before, key):.4f}", f"{getattr(after, key):.4f}",
                         f"{getattr(after, key) - getattr(before, key):+.4f}"])
    dense, slim = costs
    rows.append(["parameters", f"{dense.parameters:,}", f"{slim.parameters:,}", change(dense.parameters, slim.parameters)])
    rows.append(["weights file MB", *[f"{size / 1e6:.2f}" for size in file_bytes], change(*file_bytes)])
    rows.append(["MACs (G)", f"{dense.macs / 1e9:.3f}", f"{slim.macs / 1e9:.3f}", change(dense.macs, slim.macs)])
    rows.append(["FLOPs (G, 2 x MACs)", f"{dense.macs / 5e8:.3f}", f"{slim.macs / 5e8:.3f}", change(dense.macs, slim.macs)])
    if times:
        rows.append(["inference ms (quartiles)", *[str(time)[:-1].replace(" ms", "") + ")" for time in times],
                     change(times[0].median, times[1].median)])
    return rows


def channel_rows(job: Job, compact: Compact) -> list[list]:
    """Layer | Channels before | after | of which carriers, for every prunable layer."""
    rows = [["Layer", "Channels", "Kept", "of them carriers"]]
    for layer_i in job.graph.prunable:
        carriers = compact.surgery.carriers.get(layer_i, 0)
        rows.append([layer_i, len(job.graph.outputs[layer_i]), len(compact.surgery.kept[layer_i]), carriers or ""])
    return rows


def warn_about_speed(costs: tuple[LayerCost, LayerCost], times: list[Latency]) -> None:
    """Say why a net that lost most of its operations is not that much faster."""
    fewer, faster = costs[0].macs / costs[1].macs, times[0].median / times[1].median
    if faster < 0.6 * fewer:
        print(f"note: {fewer:.1f}x fewer operations made it {faster:.1f}x faster: thin layers spend their time in overhead and memory "
              "traffic, not in arithmetic; a larger input or a wider net gains more")


def write_outputs(job: Job, compact: Compact, names: OutputNames, after: EvalResult | None) -> None:
    """cfg and checkpoint for fine-tuning, the same weights under weights/, and the Darknet pair."""
    for path in (names.cfg, names.darknet_cfg):
        if path.exists() and path.resolve() == job.cfg.resolve():
            raise PruneError(f"{path}: would be written over its own input; choose another place with --out")
    content = weights_content(compact.model, str(names.cfg), f"test_prune of {job.weights}", epoch=0, rescale=1.0,
                              map50=after.map50 if after else None)
    write_model_config(names.cfg, compact.model.module_defs)
    write_model_config(names.darknet_cfg, compact.model.module_defs)
    compact.model.save_darknet_weights(names.darknet_weights)
    for path in (names.checkpoint, names.weights):
        save_checkpoint(path, content)


def write_report(job: Job, plan: Plan, compact: Compact, names: OutputNames, rows, times, results) -> None:
    """Pictures, tables and numbers of this pruning, beside the Darknet pair."""
    base = names.darknet_cfg.with_suffix("")
    gammas = [gammas_by_layer(job.model)[i].cpu() for i in job.graph.prunable]
    plot_gammas(gammas, plan.cut.threshold, base.with_name(base.name + "-gammas.png"))
    layers = job.graph.prunable
    plot_channels(layers, [len(job.graph.outputs[i]) for i in layers], [len(compact.surgery.kept[i]) for i in layers],
                  base.with_name(base.name + "-channels.png"))
    with open(base.with_name(base.name + "-channels.csv"), "w", newline="") as file:
        csv.writer(file).writerows(channel_rows(job, compact))
    base.with_name(base.name + "-table.md").write_text(markdown_table(rows) + "\n")
    report = {"args": {key: str(value) if isinstance(value, Path) else value for key, value in vars(job.args).items()},
              "cfg": str(job.cfg), "weights": str(job.weights), "threshold": plan.cut.threshold, "share_cut": plan.share,
              "limit": plan.limit, "deviation": compact.deviation, "carried": compact.surgery.carried,
              "carriers": compact.surgery.carriers, "environment": environment(),
              "latency_ms": [time.median * 1e3 for time in times] if times else None,
              "protocol": times[0].protocol if times else None}
    for label, result in zip(("before", "masked", "after"), results):
        report[label] = result.to_dict() if result else None
    base.with_name(base.name + "-report.json").write_text(json.dumps(report, indent=1) + "\n")
