"""One program at a time writes to a folder."""

import contextlib
import os
import platform
from pathlib import Path

from utils.output import make_folder, note_made

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class LockError(ValueError):
    """Another program writes to the folder."""


class Lock:
    """A lock file beside what a program writes, held until `release` or the program's end, however it ends. It holds
    the program's machine and process number. A file system without locks lets everybody in."""

    def __init__(self, path: Path, what: str, waits: bool = False):
        """what: what is written there, for the message. Where another process holds it, it waits, if it `waits`, or
        raises LockError."""
        self.path, self.file, self.made = path, None, make_folder(path.parent)
        note_made(path)
        try:
            self.file = self._taken()
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip()[:200] if path.exists() else ""
            if holder == self._own():  # an object of this very process that is gone, or about to go
                return
            busy = f"{what}: {holder or 'another program'} is writing there"
            if not waits:
                raise LockError(f"{busy}; wait until it ends, or choose another place") from None
            print(f"{busy}; waiting until it is done", flush=True)
            self.file = self._taken(fcntl.LOCK_EX)
        self.file.truncate(0)
        self.file.write(self._own())
        self.file.flush()

    def _own(self) -> str:
        return f"process {os.getpid()} on {platform.node()}"

    def _taken(self, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB if fcntl else 0):
        """The locked file that is at the path: the one before may have been removed by whoever let go of it."""
        while True:
            file = open(self.path, "a+", encoding="utf-8")
            try:
                if fcntl:
                    fcntl.flock(file, how)
            except BlockingIOError:
                file.close()
                raise
            except OSError:  # a file system without locks
                return file
            if self.path.exists() and os.path.samestat(os.stat(self.path), os.fstat(file.fileno())):
                return file
            file.close()

    def release(self) -> None:
        """Let others in, and leave nothing behind."""
        if self.file:
            if fcntl is None:  # Windows removes no file that is open; elsewhere the next one finds that it is gone
                self.file.close()
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.file.close()
        for folder in reversed(self.made):  # where nothing came of it
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_) -> None:
        self.release()


def fixed_names() -> Lock:
    """That of checkpoints/ and weights/, where all runs publish: the next one waits the moment that it takes. Who wants
    that of a pair as well takes that first."""
    return Lock(Path("weights/.lock"), "checkpoints/ and weights/", waits=True)


def of_pair(cfg: Path, waits: bool = False) -> Lock:
    """That of a Darknet cfg and its weights, and of all that is written with them."""
    return Lock(cfg.with_name(f".{cfg.stem}.lock"), str(cfg), waits)
