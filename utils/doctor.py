"""What this machine can do for this project: processor, GPU, packages, and whether memory and disk suffice for a net.

    python -m utils.doctor
    python -m utils.doctor --cfg config/yolov3-hand.cfg --batch 8 --img_size 416
"""

import argparse
import importlib.metadata
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from utils import cli
from utils.text import gigabytes

ROOT = Path(__file__).resolve().parent.parent


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = cli.Parser(prog="python -m utils.doctor", description=__doc__)
    p.add_argument("--model_def", "--cfg", dest="cfg", metavar="CFG", help="also say what this net needs")
    p.add_argument("--batch_size", "--batch", dest="batch_size", type=cli.whole(1, cli.limits.MOST_BATCH), default=16,
                   metavar="N", help="images per batch")
    p.add_argument("--img_size", type=cli.pixels, metavar="PX",
                   help="square input size (default: the cfg's width and height)")
    args = p.parse_args(argv)
    p.require_partner(p.typed(argv), ["batch_size", "img_size"], "--cfg", bool(args.cfg))
    return args


def main() -> int:
    """Look at each, print a line on each; 1 where something that is needed is missing."""
    args = parse_args()
    installed = packages()
    whole = not any(finding.mark == BAD for finding in installed)  # what looks further is made of these packages
    sections = ({"machine": machine()} if whole else {}) | {"packages": installed}
    if args.cfg and whole:
        sections[f"{args.cfg}, {args.batch_size} images per batch"] = net(args)
    for title, findings in sections.items():
        print(f"{title}")
        for finding in findings:
            print(f"  {finding.mark}  {finding.words}")
    return 1 if any(finding.mark == BAD for findings in sections.values() for finding in findings) else 0


GOOD, NOTE, BAD = "ok  ", "note", "BAD "


@dataclass(frozen=True)
class Finding:
    """A line of the report. mark: GOOD, NOTE (does without) or BAD (something will not work)."""

    mark: str
    words: str


# ---- the machine

def machine() -> list[Finding]:
    """Processor, memory, disk, GPUs."""
    from utils.memory import machine_memory
    from utils.output import environment

    about, memory = environment(), machine_memory()
    found = [Finding(GOOD, f"Python {about['python']}, torch {about['torch']}, commit {about['commit']}"),
             Finding(GOOD, f"processor: {about['processor']}, {usable_cores()} cores, {about['threads']} threads of "
                           "torch"), *abilities()]
    if memory.total:
        free = f", {gigabytes(memory.available)} of it available" if memory.available is not None else ""
        found.append(Finding(GOOD, f"memory: {gigabytes(memory.total)}{free}"))
    found.append(Finding(GOOD, f"disk: {gigabytes(shutil.disk_usage('.').free)} free in {Path.cwd()}"))
    return found + gpus()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def abilities(cpuinfo: str | None = None) -> list[Finding]:
    """What the processor has of ABILITIES, by the text of /proc/cpuinfo (default: this machine's)."""
    from utils.deploy.processor import ABILITIES, instructions, int8_words

    has = {words: bool(instructions(flags, cpuinfo)) for words, flags in ABILITIES.items()}
    if not any(has.values()):
        return [Finding(NOTE, "instructions: the system does not say which the processor has")]
    lacking = [words for words, there in has.items() if not there]
    words = f"instructions: {', '.join(words for words, there in has.items() if there)}" + (
        f"; without {', '.join(lacking)}" if lacking else "")
    return [Finding(GOOD, words)] + ([Finding(NOTE, f"int8: {int8_words()}")] if cpuinfo is None else [])


def gpus() -> list[Finding]:
    """CUDA devices, as torch sees them."""
    import torch

    if not torch.cuda.is_available():
        return [Finding(NOTE, "CUDA: none; training and detection run on the processor")]
    found = []
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        found.append(Finding(GOOD, f"cuda:{i}: {about.name}, {gigabytes(about.total_memory)}"))
    return found


# ---- packages

@dataclass(frozen=True)
class Requirement:
    """A line of a requirements file."""

    name: str
    bounds: str  # such as ">=4.9,<5"
    purpose: str  # its comment

    @property
    def pip(self) -> str:
        """The command that installs it."""
        return f"pip install '{self.name}{self.bounds}'"


