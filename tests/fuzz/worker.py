"""The process that reads damaged input: a case number a line on its standard input, a verdict in JSON a line back."""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import torch

from tests.fuzz.targets import SHARES, Targets
from utils.cli import input_fault

MOST_MESSAGE = 2000  # characters of an error


def kind_of(rng: np.random.Generator, kinds: list[str]) -> str:
    """The kind of a case, by SHARES."""
    shares = np.array([SHARES[kind] for kind in kinds], float)
    return str(rng.choice(kinds, p=shares / shares.sum()))


def run_case(targets: Targets, seed: int, case: int, kinds: list[str], folder: Path) -> dict:
    """Make the input of a case in `folder` and read it. Verdict: accepted, refused, crash (no error of a reader) or
    nameless (an error that names neither file nor folder)."""
    rng = np.random.default_rng((seed, case))
    kind = kind_of(rng, kinds)
    torch.manual_seed(case)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            getattr(targets, kind)(folder, rng)
        return {"case": case, "kind": kind, "verdict": "accepted", "words": ""}
    except Exception as error:
        words = input_fault(error)
        if words is None:
            return {"case": case, "kind": kind, "verdict": "crash", "words": traceback.format_exc()}
        named = str(folder) in words and len(words) < MOST_MESSAGE
        verdict = "refused" if named else "nameless"
        return {"case": case, "kind": kind, "verdict": verdict, "words": words if named else traceback.format_exc()}


def resident_bytes(peak: bool = True) -> int:
    """This process's memory: the most since the last call of `forget_peak`, or now. 0 where Linux does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    head = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(head)), 0)


def forget_peak() -> None:
    """Begin to measure the peak anew, on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def serve(seed: int, kinds: list[str]) -> None:
    """Answer case numbers until the input ends. The folder of a case stays until the next one, for who watches."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz-home-") as home:
        targets = Targets(Path(home))
        for line in sys.stdin:
            case, folder = line.split(maxsplit=1)
            folder = Path(folder.strip())
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            forget_peak()
            before = os.times()
            verdict = run_case(targets, seed, int(case), kinds, folder)
            after = os.times()
            verdict |= {"cpu_s": round(sum(after[:2]) - sum(before[:2]), 3), "peak_bytes": resident_bytes()}
            print(json.dumps(verdict), file=answers, flush=True)
