"""The road of test_prune.py without its evaluation and timing, as a contestant. Runs in a worker process."""

import shutil
import time

from models import Darknet
from utils.pruning import report
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.compact import compact_and_verify
from utils.pruning.job import load
from utils.pruning.plan import plan_cut, remove_layers


def prune(words: list[str]):
    """Load, cut, verify and write in this process; the times of the last run's parts go into the facts."""
    options = prune_options(parse_prune_args("", words))
    facts: dict[str, str] = {}

    def run() -> None:
        """All parts once."""
        shutil.rmtree(options.out, ignore_errors=True)
        clock = [time.perf_counter()]
        job = load(options, Darknet)
        clock.append(time.perf_counter())
        job = remove_layers(job)
        plan = plan_cut(job)
        clock.append(time.perf_counter())
        compact = compact_and_verify(job, plan)
        clock.append(time.perf_counter())
        report.report(job, plan, compact, None, None, None)
        clock.append(time.perf_counter())
        for part, begin, end in zip(("load", "plan", "cut+verify", "write"), clock, clock[1:]):
            facts[part] = f"{end - begin:.2f} s"

    return run, facts
