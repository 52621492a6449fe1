"""What torchrun tells each process that it starts; without it there is one process. Imports no torch: scripts ask
before they load it."""

import contextlib
import hashlib
import json
import os
import sys
import time
from typing import Iterator


def world_size() -> int:
    """How many processes share the work, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process among them; process 0 prints and writes."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def local_rank() -> int:
    """The number of this process among those of this machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """How many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def restarts() -> int:
    """How often torchrun has started these processes anew (--max-restarts) because one of them ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def launcher_store():
    """The key-value store that torchrun itself keeps as long as it runs, over restarts too; None where there is none.
    (torch.distributed.Store: set, get, add, check.)"""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import PrefixStore, TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore(f"yolo/{os.environ.get('TORCHELASTIC_RUN_ID', '')}", store)


@contextlib.contextmanager
def first_process_prints() -> Iterator[None]:
    """Within this block what another process than 0 prints on stdout goes nowhere."""
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def print_error(line: str) -> None:
    """Print a line on stderr, once for all processes (and restarts) that meet the same error: by the first that meets
    it, since torchrun ends the others as soon as one has ended."""
    if world_size() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        print(line, file=sys.stderr)
        return
    if _is_first_to_say(line):
        print(line, file=sys.stderr, flush=True)
    leave_word(line)


def leave_word(line: str) -> None:
    """Tell torchrun why this process ends, for its list of failures."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        words = {"message": line, "extraInfo": {"py_callstack": line, "timestamp": str(int(time.time()))}}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": words}, file)


def says_that_a_process_is_gone(error: RuntimeError) -> bool:
    """Whether the error is that a connection to another process broke."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "TCPStore")
    return any(word in str(error) for word in words)


def _is_first_to_say(line: str) -> bool:
    try:
        store = launcher_store()
        return rank() == 0 if store is None else store.add(hashlib.sha256(line.encode()).hexdigest(), 1) == 1
    except (RuntimeError, ValueError, OSError):  # torchrun is gone: better twice than never
        return True
