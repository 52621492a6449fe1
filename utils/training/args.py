"""train.py's command line and the options that it makes, for the script and for benchmarks that train as it does."""

import argparse
from dataclasses import dataclass
from typing import Callable, Mapping

from utils import cli, torchrun
from utils.data.args import ReadOptions
from utils.evaluation.args import ScoreOptions
from utils.families import BASES

DEFAULT_WEIGHTS = "weights/yolov3.weights"


@dataclass(frozen=True)
class Source:
    """The net, its start and the data, as the command line names them, and where and how images are fed to it."""

    cfg: str
    base: str | None  # of a cfg to make, as is its width
    width: float | None
    weights: str | None
    weights_named: bool  # rather than the default
    data: str
    class_path: str | None
    keep_classes: tuple[str, ...]
    img_size: int | None
    batch_size: int
    n_cpu: int
    device: str
    threads: int


@dataclass(frozen=True)
class StepOptions:
    """How many steps the optimiser takes, how large they are, and what they leave alone."""

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup: float
    accumulate: int
    clip: float
    ema: float
    amp: bool
    bf16: bool
    sync_bn: bool
    freeze: int
    rewind: int


@dataclass(frozen=True)
class LossChoices:
    """What is learnt: from labels, and from a teacher where there is one."""

    box_loss: str
    several_iou: float
    ignore_iou: float
    teacher_cfg: str | None
    teacher_weights: str | None
    distill_gain: float
    unlabelled: bool


@dataclass(frozen=True)
class ImageOptions:
    """How training images are varied."""

    augment: str
    mosaic: float
    multiscale_training: bool


@dataclass(frozen=True)
class SparsityOptions:
    """-sr: which gammas are penalised and how; see utils.training.sparsity."""

    sr: bool
    s: float
    sparsity: str
    s_schedule: str
    sparsity_weight: str
    rescale: str | float
    strategy: str
    percent: float
    target_flops: str | None = None  # as typed: checkpoints hold plain values
    target_params: str | None = None
    target_latency: str | None = None
    latency_backend: str | None = None

    @property
    def aimed(self) -> bool:
        """Whether s is found for a --target-..., not given."""
        return any((self.target_flops, self.target_params, self.target_latency))


@dataclass(frozen=True)
class OutputOptions:
    """Where the run lies, and what is written how often."""

    name: str | None
    resume: str | None
    evaluation_interval: int
    checkpoint_interval: int
    save_interval: int
    save_minutes: float
    save_on_signal: bool
    tensorboard: bool
    pictures: bool
    no_publish: bool


@dataclass(frozen=True)
class TrainOptions:
    """One run. given: the arguments, by their names, for args.json and --resume; typed: {name: flag} of those that the
    user typed."""

    source: Source
    read: ReadOptions
    images: ImageOptions
    steps: StepOptions
    loss: LossChoices
    sparsity: SparsityOptions
    output: OutputOptions
    scoring: ScoreOptions
    seed: int
    given: dict
    typed: dict[str, str]


def train_options(given: Mapping) -> TrainOptions:
    """The options that arguments, by their names, make."""
    args = argparse.Namespace(**given)
    kinds = {"source": Source, "read": ReadOptions, "images": ImageOptions, "steps": StepOptions, "loss": LossChoices,
             "sparsity": SparsityOptions, "output": OutputOptions, "scoring": ScoreOptions}
    grouped = {name: cli.options_of(kind, args) for name, kind in kinds.items()}
    return TrainOptions(**grouped, seed=args.seed, given=dict(given), typed=args.typed)


def train_parser(description: str = "") -> cli.Parser:
    """The flags of train.py."""
    p = cli.Parser(prog="train.py", description=description)
    model = p.add_argument_group("model and data")
    cli.add_model_flags(model, "config/yolov3-hand.cfg", None, f"to start from; none: from scratch "
                        f"(default: {DEFAULT_WEIGHTS}, if it exists and fits the cfg)")
    _add_new_cfg_flags(model)
    cli.add_data_flags(model)
    cli.add_keep_classes_flag(model, "of the data's classes these alone, such as person,car; boxes of others do not "
                              "count")
    cli.add_run_flags(model, batch_size=16)
    _add_training_flags(p.add_argument_group("training"))
    _add_loss_flags(p.add_argument_group("loss"))
    _add_augmentation_flags(p.add_argument_group("augmentation"))
    sparsity = p.add_argument_group("sparsity")
    _add_sparsity_flags(sparsity)
    _add_aim_flags(sparsity)
    _add_recovery_flags(p.add_argument_group("recovery of a pruned net"))
    _add_output_flags(p.add_argument_group("output"))
    return p


