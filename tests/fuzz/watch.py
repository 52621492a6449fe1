"""Runs cases in a process of their own and watches its time and memory; what fails is kept with its input."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_CPU_S = 10.0  # per input, of processor time: a busy machine does not change it
MOST_WALL_S = 300.0  # per input, for what waits
MOST_BYTES = 4 << 30
STARTING_S = 60.0  # for imports, and to make the sound files
SERVE = "from tests.fuzz.worker import serve; serve({seed}, {kinds})"
FAILURES = ("crash", "nameless", "died", "hang", "memory")


@dataclass
class Result:
    """What became of some cases."""

    counts: Counter = field(default_factory=Counter)  # (kind, verdict)
    failures: list[dict] = field(default_factory=list)
    cases: int = 0
    last: dict = field(default_factory=dict)  # the last verdict
    slowest_s: float = 0.0
    largest_bytes: int = 0

    def add(self, verdict: dict) -> None:
        """Count a verdict."""
        self.cases, self.last = self.cases + 1, verdict
        self.counts[verdict["kind"], verdict["verdict"]] += 1
        self.slowest_s = max(self.slowest_s, verdict.get("cpu_s", 0.0))
        self.largest_bytes = max(self.largest_bytes, verdict.get("peak_bytes", 0))
        if verdict["verdict"] in FAILURES:
            self.failures.append(verdict)

    def table(self) -> list[list]:
        """Rows: header, then inputs per kind and verdict."""
        kinds = sorted({kind for kind, _ in self.counts})
        verdicts = ["accepted", "refused", *FAILURES]
        rows = [[kind, sum(self.counts[kind, verdict] for verdict in verdicts),
                 *(self.counts[kind, verdict] for verdict in verdicts)] for kind in kinds]
        return [["kind", "inputs", *verdicts], *rows, ["all", *(sum(column) for column in list(zip(*rows))[1:])]]


class Watcher:
    """A worker process, started again after a case that ends it. Use as a context.

    keep: folder for the inputs of cases that fail; code: what the process runs.
    """

    def __init__(self, seed: int, kinds: list[str], keep: Path | None = None, code: str = SERVE):
        self.seed, self.kinds, self.keep, self.code = seed, kinds, keep, code
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._process: subprocess.Popen | None = None
        self._fresh = False

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_) -> None:
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, cases: Iterable[int], until: float = float("inf"), progress=None) -> Result:
        """Run cases, none that would begin after the time.monotonic() `until`."""
        result = Result()
        for case in cases:
            if time.monotonic() > until:
                break
            verdict = self._one(case)
            result.add(verdict)
            if verdict["verdict"] in FAILURES and self.keep:
                self.keep_input(verdict)
            if progress:
                progress(result)
        return result

    def _one(self, case: int) -> dict:
        """The verdict about a case."""
        if self._process is None:
            self._process = self._start()
        place = self._folder / "case"
        try:
            self._process.stdin.write(f"{case} {place}\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended since its last answer
            return self._dead(case)
        ended = self._wait()
        if ended is None:
            verdict = json.loads(self._process.stdout.readline() or "null") or self._dead(case)
            over = "hang" if verdict.get("cpu_s", 0) > MOST_CPU_S else "memory" if (
                verdict.get("peak_bytes", 0) > MOST_BYTES) else None
            return verdict | ({"verdict": over} if over else {})
        self._end()
        return {"case": case, "kind": "?", "verdict": ended, "words": ""}

    def _wait(self) -> str | None:
        """None when an answer (or an end) is there, else why there will be none."""
        begun, cpu = time.monotonic(), _cpu_s(self._process.pid)
        starting = STARTING_S if self._fresh else 0.0
        self._fresh = False
        while not select.select([self._process.stdout], [], [], 0.1)[0]:
            if _resident(self._process.pid) > MOST_BYTES:
                return "memory"
            if _cpu_s(self._process.pid) - cpu > 2 * MOST_CPU_S + starting or time.monotonic() - begun > (
                    MOST_WALL_S + starting):
                return "hang"
        return None

    def _dead(self, case: int) -> dict:
        status = self._process.wait()
        self._process = None
        return {"case": case, "kind": "?", "verdict": "died", "words": f"the process ended with status {status}"}

    def _start(self) -> subprocess.Popen:
        self._fresh = True
        code = self.code.replace("{seed}", str(self.seed)).replace("{kinds}", repr(self.kinds))
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True,
                                env=os.environ | threads | {"PYTHONPATH": str(ROOT)})

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def keep_input(self, verdict: dict) -> None:
        """The input of a failed case, what was said, and the command that runs it again."""
        target = self.keep / f"seed{self.seed}-case{verdict['case']}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self._folder / "case", target)
        again = f"python -m tests.fuzz --seed {self.seed} --case {verdict['case']}"
        if len(self.kinds) == 1:
            again += f" --kinds {self.kinds[0]}"
        (target / "report.txt").write_text(f"{verdict['verdict']} ({verdict['kind']})\n{again}\n\n{verdict['words']}\n",
                                           encoding="utf-8", errors="replace")


def _cpu_s(pid: int) -> float:
    """Processor time of a process; 0 where Linux does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    """Bytes of memory of a process; 0 where Linux does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
