"""python -m tests.kill: kill training, sparsity training, pruning and publishing at random moments, and look at what is
left: no half file, nothing lost but the last steps, and in the end what an unbroken run would have made."""

import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # before the conftest of the root

import torch  # noqa: E402
from conftest import TINY_YOLO, make_dataset, randomise  # noqa: E402

import test_prune  # noqa: E402
import train  # noqa: E402
from models import Darknet  # noqa: E402
from utils import cli  # noqa: E402
from utils.checkpoint import read_checkpoint  # noqa: E402
from utils.output import environment, write_json  # noqa: E402

TRAIN = "--cfg net.cfg --data d.data --batch_size 4 --n_cpu 0 --epochs 3 --no-pictures --save-minutes 1e-9"
PRUNE = "--cfg net.cfg --weights net.weights --data d.data --n_cpu 0 --repeats 0 --out out"


def child(work: Callable[[], None], seconds: float | None = None) -> tuple[float, int]:
    """Do `work` in a process of its own, killed after `seconds`; (how long it took, its wait status). The libraries are
    loaded by then, so that a kill meets the work and not the start."""
    started, process = time.monotonic(), os.fork()
    if not process:
        nowhere = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            work()
        except SystemExit as end:
            os._exit(end.code or 0)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    return time.monotonic() - started, status


def command(main: Callable[[], None], words: str) -> Callable[[], None]:
    """A script's main with a command line."""
    def work() -> None:
        sys.argv = [main.__module__ + ".py", *words.split()]
        main()
    return work


def must_work(words: str, main: Callable[[], None]) -> float:
    """Run a command to its end; returns its seconds. Raises AssertionError where it fails."""
    seconds, status = child(command(main, words))
    assert status == 0, f"{words}: {Path('said.txt').read_text()[-2000:]}"
    return seconds


def check_files() -> None:
    """Every file that is there is whole."""
    for path in Path(".").rglob("*"):
        if path.suffix in (".pth", ".pt"):
            read_checkpoint(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.name == "metrics.csv":
            with open(path, newline="") as file:
                assert all(None not in row.values() for row in csv.DictReader(file)), f"{path}: a row cut short"


def content(name: str) -> dict:
    """A checkpoint, but for what says when and where it was made."""
    return {key: value for key, value in read_checkpoint(name).items() if key not in ("args", "run", "seconds")}


def equal(one, other) -> bool:
    """Whether two checkpoints hold the same."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def kill_training(kills: int, chance: random.Random, flags: str = "") -> Iterator[str]:
    """Kill a run again and again, resuming it each time; yields where each kill met it."""
    whole = must_work(f"{TRAIN} {flags} --name whole", train.main)
    for number in range(kills):
        begun = Path("logs/a/last.pth").exists()
        words = "--resume logs/a --n_cpu 0" if begun else f"{TRAIN} {flags} --name a"
        _, status = child(command(train.main, words), chance.uniform(0, whole))
        assert os.WIFSIGNALED(status) or not os.WEXITSTATUS(status) or finished(), Path("said.txt").read_text()[-2000:]
        check_files()
        last = read_checkpoint("logs/a/last.pth") if Path("logs/a/last.pth").exists() else {}
        yield f"epoch {last.get('under_way', 0)}, batch {last.get('batch', 0)}"
        if finished():  # before all kills were done: begin anew
            compare()
            for path in sorted(Path("logs/a").iterdir()):
                path.unlink()
    if not Path("logs/a/last.pth").exists():
        must_work(f"{TRAIN} {flags} --name a", train.main)
    elif not finished():
        must_work("--resume logs/a --n_cpu 0", train.main)
    compare()


def finished() -> bool:
    """Whether the run that is killed came to its end."""
    return Path("logs/a/published.txt").exists()


def compare() -> None:
    """Raise AssertionError where the run that was killed is not what the unbroken one is."""
    for name in ("last", "best"):
        assert equal(content(f"logs/whole/{name}.pth"), content(f"logs/a/{name}.pth")), f"{name}.pth: another run"
    assert equal(read_checkpoint("logs/a/best.pth")["model"], read_checkpoint("weights/best.pt")["model"])


def kill_pruning(kills: int, chance: random.Random) -> Iterator[str]:
    """Kill test_prune.py where an earlier pruning lies; the earlier or the new one loads, whole."""
    earlier, later = f"{PRUNE} --percent 0.2", f"{PRUNE} --percent 0.6"
    whole = must_work(earlier, test_prune.main)
    for number in range(kills):
        percent, words = (0.6, later) if number % 2 == 0 else (0.2, earlier)
        child(command(test_prune.main, words), chance.uniform(0.5, 1.1) * whole)
        check_files()
        net = Darknet("out/net-pruned.cfg")
        net.load_darknet_weights("out/net-pruned.weights")
        yield f"in --percent {percent}: a net of {sum(p.numel() for p in net.parameters()):,} parameters loads"
    must_work(later, test_prune.main)


def kill_publishing(kills: int, chance: random.Random) -> Iterator[str]:
    """Kill a finished run while it publishes over its own start, a Darknet pair; the start is kept."""
    Path("pruned").mkdir()
    Path("pruned/net.cfg").write_text(Path("net.cfg").read_text())
    start = Path("net.weights").read_bytes()
    Path("pruned/net.weights").write_bytes(start)
    must_work(f"{TRAIN} --cfg pruned/net.cfg --weights pruned/net.weights --name a", train.main)
    for number in range(kills):
        Path("logs/a/published.txt").unlink(missing_ok=True)
        whole = must_work("--resume logs/a --n_cpu 0", train.main)
        Path("logs/a/published.txt").unlink()
        child(command(train.main, "--resume logs/a --n_cpu 0"), chance.uniform(0.5, 1) * whole)
        check_files()
        assert Path("pruned/net-init.weights").read_bytes() == start, "the start is lost"
        Darknet("pruned/net.cfg").load_darknet_weights("pruned/net.weights")
        yield "published" if finished() else "cut off"


SCENES = {"train": kill_training, "train -sr": lambda kills, chance: kill_training(kills, chance, "-sr --accumulate 2"),
          "test_prune": kill_pruning, "publishing": kill_publishing}


def main() -> None:
    """Kill each scene so many times, and write down where."""
    p = cli.Parser(prog="python -m tests.kill", description=__doc__)
    p.add_argument("--kills", type=cli.positive_int, default=20, metavar="N", help="of each scene")
    p.add_argument("--seed", type=cli.seed, default=0, help="of the moments")
    p.add_argument("--out", type=Path, default=Path("output/kill.json"), metavar="FILE", help="what was seen")
    args = p.parse_args()
    out, seen = args.out.resolve(), {}
    torch.set_num_threads(1)
    for name, scene in SCENES.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            listing = make_dataset(Path("pictures").resolve(), 24, size=(40, 40))
            Path("d.data").write_text(f"classes=1\ntrain={listing}\nvalid={listing}\n")
            Path("net.cfg").write_text(TINY_YOLO)
            torch.manual_seed(0)
            net = Darknet("net.cfg")
            randomise(net)
            net.save_darknet_weights("net.weights")
            seen[name] = []
            for place in scene(args.kills, random.Random(args.seed)):
                seen[name].append(place)
                print(f"{name}: kill {len(seen[name])}: {place}", flush=True)
            os.chdir("/")
    write_json(out, {"kills": args.kills, "seed": args.seed, "seen": seen, "environment": environment()})
    print(f"nothing lost: {out}")


if __name__ == "__main__":
    cli.run(main)