OF_SPARSITY = ("s", "sparsity", "s_schedule", "sparsity_weight", "rescale", "strategy", "percent")  # flags of -sr


def parse_train_args(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments of train.py; `weights_named` says whether --weights was given, `typed` which flags were."""
    p = train_parser(description)
    args = p.parse_args(argv)
    if bool(args.teacher_cfg) != bool(args.teacher_weights):
        p.error("--teacher-cfg and --teacher-weights belong together; found one of them")
    if args.unlabelled and not args.teacher_cfg:
        p.error("--unlabelled: found no teacher, expected --teacher-cfg and --teacher-weights")
    args.typed = p.typed(argv)
    if args.unlabelled:
        p.refuse_beside(args.typed, ["distill_gain", "box_loss", "several_iou", "ignore_iou"], "--unlabelled",
                        "the loss of labels, which they shape or weigh, is not taken")
    if args.bf16 and not args.amp:
        p.error("found --no-amp beside --bf16, expected one or the other: --bf16 asks for the mixed precision that "
                "--no-amp turns off")
    _check_aim(p, args)
    if not args.resume:  # which has the partner from the run that it goes on with
        idle = [args.typed[name] for name in OF_SPARSITY if name in args.typed]
        if idle and not args.sr and torchrun.rank() == 0:
            print(f"warning: {' and '.join(idle)} without -sr: this run will not push any gamma to zero")
        p.require_partner(args.typed, ["distill_gain"], "--teacher-cfg", bool(args.teacher_cfg))
        _warn_of_rates(args)
    if "cfg" in args.typed:
        p.refuse_beside(args.typed, ["base", "width"], args.typed["cfg"], "they make a cfg")
    args.weights_named = "weights" in args.typed
    args.weights = None if args.weights == "none" else args.weights or DEFAULT_WEIGHTS
    return args


def _warn_of_rates(args: argparse.Namespace) -> None:
    """Say where the learning rate will not go the way that the flags suggest."""
    if args.warmup > max(args.epochs, args.rewind):
        print(f"warning: --warmup {args.warmup:g} with --epochs {args.epochs}: in this run the learning rate only "
              "rises, and does not reach --lr")
    if 0 < args.rewind <= args.epochs:
        print(f"warning: --rewind {args.rewind} with --epochs {args.epochs}: it says nothing, expected more epochs "
              "than this run has, of whose rates it takes the last")


def _check_aim(p: cli.Parser, args: argparse.Namespace) -> None:
    """End with a line where --target-... stands without -sr, or beside what it finds itself."""
    aims = [args.typed[name] for name in ("target_flops", "target_params", "target_latency") if name in args.typed]
    if "latency_backend" in args.typed and "target_latency" not in args.typed:
        p.error(f"found {args.typed['latency_backend']} without --target-latency, expected both: it says whose time "
                "counts")
    if aims and not args.sr:
        p.error(f"found {' and '.join(aims)} without -sr, expected -sr: they say what sparse training is for")
    if aims:
        p.refuse_beside(args.typed, ["s", "s_schedule", "percent"], " and ".join(aims),
                        "s and its course are found for the target")
    if aims and args.sparsity == "l1":
        p.error(f"found --sparsity l1 beside {' and '.join(aims)}, expected prox or polarize: the sub-gradient leaves "
                "gammas trembling round 0, which no s ends")


def _add_new_cfg_flags(model) -> None:
    model.add_argument("--base", choices=tuple(BASES),
                       help="make a cfg of this net for the classes and box sizes of --data (default, where no --cfg "
                       "is given and the data's classes are not those of the default: yolov3-tiny --width 0.5)")
    model.add_argument("--width", type=cli.width_multiplier, metavar="FACTOR",
                       help="of the cfg that is made: times the filters of every layer but the heads")


def _add_training_flags(t) -> None:
    t.add_argument("--epochs", type=cli.epochs, default=100, help="passes over the training images")
    t.add_argument("--learning_rate", "-lr", "--lr", dest="lr", type=cli.strength, default=1e-3,
                   help="learning rate after warm-up, the highest of the run")
    t.add_argument("--momentum", type=cli.fraction, default=0.9, help="Nesterov momentum of SGD")
    t.add_argument("--weight_decay", type=cli.ratio, default=5e-4, help="L2 penalty, of convolution kernels only")
    t.add_argument("--schedule", choices=("cosine", "steps", "constant"), default="cosine",
                   help="how the learning rate falls after warm-up; cosine: to a hundredth; steps: to a tenth after "
                   "80 %% of the run and again after 90 %%")
    t.add_argument("--warmup", type=cli.amount, default=1.0, metavar="EPOCHS",
                   help="epochs in which the learning rate rises from 0")
    t.add_argument("--accumulate", type=cli.positive_int, default=1, metavar="N", help="batches per optimiser step")
    t.add_argument("--clip", type=cli.amount, default=500.0, metavar="NORM",
                   help="gradients of a larger norm are scaled down to it; 0: never (usual norms: about 100)")
    t.add_argument("--ema", type=cli.fraction, default=0.998, metavar="DECAY",
                   help="decay of the moving average of weights that is scored and saved; 0: no average")
    t.add_argument("--amp", action=argparse.BooleanOptionalAction, default=True, help="mixed precision, on a GPU")
    t.add_argument("--bf16", action="store_true",
                   help="mixed precision in bfloat16, on a CPU too: steps up to twice as fast where it computes with "
                   "bfloat16 (AMX, AMD's AVX-512 BF16); the run says where it is slower")
    t.add_argument("--sync-bn", action=argparse.BooleanOptionalAction, default=True,
                   help="of several processes (torchrun): batch norms take mean and variance over the images of all, "
                   "as one process would")
    t.add_argument("--freeze", type=cli.layers, default=0, metavar="N", help="do not train layers 0 to N-1")
    t.add_argument("--seed", type=cli.seed, default=0, help="of initial weights, image order and augmentation")


def _add_loss_flags(loss) -> None:
    loss.add_argument("--box_loss", choices=("ciou", "mse"), default="ciou",
                      help="ciou: complete IoU; mse: squared errors of x, y, w, h as in Darknet")
    loss.add_argument("--several_iou", type=cli.ratio, default=0.4, metavar="IOU",
                      help="every anchor whose IoU with a box is this or more learns it; 1: the best anchor alone, as "
                      "in YOLOv3")
    loss.add_argument("--ignore_iou", type=cli.ratio, default=0.7, metavar="IOU",
                      help="predictions above this IoU with any box are ignored in the objectness loss")


def _add_augmentation_flags(a) -> None:
    a.add_argument("--augment", choices=("none", "flip", "standard", "strong"), default="standard",
                   help="standard: flip, scale, translate, HSV; strong: more of each, close-ups, grey and blurred "
                   "pictures")
    a.add_argument("--mosaic", type=cli.ratio, default=0.0, metavar="P",
                   help="share of training images that are composed of four")
    a.add_argument("--multiscale_training", action="store_true", help="a random input size for every batch")


def _add_sparsity_flags(s) -> None:
    s.add_argument("-sr", "--sparsity-regularization", dest="sr", action="store_true",
                   help="penalise batch-norm gammas, so that channels can be pruned")
    # -s is declared so that argparse does not read it as a short form of -sr
    s.add_argument("--s", "-s", dest="s", type=cli.strength, default=0.01, metavar="LAMBDA",
                   help="strength of -sr")
    s.add_argument("--sparsity", choices=("l1", "prox", "polarize"), default="prox",
                   help="prox: L1 by a soft threshold after each step, which gives exact zeros; l1: L1 by its "
                   "sub-gradient; polarize: pushes small gammas to 0 and leaves large ones (Zhuang et al. 2020)")
    s.add_argument("--s-schedule", choices=("constant", "decay", "ease"), default="constant",
                   help="decay: s falls to 0 over the run; ease: s falls to 0 over the second half, but only for "
                   "channels whose gamma is not 0 by then")
    s.add_argument("--sparsity-weight", choices=("none", "flops"), default="none",
                   help="penalise costly channels more: s times the root of the FLOPs that a channel takes")
    s.add_argument("--rescale", type=cli.rescaling, default="auto", metavar="none|auto|ALPHA",
                   help="under -sr, first multiply all gammas by ALPHA without changing what the net computes; "
                   "without it a short run at a given s selects no channels; auto: 0.05, if the activations allow it, "
                   "but none where s is found for a --target-...")
    s.add_argument("--strategy", choices=("group", "skip"), default="group",
                   help="which layers -sr penalises; group: all that test_prune.py can prune; skip: those of the "
                   "reference implementation, nothing that feeds a shortcut or an upsample")
    s.add_argument("--percent", type=cli.fraction, default=0.85,
                   help="share of channels that the sparsity is judged for, after every epoch")


def _as_typed(check: Callable[[str], object]) -> Callable[[str], str]:
    """argparse type: checked, and left as it was typed."""
    def text_of(text: str) -> str:
        check(text)
        return text
    return text_of


def _add_aim_flags(s) -> None:
    s.add_argument("--target-flops", type=_as_typed(cli.size_target), metavar="X",
                   help="-sr: find s on the way, so that the mildest cut with at most X FLOPs (2 x MACs; 0.3 or 2.5G) "
                   "costs nothing at the end; give test_prune.py the same flag")
    s.add_argument("--target-params", type=_as_typed(cli.size_target), metavar="X",
                   help="-sr: the same for at most X parameters, as a ratio (0.2) or a count (1.2M)")
    s.add_argument("--target-latency", type=_as_typed(cli.time_target), metavar="X",
                   help="-sr: the same for widths and residual blocks that take at most X, 0.5 or 12ms, in the runtime "
                   "of --latency-backend; measured on this machine before the first step, with --threads threads")
    s.add_argument("--latency-backend", choices=("openvino", "onnxruntime", "torch"),
                   help="the runtime whose time --target-latency is (default: the first of them that is installed, on "
                   "a GPU torch); openvino and onnxruntime: on the CPU, whatever --device says")


def _add_recovery_flags(r) -> None:
    r.add_argument("--teacher-cfg", metavar="CFG", help="fine-tuning also learns from this net, the dense one")
    r.add_argument("--teacher-weights", metavar="FILE", help="weights of the teacher")
    r.add_argument("--distill-gain", type=cli.positive_float, default=1.0,
                   help="weight of the teacher's loss, that of the labels being 1; the two are averaged, so that --lr "
                   "means the same with a teacher")
    r.add_argument("--unlabelled", action="store_true",
                   help="learn from the teacher's maps alone, and score by its boxes (also without this flag, where no "
                   "image has a label)")
    r.add_argument("--rewind", type=cli.count, default=0, metavar="N",
                   help="learning-rate rewinding: the learning rate is that of the last --epochs of a run of N epochs "
                   "(Renda et al. 2020)")


def _add_output_flags(o) -> None:
    o.add_argument("--name", type=cli.run_name, metavar="RUN",
                   help="folder under logs/ (default: from the cfg and the time)")
    o.add_argument("--resume", metavar="RUN", help="run folder to go on with, by the arguments it was begun with")
    o.add_argument("--evaluation_interval", type=cli.positive_int, default=1, metavar="EPOCHS",
                   help="score after every EPOCHS epochs, and after the last")
    o.add_argument("--checkpoint_interval", type=cli.count, default=0, metavar="EPOCHS",
                   help="keep a numbered checkpoint of every EPOCHS epochs; 0: only the last and the best")
    o.add_argument("--save_interval", type=cli.positive_int, default=1, metavar="EPOCHS",
                   help="write last.pth after every EPOCHS epochs, after the best and the last: on a GPU an epoch may "
                   "take no longer than writing a large net")
    o.add_argument("--save-minutes", type=cli.amount, default=10.0, metavar="MINUTES",
                   help="also save within an epoch, after so many minutes: what is lost when the machine goes down; 0: "
                   "after whole epochs only")
    o.add_argument("--save-on-signal", action=argparse.BooleanOptionalAction, default=True,
                   help="when told to end (Ctrl-C, SIGTERM, SIGHUP), first save after the step under way, for --resume")
    o.add_argument("--tensorboard", action="store_true", help="also write numbers and gamma histograms for TensorBoard")
    o.add_argument("--no-pictures", dest="pictures", action="store_false",
                   help="leave out the pictures of labels, batches, detections and confused classes in the run folder")
    o.add_argument("--no-publish", action="store_true",
                   help="write to the run folder only, not to checkpoints/ and weights/")
    cli.add_score_flags(o)
