"""What torchrun tells each process that it starts; without it there is one process. Imports no torch: scripts ask
before they load it."""

import contextlib
import functools
import hashlib
import json
import os
import sys
import time
import uuid
from pathlib import Path
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


@functools.cache
def attempt() -> str:
    """A name of this start of all processes, the same in each of them and new after a restart. torchrun's own count of
    restarts is not: a machine whose processes were alive when another's were started anew does not count."""
    store = launcher_store()
    return "" if store is None else agreed_name(store, rank(), world_size())


def agreed_name(store, own_rank: int, size: int) -> str:
    """A new name, the same for all `size` callers with ranks 0 to size - 1, whatever earlier callers left in `store`:
    process 0 lists who is there until each has found itself in its list."""
    own = uuid.uuid4().hex
    store.set(f"process {own_rank}", own)
    while True:
        if own_rank == 0:
            store.set("members", ",".join(store.get(f"process {i}").decode() for i in range(size)))
        members = store.get("members").decode().split(",")
        if len(members) == size and members[own_rank] == own:
            store.set(f"{own} is with {members[0]}", "")
            if own_rank or store.check([f"{member} is with {own}" for member in members]):
                return members[0]
        time.sleep(0.02)


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
    if _is_first("error " + hashlib.sha256(line.encode()).hexdigest()):
        print(line, file=sys.stderr, flush=True)
    _is_first(f"attempt {restarts()}: over")  # the others need not wonder why this process is gone
    _leave_word(line)


def print_loss(script: str, error: RuntimeError) -> None:
    """Print that another process is gone, unless it or a third has said why a run ends."""
    line = f"{script}: process {rank()} lost another one ({str(error).strip().splitlines()[0]})"
    if _is_first(f"attempt {restarts()}: over"):
        print(line, file=sys.stderr, flush=True)
    _leave_word(line)


def _leave_word(line: str) -> None:
    """Tell torchrun why this process ends: in its list of failures this stands in place of a traceback."""
    words = {"message": line, "extraInfo": {"py_callstack": line, "timestamp": str(int(time.time()))}}
    with contextlib.suppress(KeyError, OSError):
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": words}), encoding="utf-8")


def says_that_a_process_is_gone(error: RuntimeError) -> bool:
    """Whether the error is that a connection to another process broke."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "TCPStore")
    return any(word in str(error) for word in words)


def _is_first(event: str) -> bool:
    """Whether no process has asked this of `event` before; where that cannot be told, rather twice than never."""
    try:
        store = launcher_store()
        return store is None or store.add(event, 1) == 1
    except (RuntimeError, ValueError, OSError):  # torchrun is gone
        return True
