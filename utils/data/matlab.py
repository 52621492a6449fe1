"""MATLAB .mat files, read in a process of their own: scipy's reader is compiled code that a damaged file can end."""

import functools
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_FILE_BYTES = 1 << 30
MAX_MEMORY_BYTES = 3 << 30  # address space of the reader: a damaged size field asks for anything
MAX_CPU_S = 10  # per file: of processor time, which a busy machine does not stretch
TIMEOUT_S = 120
_SERVE = (f"import sys; sys.path[0] = {str(ROOT)!r}; from utils.data.matlab import serve; "
          "serve(sys.stdin.buffer, sys.stdout.buffer)")


class MatError(ValueError):
    """A .mat file cannot be read; the message starts with its path."""


def read_mat(path: str | os.PathLike) -> dict:
    """Variables of a .mat file (to version 7) by name, struct arrays as lists and structs as dicts. Raises MatError.

    One process reads all files of a run.
    """
    return _shared_reader().read(path)


@functools.cache
def _shared_reader() -> "MatReader":
    return MatReader()  # its process ends with ours: its input does


class MatReader:
    """Reads many .mat files with one process: started at the first file, and again after a file that ended it."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()

    def read(self, path: str | os.PathLike) -> dict:
        """Variables of a .mat file (to version 7): cells, struct arrays as lists, structs as dicts. Raises MatError."""
        path = Path(path)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise MatError(f"{path}: found {size:,} bytes, expected a .mat file of at most {MAX_FILE_BYTES:,}")
        with self._lock:
            fault, variables = self._ask(path)
        if fault:
            raise MatError(f"{path}: not a readable .mat file ({fault})")
        return variables

    def _ask(self, path: Path) -> tuple[str | None, dict | None]:
        """(None, variables), or (what went wrong, None)."""
        if self._process is None:
            self._process = _start()
        process = self._process
        watch = threading.Timer(TIMEOUT_S, process.kill)
        watch.start()
        try:
            pickle.dump(str(path.absolute()), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            return f"damaged: its reader ended with status {process.returncode}", None
        finally:
            watch.cancel()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> "MatReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _start() -> subprocess.Popen:
    """A process that answers paths on its standard input."""
    return subprocess.Popen([sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The process's loop: a pickled path in, a pickled (fault, variables) out, until the input ends."""
    from scipy.io import loadmat

    _limit_memory()
    while True:
        try:
            path = pickle.load(requests)
        except EOFError:
            return
        _limit_time()
        try:
            content = loadmat(path, simplify_cells=True)
            answer = pickle.dumps((None, {name: value for name, value in content.items() if not name.startswith("__")}))
        except Exception as error:  # scipy raises whatever a damaged file leads it to
            text = " ".join(str(error).split())[:200]
            answer = pickle.dumps((f"{type(error).__name__}: {text}", None))
        answers.write(answer)
        answers.flush()


def _limit_time() -> None:
    """End this process once it has computed for MAX_CPU_S more, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = int(used.ru_utime + used.ru_stime) + 1 + MAX_CPU_S
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _limit_memory() -> None:
    """Bound this process's memory, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
