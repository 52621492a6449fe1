"""train.py's command line, apart from the script, so that benchmarks train with the same flags."""

import argparse

from utils import cli

DEFAULT_WEIGHTS = "weights/yolov3.weights"


def parse_train_args(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments of train.py; `weights_named` says whether --weights was given."""
    p = argparse.ArgumentParser(prog="train.py", description=description, formatter_class=cli.HelpFormatter)
    model = p.add_argument_group("model and data")
    cli.add_model_flags(model, "config/yolov3-hand.cfg", None, f"to start from (default: {DEFAULT_WEIGHTS} where it is there and fits); none: from scratch")
    cli.add_data_flags(model)
    cli.add_run_flags(model, batch_size=16)
    _add_training_flags(p.add_argument_group("training"))
    _add_loss_flags(p.add_argument_group("loss"))
    _add_augmentation_flags(p.add_argument_group("augmentation"))
    _add_sparsity_flags(p.add_argument_group("sparsity"))
    _add_recovery_flags(p.add_argument_group("recovery of a pruned net"))
    _add_output_flags(p.add_argument_group("output"))
    args = p.parse_args(argv)
    if bool(args.teacher_cfg) != bool(args.teacher_weights):
        p.error("--teacher-cfg and --teacher-weights belong together; found one of them")
    args.weights_named = args.weights is not None
    args.weights = None if args.weights == "none" else args.weights or DEFAULT_WEIGHTS
    return args


def _add_training_flags(t) -> None:
    t.add_argument("--epochs", type=cli.positive_int, default=100, help="passes over the training images")
    t.add_argument("--learning_rate", "-lr", "--lr", dest="lr", type=cli.positive_float, default=1e-3, help="the highest of the run")
    t.add_argument("--momentum", type=cli.fraction, default=0.9, help="of SGD, Nesterov's")
    t.add_argument("--weight_decay", type=cli.amount, default=5e-4, help="on convolution kernels only")
    t.add_argument("--schedule", choices=("cosine", "steps", "constant"), default="cosine",
                   help="how the learning rate falls after warm-up: by "
                   "a cosine to a hundredth; in steps, to a tenth after 80 %% and again after 90 %%")
    t.add_argument("--warmup", type=cli.amount, default=1.0, metavar="EPOCHS", help="epochs of rising learning rate")
    t.add_argument("--accumulate", type=cli.positive_int, default=1, metavar="N", help="batches an optimiser step")
    t.add_argument("--clip", type=cli.amount, default=500.0, metavar="NORM", help="largest gradient norm; 0: any (usual: about 100)")
    t.add_argument("--ema", type=cli.fraction, default=0.998, metavar="DECAY", help="average of weights; 0: none")
    t.add_argument("--amp", action=argparse.BooleanOptionalAction, default=True, help="half precision on a GPU")
    t.add_argument("--bf16", action="store_true", help="bfloat16 instead, on a CPU too: steps twice as fast where it has AMX units")
    t.add_argument("--compile", action="store_true", help="run the net through torch.compile: up to two minutes to start, then steps about 6 %% faster")
    t.add_argument("--freeze", type=cli.count, default=0, metavar="N", help="keep layers 0..N-1 as they are")
    t.add_argument("--seed", type=cli.count, default=0, help="of weights, order and augmentation")


def _add_loss_flags(loss) -> None:
    loss.add_argument("--box_loss", choices=("ciou", "mse"), default="ciou", help="complete IoU, or squared errors of x, y, w, h as in Darknet")
    loss.add_argument("--several_iou", type=cli.ratio, default=0.4, metavar="IOU", help="anchors that fit a box this well "
                      "are positive too; 1: the best alone, as in YOLOv3")
    loss.add_argument("--ignore_iou", type=cli.ratio, default=0.7, metavar="IOU", help="predictions that overlap a box this much, and are not its own, are no "
                      "negatives")


def _add_augmentation_flags(a) -> None:
    a.add_argument("--augment", choices=("none", "flip", "standard", "strong"), default="standard",
                   help="standard: flip, scale, translate, HSV; strong: more of each, close-ups, grey and blurred pictures")
    a.add_argument("--mosaic", type=cli.ratio, default=0.0, metavar="P", help="share of pictures made of four")
    a.add_argument("--multiscale_training", action="store_true", help="another input size every batch")


def _add_sparsity_flags(s) -> None:
    s.add_argument("-sr", "--sparsity-regularization", dest="sr", action="store_true", help="L1 on batch-norm gammas")
    # -s is declared so that argparse does not read it as a short form of -sr
    s.add_argument("--s", "-s", dest="s", type=cli.positive_float, default=0.01, metavar="LAMBDA", help="strength of -sr")
    s.add_argument("--sparsity", choices=("l1", "prox", "polarize"), default="prox", help="how: prox, soft threshold after the step, exact "
                   "zeros; l1, sub-gradient, the same drift; polarize, on the small gammas only (Zhuang et al. 2020)")
    s.add_argument("--s-schedule", choices=("constant", "decay", "ease"), default="constant", help="decay: s falls to 0; ease: in "
                   "the second half it falls to 0 for the channels that survived the first")
    s.add_argument("--sparsity-weight", choices=("none", "flops", "latency"), default="none", help="press harder on channels that cost "
                   "more: s times the root of the operations, or of the measured time, that a channel costs")
    s.add_argument("--rescale", type=cli.rescaling, default="auto", metavar="none|auto|ALPHA", help="shrink all gammas first without "
                   "changing the function; without it a short -sr run selects nothing (auto: 0.05, where the activations allow it)")
    s.add_argument("--strategy", choices=("group", "skip"), default="group", help="which layers are penalised: all that "
                   "test_prune.py can prune, or the reference's rule")
    s.add_argument("--percent", type=cli.fraction, default=0.85, help="cut to judge the sparsity by, each epoch")


def _add_recovery_flags(r) -> None:
    r.add_argument("--teacher-cfg", metavar="CFG", help="the dense net, to learn from while fine-tuning")
    r.add_argument("--teacher-weights", metavar="FILE", help="its weights")
    r.add_argument("--distill-gain", type=cli.positive_float, default=1.0, help="weight of the teacher's terms against "
                   "that of the labels', 1; the loss is the mean, so that --lr means the same with a teacher")
    r.add_argument("--rewind", type=cli.count, default=0, metavar="N", help="learning-rate rewinding: train as the last --epochs of a run "
                   "of N epochs would (Renda et al. 2020)")


def _add_output_flags(o) -> None:
    o.add_argument("--name", metavar="RUN", help="folder under logs/ (default: from the cfg and the time)")
    o.add_argument("--resume", metavar="RUN", help="folder of a run to go on with; its own arguments count")
    o.add_argument("--evaluation_interval", type=cli.positive_int, default=1, metavar="EPOCHS", help="score every so often, and in the end")
    o.add_argument("--checkpoint_interval", type=cli.count, default=0, metavar="EPOCHS",
                   help="keep a numbered checkpoint every so often; 0: last and best alone")
    o.add_argument("--tensorboard", action="store_true", help="also write the numbers and a histogram of gammas for it")
    o.add_argument("--no-publish", action="store_true", help="leave checkpoints/ and weights/ as they are")
    cli.add_score_flags(o)
