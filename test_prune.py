"""Cut the channels whose batch-norm gamma vanished, verify that the compact net computes the same, save it.

    python test_prune.py --cfg config/yolov3-hand.cfg --weights weights/yolov3.weights
"""

import argparse
import sys

from utils import cli
from utils.pruning.args import parse_prune_args, prune_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of test_prune.py."""
    return parse_prune_args(__doc__, argv)


def main() -> None:
    """Load -> blocks and threshold -> evaluate -> masked mAP -> compact -> verify -> 8 bits -> other cuts -> table and
    files."""
    options = prune_options(parse_args())
    from models import Darknet
    from utils.pruning import analysis, iterative, report, road
    from utils.pruning.budget import Pruned, within_budget
    from utils.pruning.compact import compact_and_verify, prune_and_eval, recalibrate_and_eval
    from utils.pruning.job import load
    from utils.pruning.plan import plan_cut, remove_layers, warn_before

    if options.road:
        return road.run_road(options, sys.argv[1:], Darknet)
    if options.in_steps:
        return iterative.run_steps(options, sys.argv[1:], Darknet)
    job = remove_layers(load(options, Darknet))
    with job.locked():
        plan = plan_cut(job)
        warn_before(job, plan)
        before, masked = prune_and_eval(job, plan)
        compact = compact_and_verify(job, plan)
        pruned = within_budget(job, Pruned(plan, compact, masked, recalibrate_and_eval(job, compact, masked)))
        analysis.explore(job, pruned.plan.score)
        report.report(job, pruned.plan, pruned.compact, before, pruned.masked, pruned.after)


if __name__ == "__main__":
    cli.run(main)
