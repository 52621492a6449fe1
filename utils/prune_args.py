"""The command line of test_prune.py, for the script and for benchmarks that prune as it does."""

import argparse
from pathlib import Path

from utils import cli


def parse_prune_args(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of test_prune.py."""
    p = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter, allow_abbrev=False)
    model = p.add_argument_group("model and data")
    cli.add_model_flags(model, "config/yolov3-hand.cfg", None, "to prune (default: checkpoints/STEM_ckpt.pth)")
    cli.add_data_flags(model)
    cli.add_run_flags(model, batch_size=16)
    cut = p.add_argument_group("what goes")
    cut.add_argument("--percent", type=cli.fraction, default=0.85, help="share of prunable channels to cut")
    cut.add_argument("--strategy", choices=("group", "skip"), default="group", help="group: channels tied by shortcuts and depthwise "
                     "or grouped layers are cut together; skip: the reference rule, nothing that feeds a shortcut or an upsample")
    cut.add_argument("--score", choices=("gamma", "gamma-norm", "gamma-cost", "taylor", "l1", "l2", "random"), default="gamma",
                     help="what channels are ranked by: |gamma|; over its layer's mean; over the root of what the channel costs; first "
                     "order of the loss; norm of the kernel; chance")
    cut.add_argument("--cost", choices=("macs", "latency"), default="macs", help="of --score gamma-cost: counted, or measured here")
    cut.add_argument("--group-norm", choices=("max", "mean", "l2"), default="max", help="score of tied channels from their members'")
    cut.add_argument("--layer-keep", type=cli.fraction, default=0.0, metavar="SHARE", help="every layer keeps at least this share")
    cut.add_argument("--divisor", type=cli.positive_int, default=1, metavar="N", help="keep widths multiples of N, chosen in the ranking")
    cut.add_argument("--layers", type=cli.count, default=0, metavar="N", help="first remove the N residual blocks of least --score whole")
    cut.add_argument("--fold", choices=("exact", "bias", "none"), default="exact", help="how constants of removed channels are "
                     "carried; bias is the reference's way, wrong at the border of padded convolutions")
    aim = p.add_argument_group("aim (instead of --percent)")
    aim.add_argument("--target-params", type=cli.size_target, metavar="X", help="the mildest cut with at most X parameters: a ratio (0.2) or 1.2M")
    aim.add_argument("--target-flops", type=cli.size_target, metavar="X", help="the same for FLOPs (2 x MACs): 0.3 or 2.5G")
    aim.add_argument("--target-latency", type=cli.time_target, metavar="X", help="the same for measured time: 0.5 or 12ms")
    aim.add_argument("--max-drop", type=cli.ratio, metavar="D", help="the strongest cut that loses at most D of mAP before "
                     "fine-tuning, batch-norm statistics recalibrated (with --steps: in each step)")
    aim.add_argument("--recalibrate", type=cli.count, metavar="BATCHES", help="take batch-norm statistics anew on training images "
                     "(default: 20 after a search, and for every point of --curve, when the net is scored; else 0)")
    step = p.add_argument_group("in steps")
    step.add_argument("--steps", type=cli.positive_int, default=1, metavar="N", help="prune in N parts and fine-tune after each; the same "
                      "command goes on where it was stopped")
    step.add_argument("--tune", default="--epochs 10 --lr 1e-3", metavar="FLAGS", help="of train.py, for every step")
    look = p.add_argument_group("look around")
    look.add_argument("--curve", type=cli.count, default=0, metavar="N", help="also score N cuts from mild to strong: CSV and PNG")
    look.add_argument("--sensitivity", type=cli.count, default=0, metavar="IMAGES", help="also cut each layer alone and score it on "
                      "so many images: CSV and heat map")
    o = p.add_argument_group("output")
    o.add_argument("--out", type=Path, metavar="DIR", help="put all files there instead of config/, checkpoints/, weights/, pruned/")
    o.add_argument("--repeats", type=cli.count, default=20, metavar="N", help="forward passes to time; 0: none")
    o.add_argument("--no-eval", action="store_true", help="do not score; for sizes and files alone")
    cli.add_score_flags(o)
    return p.parse_args(argv)
