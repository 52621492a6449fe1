"""The command line of test_prune.py and the options that it makes, for the script and for benchmarks that prune as it
does."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from utils import cli
from utils.data.args import ReadOptions
from utils.evaluation.args import ScoreOptions

INT8_FORMATS = ("openvino", "onnx")  # default first
TARGETS = ("target_params", "target_flops", "target_latency")
RECALIBRATION_BATCHES = 20  # after a search, unless --recalibrate says otherwise


@dataclass(frozen=True)
class Source:
    """The net and the data, as the command line names them, and where and how images are fed to it."""

    cfg: str
    weights: str | None
    data: str | None
    class_path: str | None
    img_size: int | None
    batch_size: int
    n_cpu: int
    device: str
    threads: int
    keep_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CutRule:
    """What goes: by which importance, what stays in any case, and what becomes of removed constants."""

    percent: float
    strategy: str
    score: str | None
    group_norm: str
    layer_keep: float
    divisor: int
    layers: int
    fold: str

    @property
    def importance(self) -> str:
        """--score, |gamma| where it was left open."""
        return self.score or "gamma"

    @property
    def exact(self) -> bool:
        """Whether the compact net computes what the masked one does."""
        return self.fold == "exact"


@dataclass(frozen=True)
class Aims:
    """What a search looks for in the place of --percent."""

    target_params: cli.Target | None
    target_flops: cli.Target | None
    target_latency: cli.Target | None
    max_drop: float | None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(aim is not None for aim in (self.target_params, self.target_flops, self.target_latency,
                                               self.max_drop))

    @property
    def size_alone(self) -> bool:
        """Whether sizes alone say how much is cut."""
        return bool(self.of_size) and self.target_latency is None and self.max_drop is None

    @property
    def of_size(self) -> list[str]:
        """The flags that count sizes, with their values."""
        return _words({"--target-flops": self.target_flops, "--target-params": self.target_params})

    def of_sparsity(self, backend: str | None) -> list[str]:
        """The flags that sparse training finds its s for, with their values. backend: of --latency-backend."""
        latency = _words({"--target-latency": self.target_latency})
        return [*self.of_size, *latency, *(["--latency-backend", backend] if latency and backend else [])]


def _words(targets: dict[str, cli.Target | None]) -> list[str]:
    """Of the flags that have one."""
    return [word for flag, target in targets.items() if target is not None for word in (flag, target.text)]


@dataclass(frozen=True)
class PruneOptions:
    """One pruning. given: the arguments, by their names, for the report; int8: format of the file in 8-bit numbers;
    limit: --max-drop, also where it says nothing of the cut itself; typed: names of the arguments that were given."""

    source: Source
    read: ReadOptions
    rule: CutRule
    aims: Aims
    scoring: ScoreOptions
    latency_backend: str | None
    recalibrate: int | None
    steps: int
    tune: str
    road: bool
    sparse: str
    quantise: str
    curve: int
    sensitivity: int
    out: Path | None
    repeats: int
    no_eval: bool
    given: dict
    unlabelled: bool = False
    int8: str | None = None
    calibration: int = 192
    limit: float | None = None
    typed: frozenset = frozenset()

    @property
    def in_steps(self) -> bool:
        """Whether cuts are fine-tuned: --steps, or --tune alone for a single cut."""
        return self.steps > 1 or "tune" in self.typed

    @property
    def recalibration_batches(self) -> int:
        """--recalibrate, or its default for the cut itself."""
        if self.recalibrate is not None:
            return self.recalibrate
        return RECALIBRATION_BATCHES if self.aims.any and not self.no_eval else 0

    @property
    def candidate_batches(self) -> int:
        """--recalibrate, or its default for nets that are only compared (--max-drop, --curve)."""
        return RECALIBRATION_BATCHES if self.recalibrate is None else self.recalibrate


def prune_options(args: argparse.Namespace) -> PruneOptions:
    """The options that parsed arguments make."""
    kinds = {"source": Source, "read": ReadOptions, "rule": CutRule, "aims": Aims, "scoring": ScoreOptions}
    grouped = {name: cli.options_of(kind, args) for name, kind in kinds.items()}
    given = {name: value for name, value in vars(args).items() if name != "typed"}
    options = cli.options_of(PruneOptions, argparse.Namespace(**vars(args), **grouped, given=given,
                                                              limit=args.max_drop))
    if limits_the_end_alone(options):
        return replace(options, aims=replace(options.aims, max_drop=None))
    return options


def limits_the_end_alone(options: PruneOptions) -> bool:
    """Whether --max-drop does not look for the cut, but only limits what the net in 8 bits loses: with --int8, where
    another flag says how much is cut and, if that is a target, fine-tuning follows."""
    by_target = options.typed & set(TARGETS)
    tuned = options.in_steps or options.road
    return bool(options.int8) and ("percent" in options.typed or tuned and bool(by_target))


def parse_prune_args(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of test_prune.py."""
    p = cli.Parser(description=description, allow_abbrev=False)
    model = p.add_argument_group("model and data")
    cli.add_model_flags(model, "config/yolov3-hand.cfg", None, "to prune (default: checkpoints/STEM_ckpt.pth)")
    cli.add_data_flags(model, trained=True)
    cli.add_keep_classes_flag(model, "first cut the heads to these classes, such as person,car; --data may have all of "
                              "the net's classes or these")
    cli.add_run_flags(model, batch_size=16)
    _add_cut_flags(p.add_argument_group("what goes"))
    _add_aim_flags(p.add_argument_group("aim (instead of --percent)"))
    _add_step_flags(p.add_argument_group("in steps"))
    _add_look_flags(p.add_argument_group("look around"))
    _add_int8_flags(p.add_argument_group("8-bit numbers"))
    _add_output_flags(p.add_argument_group("output"))
    args = p.parse_args(argv)
    typed = p.typed(argv)
    p.require_partner(typed, ["sparse", "quantise"], "--road", args.road)
    p.require_partner(typed, ["calibration"], "--int8", bool(args.int8))
    searched = TARGETS if args.int8 else (*TARGETS, "max_drop")  # with --int8 it may be a limit alone
    if aims := [typed[name] for name in searched if name in typed]:
        p.refuse_beside(typed, ["percent"], " and ".join(aims), "both say how much is cut")
    if args.score in ("taylor", "random"):
        p.refuse_beside(typed, ["group_norm"], f"--score {args.score}",
                        "only importances of single channels, by gammas or kernels, are made one by it")
    args.typed = frozenset(typed)
    return args


