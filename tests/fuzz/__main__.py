"""Damaged and hostile input of every kind, by the thousand, each read in a watched process.

    python -m tests.fuzz --minutes 5
    python -m tests.fuzz --seed 3 --case 1207            # that input again, kept, with what was said about it
"""

import argparse
import itertools
import json
import time
from pathlib import Path

from tests.fuzz.targets import SHARES
from tests.fuzz.watch import FAILURES, MOST_BYTES, MOST_CPU_S, Result, Watcher
from utils import cli
from utils.output import ascii_table, write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = cli.Parser(prog="python -m tests.fuzz", description=__doc__)
    p.add_argument("--minutes", type=cli.positive_float, default=5.0, help="how long to go on")
    p.add_argument("--cases", type=cli.positive_int, metavar="N", help="end after N inputs (default: by --minutes)")
    p.add_argument("--seed", type=cli.seed, default=0, help="of all inputs")
    p.add_argument("--case", type=cli.count, metavar="K", help="run the K-th input alone, and keep it")
    p.add_argument("--first", type=cli.count, default=0, metavar="K", help="begin with the K-th input")
    p.add_argument("--kinds", nargs="+", choices=list(SHARES), default=list(SHARES), metavar="KIND",
                   help=f"of {', '.join(SHARES)} (default: all)")
    p.add_argument("--out", type=Path, default=Path("output/fuzz"), metavar="DIR", help="folder for inputs that fail")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    return p.parse_args(argv)


def main() -> int:
    """Run, count, keep what fails; 1 where something did."""
    args = parse_args()
    if args.case is not None:
        return replay(args)
    cases = range(args.first, args.first + args.cases) if args.cases else itertools.count(args.first)
    until = float("inf") if args.cases else time.monotonic() + 60 * args.minutes
    with Watcher(args.seed, args.kinds, args.out) as watcher:
        result = watcher.run(cases, until, show)
    print(ascii_table(result.table()))
    print(f"seed {args.seed}, inputs {args.first} to {args.first + result.cases - 1}; the slowest took "
          f"{result.slowest_s:.1f} s of processor time (allowed {MOST_CPU_S:g}), the largest process "
          f"{result.largest_bytes / 2**30:.2f} GB (allowed {MOST_BYTES / 2**30:g})")
    if args.json:
        write_json(args.json, {"seed": args.seed, "first": args.first, "cases": result.cases, "table": result.table(),
                               "slowest_s": result.slowest_s, "largest_bytes": result.largest_bytes})
    if result.failures:
        print(f"{len(result.failures)} failures, kept in {args.out}")
    return 1 if result.failures else 0


def show(result: Result) -> None:
    """A line at every 5,000th input, and at every failure."""
    if result.cases % 5000 == 0:
        print(f"{result.cases:,} inputs, {len(result.failures)} failures", flush=True)
    if (last := result.last)["verdict"] in FAILURES:
        print(f"case {last['case']} ({last['kind']}): {last['verdict']}: "
              f"{(last['words'].strip().splitlines() or [''])[-1][:200]}", flush=True)


def replay(args: argparse.Namespace) -> int:
    """Run one case, keep its input, print what was said."""
    with Watcher(args.seed, args.kinds, args.out) as watcher:
        verdict = watcher.run([args.case])
        watcher.keep_input(verdict.last)
    print(json.dumps({key: value for key, value in verdict.last.items() if key != "words"}))
    print(verdict.last["words"])
    print(f"the input: {args.out}/seed{args.seed}-case{args.case}")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    cli.run(main)
