"""One program at a time writes to a folder."""

import contextlib
import os
import platform
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class LockError(ValueError):
    """Another program writes to the folder."""


class Lock:
    """A lock file beside what a program writes, held until `release` or the program's end, however it ends. It holds
    the program's machine and process number. A file system without locks lets everybody in."""

    def __init__(self, path: Path, what: str):
        """what: what is written there, for the message. Raises LockError where another process holds it."""
        self.path, self.file = path, None
        self.made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.file = self._taken()
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip()[:200] if path.exists() else ""
            if holder != self._own():  # an object of this very process that is gone, or about to go
                raise LockError(f"{what}: {holder or 'another program'} is writing there; wait until it ends, or "
                                "choose another place") from None
            return
        self.file.truncate(0)
        self.file.write(self._own())
        self.file.flush()

    def _own(self) -> str:
        return f"process {os.getpid()} on {platform.node()}"

    def _taken(self):
        """The locked file that is at the path: the one before may have been removed by whoever let go of it."""
        while True:
            file = open(self.path, "a+", encoding="utf-8")
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
            self.path.unlink(missing_ok=True)
            self.file.close()
        for folder in self.made:  # where nothing came of it
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_) -> None:
        self.release()
