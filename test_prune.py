"""Cut the channels whose batch-norm gamma vanished, verify that the compact net computes what the masked one does, save it.

    python test_prune.py --cfg config/yolov3-hand.cfg --weights weights/yolov3.weights
"""

import argparse
from pathlib import Path

from utils import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of test_prune.py."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model = p.add_argument_group("model and data")
    cli.add_model_flags(model, "config/yolov3-hand.cfg", None, "to prune (default: checkpoints/STEM_ckpt.pth)")
    cli.add_data_flags(model)
    cli.add_run_flags(model, batch_size=16)
    cut = p.add_argument_group("pruning")
    cut.add_argument("--percent", type=cli.percent, default=0.85, help="share of prunable channels to cut")
    cut.add_argument("--strategy", choices=("group", "skip"), default="group", help="group: channels tied by shortcuts and depthwise "
                     "or grouped layers are cut together; skip: the reference rule, nothing that feeds a shortcut or an upsample")
    cut.add_argument("--fold", choices=("exact", "bias", "none"), default="exact", help="how constants of removed channels are "
                     "carried; bias is the reference's way, wrong at the border of padded convolutions")
    o = p.add_argument_group("output")
    o.add_argument("--out", type=Path, metavar="DIR", help="put all files there instead of config/, checkpoints/, weights/, pruned/")
    o.add_argument("--repeats", type=cli.count, default=20, metavar="N", help="forward passes to time; 0: none")
    o.add_argument("--no-eval", action="store_true", help="do not score; for sizes and files alone")
    cli.add_score_flags(o)
    return p.parse_args(argv)


def main() -> None:
    """Load -> evaluate -> threshold -> masked mAP -> compact -> verify -> table -> files."""
    args = parse_args()
    from models import Darknet
    from utils import prune_report, pruning

    job = pruning.load(args, Darknet)
    plan = pruning.plan_cut(job)
    pruning.warn_before(job, plan)
    before, masked = pruning.prune_and_eval(job, plan)
    compact = pruning.compact_and_verify(job, plan)
    after = pruning.eval_model(job, compact.model, "compact")
    prune_report.report(job, plan, compact, before, masked, after)


if __name__ == "__main__":
    cli.run(main)