def _add_cut_flags(cut) -> None:
    cut.add_argument("--percent", type=cli.fraction, default=0.85, help="share of the prunable channels to remove")
    cut.add_argument("--strategy", choices=("group", "skip"), default="group",
                     help="group: channels coupled by shortcuts, depthwise convolutions or conv groups are cut "
                     "together; skip: the reference implementation's rule, nothing that feeds a shortcut or an "
                     "upsample")
    cut.add_argument("--score", choices=("gamma", "gamma-norm", "taylor", "l1", "l2", "random"),
                     help="importance of a channel; gamma: |gamma|; gamma-norm: divided by its layer's mean; taylor: "
                     "first-order change of the loss; l1, l2: norm of its kernel; random: chance, for comparison "
                     "(default: gamma; with a size as the only target the better of gamma and gamma-norm)")
    cut.add_argument("--unlabelled", action="store_true",
                     help="the boxes that the dense net finds are the labels, for --score taylor and every mAP, which "
                     "then is agreement with the dense net")
    cut.add_argument("--group-norm", choices=("max", "mean", "l2"), default="max",
                     help="how the importances of coupled channels become one")
    cut.add_argument("--layer-keep", type=cli.fraction, default=0.0, metavar="SHARE",
                     help="every layer keeps at least this share of its channels")
    cut.add_argument("--divisor", type=cli.positive_int, default=1, metavar="N",
                     help="every layer keeps a multiple of N channels, those of the highest importance")
    cut.add_argument("--layers", type=cli.layers, default=0, metavar="N",
                     help="first remove the N least important residual blocks as a whole")
    cut.add_argument("--fold", choices=("exact", "bias"), default="exact",
                     help="what becomes of the constants that removed channels emit; exact: nothing changes; bias: "
                     "the reference implementation's way, inexact at the border of padded convolutions")


