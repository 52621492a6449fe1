"""How pictures are read, as the scripts' flags say it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadOptions:
    """--skip-bad, --cache-gb (memory for decoded images, per loader process), and --scorer: "reference" scores on a
    canvas of its own."""

    skip_bad: bool = False
    cache_gb: float = 0.5
    scorer: str = "standard"
