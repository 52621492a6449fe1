"""One contestant in a process of its own: built once, then run whenever told. Started by benchmarks.contest, by path
and not as a module, so that the names `models` and `utils` are free for another checkout's.

Reads lines: first a JSON description, then "go", "reset" or "end". Answers each with one JSON line; an answer with the
key "error" is the last one. What a contestant prints goes to standard error.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Callable

MB = 2**20


def pin_threads(threads: int) -> None:
    """Hold the libraries that are loaded to so many threads; those loaded later read the environment."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)


def peaks_mb() -> tuple[float, float]:
    """Largest resident memory of this process, and of any that it started and waited for, in MB of 2^20 bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0, 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (
        resource.getrusage(who).ru_maxrss * unit / MB for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    # on Linux ru_maxrss of a started process counts what its parent held when it was started; VmHWM does not
    return high_water_mb() or own, children


def high_water_mb() -> float | None:
    """Linux: largest resident memory since the start or the last reset, in MB; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def reset_high_water() -> bool:
    """Linux: begin the high-water mark anew. Returns whether the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5\n")
    except OSError:
        return False
    return True


def load_file(path: str) -> ModuleType:
    """The module of a Python file."""
    spec = importlib.util.spec_from_file_location("contestant", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["contestant"] = module
    spec.loader.exec_module(module)
    return module


def one_line(error: BaseException) -> str:
    """An error as one line that names its kind."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


class Contest:
    """What the parent asks for: `run` timed on "go", peaks of memory at "reset" and "end"."""

    def __init__(self, run: Callable[[], object], facts: dict, imports_mb: float):
        self.run, self.facts = run, facts  # facts: what to report; runs may add to it
        self.imports_mb = imports_mb
        self.setup_peak: float | None = None  # of everything before the reset
        self.finished: float | None = None  # processor time when the last run ended

    def go(self) -> dict:
        """Run once. A contestant that measures itself returns its seconds, a number; anything else is ignored.
        idle_cpu: processor seconds burnt since the last run ended: threads that spin on slow down the next
        contestant."""
        idle = None if self.finished is None else time.process_time() - self.finished
        started = time.perf_counter()
        own = self.run()
        seconds = time.perf_counter() - started
        self.finished = time.process_time()
        return {"seconds": own if isinstance(own, (int, float)) else seconds, "idle_cpu": idle}

    def reset(self) -> dict:
        """Warm-up is over."""
        before = max(peaks_mb())
        self.setup_peak = before if reset_high_water() else None
        return {}

    def end(self) -> dict:
        """peak_mb: of the process's whole life; imports_mb: before anything was built, unless a process that it started
        is larger; run_mb: of the measured runs, where the system can tell."""
        own, children = peaks_mb()
        now, known = max(own, children), self.setup_peak is not None
        return {"peak_mb": max(now, self.setup_peak or 0), "imports_mb": self.imports_mb if own >= children else None,
                "run_mb": now if known else None, "facts": self.facts}


def set_up(description: dict) -> Contest:
    """Load and build the contestant: its function is called with its options and returns `run`, or `run` and facts to
    report."""
    sys.path[0] = description["root"]
    module = load_file(description["file"])
    pin_threads(description["threads"])
    imports_mb = peaks_mb()[0]
    made = getattr(module, description["function"])(**description["options"])
    pin_threads(description["threads"])
    run, facts = made if isinstance(made, tuple) else (made, {})
    return Contest(run, facts, imports_mb)


def main() -> None:
    """Answer until the end of input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict) -> None:
        """One line to the parent."""
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        started = time.perf_counter()
        contest = set_up(json.loads(sys.stdin.readline()))
        answer({"setup_s": time.perf_counter() - started})
        for line in sys.stdin:
            answer(getattr(contest, line.strip())())
            if line.strip() == "end":
                break
    except Exception as error:  # whatever it is, the parent reports it and the others go on
        answer({"error": one_line(error)})
        raise


if __name__ == "__main__":
    main()
