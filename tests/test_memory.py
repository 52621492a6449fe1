"""What stays with the process of the memory that it frees."""

import subprocess
import sys

import pytest

from utils.memory import keep_freed

FAULTS = """
import resource, statistics, torch
from utils.memory import keep_freed
keep_freed({keep})
turns = []
for turn in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 18)  # 64 MB
    turns.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(statistics.median(turns)))
"""


def faults(keep: bool) -> int:
    """Pages that the system had to hand out anew while 64 MB were reserved, filled and freed: the median of 15 turns,
    as a kernel that is short of memory may take some back."""
    run = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.fixture
def glibc():
    """Skips where the C library cannot be told to keep memory; leaves it as it was."""
    if not keep_freed(False):
        pytest.skip("this C library has no mallopt")


def test_memory_that_was_kept_is_not_handed_out_anew(glibc):
    assert faults(keep=True) * 5 < faults(keep=False)


def test_where_the_c_library_cannot_be_told_nothing_is_changed(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed()
