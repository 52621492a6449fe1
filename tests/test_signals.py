"""Signals that end a program: raised where it runs, quiet in what it forked."""

import os
import signal
import subprocess
import sys

import pytest

from conftest import ROOT
from utils import signals

FORKS = """
import multiprocessing, time
from utils import signals

def work(running):
    running.release()
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    running = context.Semaphore(0)  # Python forgets a signal that comes before the fork has returned in the child
    with signals.raised():
        children = [context.Process(target=work, args=(running,)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            running.acquire()
        for child in children:
            child.terminate()  # SIGTERM, as multiprocessing.Pool ends its processes
            child.join()
        print([child.exitcode for child in children])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_ends_without_a_word(tmp_path):
    (tmp_path / "forks.py").write_text(FORKS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "forks.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[-15, -15]\n" and done.stderr == ""


def test_a_signal_is_raised_where_the_block_is_and_the_earlier_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(signals.Ended) as error, signals.raised():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.exit_status(error.value) == 143 and signal.getsignal(signal.SIGTERM) == before