def requirements(path: Path) -> Iterator[Requirement]:
    """The packages that a requirements file lists."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9_.-]+)\s*([<>=!~][^#\s]*)?\s*(?:#\s*(.*))?$", line):
            yield Requirement(match[1], match[2] or "", match[3] or "")


def packages() -> list[Finding]:
    """Required packages that are missing or too old, then optional ones."""
    needed = [finding for one in requirements(ROOT / "requirements.txt") for finding in judged(one, BAD)]
    optional = [finding for one in requirements(ROOT / "requirements-optional.txt") for finding in judged(one, NOTE)]
    summary = [Finding(GOOD, "all that are needed are installed")] if not needed else []
    return summary + needed + (optional or [Finding(GOOD, "all optional ones are installed")])


def judged(one: Requirement, mark: str) -> list[Finding]:
    """What is wrong with a package, with the command that mends it; nothing where it is as required."""
    purpose = f" (for {one.purpose})" if one.purpose else ""
    try:
        version = importlib.metadata.version(one.name)
    except importlib.metadata.PackageNotFoundError:
        return [Finding(mark, f"{one.name}: not installed{purpose}: {one.pip}")]
    if not fits(version, one.bounds):
        return [Finding(mark, f"{one.name}: {version} is installed, expected {one.bounds}{purpose}: {one.pip}")]
    return []


def fits(version: str, bounds: str) -> bool:
    """Whether a version such as 2.6.0+cpu is within bounds such as ">=2.6,<3"."""
    compare = {">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, "<": lambda a, b: a < b,
               "==": lambda a, b: a == b}
    for bound in filter(None, bounds.split(",")):
        operator, wanted = re.match(r"([<>=]=?)(.*)", bound).groups()
        parts = release(version), release(wanted)
        length = max(map(len, parts))
        one, other = (part + (0,) * (length - len(part)) for part in parts)
        if not compare[operator](one, other):
            return False
    return True


def release(version: str) -> tuple[int, ...]:
    """(2, 6, 0) of "2.6.0+cpu"."""
    return tuple(int(part) for part in re.match(r"[0-9.]*", version)[0].split(".") if part)


# ---- a net

def net(args: argparse.Namespace) -> list[Finding]:
    """Whether memory and disk suffice for --cfg, --batch_size and --img_size."""
    from utils.loading import checked_size, resolve_cfg
    from utils.memory import machine_memory, needs
    from utils.parse_config import parse_model_config
    from utils.shapes import total_cost

    defs = parse_model_config(resolve_cfg(args.cfg))
    size = checked_size(args.img_size, defs)
    cost, needed, memory = total_cost(defs, *size), needs(defs, args.batch_size, size), machine_memory()
    return [Finding(GOOD, f"{cost.parameters / 1e6:.2f} million parameters, {2 * cost.macs / 1e9:.1f} GFLOPs for an "
                          f"image of {size[0]}x{size[1]}"),
            judge("training takes", needed.training, memory.available, "memory", "a smaller --batch_size (with "
                  "--accumulate for the same step) or --img_size"),
            judge("scoring and detection take", needed.inference, memory.available, "memory", "a smaller --batch_size "
                  "or --img_size"),
            judge("a run's files take", needed.disk, shutil.disk_usage(".").free, "disk", "room on this disk"),
            Finding(NOTE, "memory is estimated from the cfg, in float32: weights (four times in training), the maps "
                          "that the backward pass needs, workspace, and 0.7 GB for the program; loader processes take "
                          "more: --n_cpu times (0.5 GB + --cache-gb)")]


def judge(what: str, needed: int, there: int | None, of: str, remedy: str) -> Finding:
    """A finding about an amount of bytes that is needed and one that is there."""
    if there is None:
        return Finding(NOTE, f"{what} about {gigabytes(needed)} of {of}; how much there is cannot be told here")
    if needed > there:
        return Finding(BAD, f"{what} about {gigabytes(needed)} of {of}, {gigabytes(there)} are free: take {remedy}")
    return Finding(GOOD, f"{what} about {gigabytes(needed)} of {of}, {gigabytes(there)} are free")


if __name__ == "__main__":
    cli.run(main)
