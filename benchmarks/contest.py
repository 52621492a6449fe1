"""How contestants are compared: each in a process of its own, measured alternately (A B C A B C ...), medians,
quartiles and paired ratios."""

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

from utils.compare import quartiles

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("worker.py")
MIN_RUNS = 2  # of a contestant that is over its item's time limit
SLOW_WARMUP = 5.0  # seconds: who takes longer than this is warm after one run
SETTLE = 0.1  # seconds between contestants: threads of the last one may still be spinning (ONNX Runtime's do for 0.04)
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class ContestantFailed(Exception):
    """A contestant could not be built or run; the message says why, in one line."""


@dataclass(frozen=True)
class Contestant:
    """Something to time: `function` of a Python file, called once with `options` in a process that finds modules in
    `root`.

    file: in this folder, or a path. needs: packages without which it is skipped. work: units (images) a run. why: a
    reason known before that it cannot take part.
    """

    name: str
    file: str | Path
    function: str
    options: dict = field(default_factory=dict)
    work: float = 1.0
    needs: tuple[str, ...] = ()
    root: Path = ROOT
    why: str = ""

    def missing(self) -> str:
        """Why it cannot take part, in words; empty when nothing is missing."""
        packages = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return self.why or (f"not installed: pip install {' '.join(packages)}" if packages else "")


@dataclass
class Outcome:
    """What became of a contestant. seconds: round -> measured time."""

    contestant: Contestant
    seconds: dict[int, float] = field(default_factory=dict)
    error: str = ""
    setup_s: float | None = None
    first_s: float | None = None  # the first warm-up run, in which some compile
    peak_mb: float | None = None
    run_mb: float | None = None
    imports_mb: float | None = None
    idle_cpu: list[float] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The contestant's name."""
        return self.contestant.name

    @property
    def median(self) -> float | None:
        """Median seconds a run; None when it never ran."""
        return statistics.median(self.seconds.values()) if self.seconds else None


@dataclass(frozen=True)
class Item:
    """One comparison. contestants: the first is the baseline of the ratios. limit_s: a contestant that has run so long
    drops out of later rounds. unit: what `work` counts, for a column of units a second. remarks: further lines from the
    outcomes. table: rows of its own, of the item's summary."""

    name: str
    title: str
    contestants: list[Contestant]
    repeats: int = 10
    warmup: int = 2
    limit_s: float = 20.0
    unit: str = ""
    remarks: Callable[[list[Outcome]], list[str]] = lambda outcomes: []
    table: Callable[[dict], list[list[str]]] | None = None


@dataclass(frozen=True)
class Settings:
    """How a run is made. repeats, warmup: in place of the items' own; then no contestant drops out. say: where progress
    goes. settle: seconds between two contestants."""

    threads: int
    repeats: int | None = None
    warmup: int | None = None
    say: Callable[[str], None] = lambda text: None
    settle: float = SETTLE


class Worker:
    """The parent's end of a contestant's process."""

    def __init__(self, contestant: Contestant, threads: int, folder: Path):
        # it would lead to this checkout's modules
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {name: str(threads) for name in THREAD_VARIABLES}
        self.log = open(folder / "worker.log", "w+")
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=folder,
            env=environment,
        )
        description = {
            "root": str(contestant.root),
            "file": str(WORKER.parent / contestant.file),
            "function": contestant.function,
            "options": contestant.options,
            "threads": threads,
        }
        self.ready = self.ask(json.dumps(description))

    def ask(self, line: str) -> dict:
        """Send a line and wait for the answer. Raises ContestantFailed."""
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            text = self.process.stdout.readline()
        except OSError:
            text = ""
        if not text:
            self.close()
            raise ContestantFailed(f"its process ended with status {self.process.returncode}{self._last_words()}")
        answer = json.loads(text)
        if "error" in answer:
            self.close()
            raise ContestantFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = [line.strip() for line in Path(self.log.name).read_text().splitlines() if line.strip()]
        return f": {lines[-1][:200]}" if lines else ""

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


def run_item(item: Item, settings: Settings, folder: Path) -> list[Outcome]:
    """Build all contestants, warm them up, time them alternately. One that fails is reported in its outcome and the
    others go on."""
    outcomes = [Outcome(contestant, error=contestant.missing()) for contestant in item.contestants]
    warmup = item.warmup if settings.warmup is None else settings.warmup
    limit = item.limit_s if settings.repeats is None else float("inf")
    with contextlib.ExitStack() as stack:
        workers = _start_all(outcomes, settings, folder, stack)
        for round_i in range(warmup):
            for outcome, seconds in _round(
                outcomes, workers, settings.settle, lambda outcome: not round_i or outcome.first_s < SLOW_WARMUP
            ):
                outcome.first_s = outcome.first_s or seconds
        _ask_all(outcomes, workers, "reset")
        for outcome in outcomes:
            outcome.idle_cpu.clear()  # while others warmed up, libraries may have been finishing their own start
        settings.say(f"{item.name}: warm, timing")
        for round_i in range(settings.repeats or item.repeats):
            for outcome, seconds in _round(
                outcomes, workers, settings.settle, lambda outcome: _goes_on(outcome, limit)
            ):
                outcome.seconds[round_i] = seconds
        for outcome, answer in _ask_all(outcomes, workers, "end"):
            for key, value in answer.items():
                setattr(outcome, key, value)
    return outcomes


