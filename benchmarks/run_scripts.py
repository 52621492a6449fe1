"""Contestants that are whole programs. They run in worker processes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python(words: list[str]):
    """`python WORDS` in the project's folder, from start to end."""

    def run() -> None:
        """Raises RuntimeError with the program's last line when it fails."""
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")

    return run
