"""What stays with the process of the memory that it frees."""

import subprocess
import sys

import pytest

from utils.memory import keep_freed

FAULTS = """
import resource, torch
from utils.memory import keep_freed
keep_freed({keep})
for round in range(12):
    if round == 2:  # the heap has grown by then
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 18)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that the system had to hand out anew while 64 MB were reserved, filled and freed ten times."""
    run = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.fixture
def glibc():
    """Skips where the C library cannot be told to keep memory; leaves it as it was."""
    if not keep_freed(False):
        pytest.skip("this C library has no mallopt")


def test_memory_that_was_kept_is_not_handed_out_anew(glibc):
    # a whole turn may be of huge pages, so the pages of one turn are not counted
    assert faults(keep=True) * 5 < faults(keep=False)


def test_where_the_c_library_cannot_be_told_nothing_is_changed(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed()