def _start_all(
    outcomes: list[Outcome], settings: Settings, folder: Path, stack: contextlib.ExitStack
) -> dict[int, Worker]:
    """Build one after the other; returns position -> worker of those that could be built."""
    workers = {}
    for i, outcome in enumerate(outcomes):
        if outcome.error:
            continue
        settings.say(f"  building {i + 1}/{len(outcomes)}: {outcome.name}")
        own = folder / f"contestant{i}"
        own.mkdir(exist_ok=True)
        try:
            workers[i] = Worker(outcome.contestant, settings.threads, own)
        except ContestantFailed as failure:
            outcome.error = str(failure)
            continue
        stack.callback(workers[i].close)
        outcome.setup_s = workers[i].ready["setup_s"]
    return workers


def _ask_all(
    outcomes: list[Outcome],
    workers: dict[int, Worker],
    line: str,
    takes_part: Callable[[Outcome], bool] = lambda outcome: True,
    settle: float = 0.0,
) -> Iterator[tuple[Outcome, dict]]:
    """Ask every contestant that has not failed, in order; the answers. Done at once, whether or not they are looked
    at."""
    answers = []
    for i, worker in workers.items():
        outcome = outcomes[i]
        if outcome.error or not takes_part(outcome):
            continue
        try:
            answers.append((outcome, worker.ask(line)))
        except ContestantFailed as failure:
            outcome.error = str(failure)
        time.sleep(settle)
    return iter(answers)


def _round(outcomes, workers, settle: float, takes_part) -> Iterator[tuple[Outcome, float]]:
    """One run of every contestant that takes part: its outcome and seconds."""
    for outcome, answer in _ask_all(outcomes, workers, "go", takes_part, settle):
        if answer["idle_cpu"] is not None:
            outcome.idle_cpu.append(answer["idle_cpu"])
        yield outcome, answer["seconds"]


def _goes_on(outcome: Outcome, limit: float) -> bool:
    return len(outcome.seconds) < MIN_RUNS or sum(outcome.seconds.values()) < limit


# ---- what the numbers say

def paired_ratios(outcome: Outcome, baseline: Outcome) -> list[float]:
    """Time over the baseline's, round by round, of the rounds that both took part in: what slows down a whole round
    cancels."""
    return [outcome.seconds[i] / baseline.seconds[i] for i in sorted(outcome.seconds.keys() & baseline.seconds.keys())]


def summary(outcome: Outcome, baseline: Outcome, unit: str = "") -> dict:
    """Everything known about a contestant, ready for json.dump; "ratio" is time over the baseline's."""
    row = {
        "name": outcome.name,
        "error": outcome.error,
        "n": len(outcome.seconds),
        "setup_s": outcome.setup_s,
        "first_s": outcome.first_s,
        "peak_mb": outcome.peak_mb,
        "imports_mb": outcome.imports_mb,
        "run_mb": outcome.run_mb,
        "facts": outcome.facts,
        "seconds": list(outcome.seconds.values()),
    }
    if outcome.seconds:
        row["low_s"], row["median_s"], row["high_s"] = quartiles(row["seconds"])
        row["idle_cpu"] = statistics.median(outcome.idle_cpu) if outcome.idle_cpu else None
        if unit:
            row[f"{unit}_per_s"] = outcome.contestant.work / row["median_s"]
    if ratios := paired_ratios(outcome, baseline):
        row["ratio_low"], row["ratio"], row["ratio_high"] = quartiles(ratios)
    return row


def item_summary(item: Item, outcomes: list[Outcome]) -> dict:
    """An item's results, ready for json.dump."""
    rows = [summary(outcome, outcomes[0], item.unit) for outcome in outcomes]
    remarks = item.remarks(outcomes) + [
        f"note: {row['name']} burns {row['idle_cpu'] * 1e3:.0f} ms of processor time "
        "after each run, which slows down the next contestant"
        for row in rows
        if (row.get("idle_cpu") or 0) > SETTLE
    ]
    summed = {
        "name": item.name,
        "title": item.title,
        "unit": item.unit,
        "baseline": outcomes[0].name,
        "contestants": rows,
        "remarks": remarks,
    }
    return summed | ({"table": item.table(summed)} if item.table else {})
