"""Cut the channels whose batch-norm gamma vanished, verify that the compact net computes what the masked one does, save it.

    python test_prune.py --cfg config/yolov3-hand.cfg --weights weights/yolov3.weights
"""

import argparse
import sys

from utils import cli
from utils.prune_args import parse_prune_args


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of test_prune.py."""
    return parse_prune_args(__doc__, argv)


def main() -> None:
    """Load -> blocks and threshold -> evaluate -> masked mAP -> compact -> verify -> other cuts -> table and files."""
    args = parse_args()
    from models import Darknet
    from utils import iterate, prune_explore, prune_job, prune_plan, prune_report, pruning

    if args.steps > 1:
        return iterate.run_steps(args, sys.argv[1:])
    job = prune_job.load(args, Darknet)
    prune_plan.remove_layers(job)
    plan = prune_plan.plan_cut(job)
    prune_plan.warn_before(job, plan)
    before, masked = pruning.prune_and_eval(job, plan)
    compact = pruning.compact_and_verify(job, plan)
    pruning.recalibrate_compact(job, compact)
    after = prune_job.eval_model(job, compact.model, "compact")
    prune_explore.explore(job)
    prune_report.report(job, plan, compact, before, masked, after)


if __name__ == "__main__":
    cli.run(main)
