"""Signals that end a program: Ctrl-C, and what a terminal that closes, a batch system or `kill` sends."""

import contextlib
import os
import signal
import threading
from typing import Iterator

ENDING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])


LOADER_SECONDS = 3.0  # that a process which loads images goes on after SIGTERM
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class Ended(KeyboardInterrupt):
    """The program was told to end. A KeyboardInterrupt, so that whoever cleans up after Ctrl-C does after all."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def exit_status(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells count: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + getattr(error, "number", signal.SIGINT)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """In this block the signals raise Ended; one that is ignored (nohup) stays so."""
    def end(number: int, _frame) -> None:
        raise Ended(number)

    with _handled(end):
        yield


class Notice:
    """Which signal has come so far."""

    number: int | None = None


@contextlib.contextmanager
def held(wanted: bool = True) -> Iterator[Notice]:
    """In this block a signal waits: the notice has its number, and Ended is raised when the block ends. A second
    Ctrl-C does not wait. wanted: False changes nothing."""
    notice = Notice()

    def note(number: int, _frame) -> None:
        if notice.number == number == signal.SIGINT:
            raise Ended(number)
        notice.number = notice.number or number

    with _handled(note) if wanted else contextlib.nullcontext():
        yield notice
    if notice.number is not None:
        raise Ended(notice.number)


@contextlib.contextmanager
def _handled(handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def in_owner(number: int, frame) -> None:
        """A process forked in this block inherits the handler, but nobody there waits for what it raises: it ends."""
        if os.getpid() == owner:
            handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, own in before.items():
        if own not in (signal.SIG_IGN, None):
            signal.signal(number, in_owner)
    try:
        yield
    finally:
        for number, own in before.items():
            if own is not None:
                signal.signal(number, own)


def leave_to_parent() -> None:
    """In a process that loads images: a terminal or a batch system signals all processes, but the parent needs this
    one until it has saved. It ends when the parent says so, within seconds of SIGTERM, and when the parent dies."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, LOADER_SECONDS))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError, TypeError):  # Linux alone
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

