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
    """Load -> blocks and threshold -> evaluate -> masked mAP -> compact -> verify -> other cuts -> table and files."""
    options = prune_options(parse_args())
    from models import Darknet
    from utils.pruning import analysis, iterative, report, road
    from utils.pruning.compact import compact_and_verify, prune_and_eval, recalibrate_and_eval
    from utils.pruning.job import load
    from utils.pruning.plan import plan_cut, remove_layers, warn_before

    if options.road:
        return road.run_road(options, sys.argv[1:])
    if options.steps > 1:
        return iterative.run_steps(options, sys.argv[1:])
    job = remove_layers(load(options, Darknet))
    with job.locked():
        plan = plan_cut(job)
        warn_before(job, plan)
        before, masked = prune_and_eval(job, plan)
        compact = compact_and_verify(job, plan)
        after = recalibrate_and_eval(job, compact)
        analysis.explore(job)
        report.report(job, plan, compact, before, masked, after)


if __name__ == "__main__":
    cli.run(main)