def _add_aim_flags(aim) -> None:
    aim.add_argument("--target-params", type=cli.size_target, metavar="X",
                     help="the mildest cut with at most X parameters, as a ratio (0.2) or a count (1.2M)")
    aim.add_argument("--target-flops", type=cli.size_target, metavar="X",
                     help="the mildest cut with at most X FLOPs (2 x MACs): 0.3 or 2.5G")
    aim.add_argument("--target-latency", type=cli.time_target, metavar="X",
                     help="the widths and residual blocks of the highest importance whose forward pass is measured to "
                     "take at most X: 0.5 or 12ms, in the runtime of --latency-backend")
    aim.add_argument("--latency-backend", choices=("openvino", "onnxruntime", "torch"),
                     help="the runtime whose time counts (default: with --target-latency the first of them that is "
                     "installed, on a GPU torch; otherwise torch); openvino and onnxruntime: on the CPU, whatever "
                     "--device says; times of single convolutions are measured once per processor and remembered")
    aim.add_argument("--max-drop", type=cli.ratio, metavar="D",
                     help="the strongest cut that loses at most D of mAP before fine-tuning, after recalibration of "
                     "the batch-norm statistics (with --steps: in each step)")
    aim.add_argument("--recalibrate", type=cli.count, metavar="BATCHES",
                     help="measure the batch-norm statistics of the pruned net anew on so many training batches "
                     "(default: 20 after any search, --target-... or --max-drop, where the net scores more with them, "
                     "and for the cuts of --curve; 0 after --percent and with --no-eval)")


def _add_step_flags(step) -> None:
    step.add_argument("--steps", type=cli.positive_int, default=1, metavar="N",
                      help="prune in N parts and fine-tune after each; the same command goes on where it was stopped")
    step.add_argument("--tune", default="--epochs 10 --lr 1e-3", metavar="FLAGS",
                      help="flags of train.py for the fine-tuning after each step; without --steps: after the one cut")
    step.add_argument("--road", action="store_true",
                      help="the whole road from a dense net: sparse training, this cut (in --steps), fine-tuning with "
                      "the dense net as teacher, quantisation, table; the same command goes on where it was stopped")
    step.add_argument("--sparse", default="--epochs 20", metavar="FLAGS",
                      help="--road: flags of train.py for the sparse training; without --s it is found for the "
                      "--target-...")
    step.add_argument("--quantise", default="--format onnx --precision int8", metavar="FLAGS",
                      help="--road: flags of export.py for the tuned net; none: leave it as it is")


def _add_look_flags(look) -> None:
    look.add_argument("--curve", type=cli.count, default=0, metavar="N",
                      help="also score N cuts from mild to strong; writes a CSV and a PNG")
    look.add_argument("--sensitivity", type=cli.count, default=0, metavar="IMAGES",
                      help="also cut each layer alone and score the net on so many images; writes a CSV and a heat map")


def _add_int8_flags(o) -> None:
    o.add_argument("--int8", nargs="?", const=INT8_FORMATS[0], choices=INT8_FORMATS, metavar="FORMAT",
                   help=f"write the pruned (and tuned) net in 8-bit numbers as well, as {' or '.join(INT8_FORMATS)} "
                   f"({INT8_FORMATS[0]} where no format is named). --max-drop then counts from the net as loaded to "
                   "this file; with --percent, or with a --target-... and fine-tuning, it limits that alone")
    o.add_argument("--calibration", type=cli.positive_int, default=192, metavar="N",
                   help="--int8: training images that set the ranges")


def _add_output_flags(o) -> None:
    o.add_argument("--out", type=cli.out_folder, metavar="DIR",
                   help="put all files there instead of config/, checkpoints/, weights/ and pruned/")
    o.add_argument("--repeats", type=cli.count, default=20, metavar="N", help="forward passes to time; 0: none")
    o.add_argument("--no-eval", action="store_true", help="write the pruned net without scoring it")
    cli.add_score_flags(o)
