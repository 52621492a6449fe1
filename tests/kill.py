"""python -m tests.kill: kill training, sparsity training, pruning and publishing (kill -9) at random moments, and look
at what is left: no half file, nothing lost but the last steps, and in the end, bit for bit, what an unbroken run makes.
"""

import csv
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # before the conftest of the root

import torch  # noqa: E402

import test_prune  # noqa: E402
import train  # noqa: E402
from conftest import TINY_YOLO, make_dataset, randomise  # noqa: E402
from models import Darknet  # noqa: E402
from utils import cli  # noqa: E402
from utils.checkpoint import read_checkpoint  # noqa: E402
from utils.output import environment, write_json  # noqa: E402
from utils.pruning import compact  # noqa: E402
from utils.training import trainer  # noqa: E402

TRAIN = "--cfg net.cfg --data d.data --batch_size 4 --n_cpu 0 --epochs 2 --no-pictures --save-minutes 1e-9"
PRUNE = "--cfg net.cfg --weights net.weights --data d.data --n_cpu 0 --repeats 0"
RESUME = "--resume logs/a --n_cpu 0"
PUBLISHED = {"weights/best.pt": "best", "weights/net_ckpt.pth": "best", "checkpoints/net_ckpt.pth": "last"}
TIMED = ("seconds", "images_per_s")  # columns of metrics.csv
# what the scripts, and torch, import where it is first used; a kill is to meet the work and not the import
LOADED = ("torch._dynamo", "torchvision.ops", "matplotlib.pyplot", "utils.training.pictures", "utils.training.resume",
          "utils.training.new_cfg", "utils.pruning.prospect", "utils.pruning.analysis",
          "utils.pruning.report", "utils.pruning.iterative", "utils.deploy.darknet_export", "utils.deploy.drawing")


def child(work: Callable[[], None], begins: tuple, seconds: float | None = None) -> tuple[float, bool]:
    """Do `work` in a process of its own; returns how long it took and whether it was killed, after `seconds`. begins:
    the clock starts when this attribute (object, name), a function, is called. Raises AssertionError where it
    failed."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        whole = getattr(*begins)
        setattr(*begins, lambda *args: (os.write(writing, b"."), whole(*args))[1])
        _do(work)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    started = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or not os.WEXITSTATUS(status), said()
    return time.monotonic() - started, os.WIFSIGNALED(status)


def training(words: str, seconds: float | None = None) -> tuple[float, bool]:
    """train.py, from where it has read its net and data on, as `child`."""
    return child(command(train.main, words), (trainer.Trainer, "announce"), seconds)


def pruning(words: str, seconds: float | None = None) -> tuple[float, bool]:
    """test_prune.py, likewise."""
    return child(command(test_prune.main, f"{PRUNE} {words}"), (compact, "prune_and_eval"), seconds)


def _do(work: Callable[[], None]) -> NoReturn:
    """Do `work` and end this process; what it says goes to said.txt."""
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        work()
    except SystemExit as end:
        os._exit(end.code or 0)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
        os._exit(1)
    os._exit(0)


def command(main: Callable[[], None], words: str) -> Callable[[], None]:
    """A script's main with a command line."""
    def work() -> None:
        sys.argv = [main.__module__ + ".py", *words.split()]
        main()
    return work


def said() -> str:
    """The last words of a child."""
    return Path("said.txt").read_text()[-2000:]


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


def metrics(run: str) -> list[dict]:
    """metrics.csv of a run, but for what its machine was busy with."""
    with open(f"logs/{run}/metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMED} for row in csv.DictReader(file)]


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
    whole, _ = training(f"{TRAIN} {flags} --name whole")
    begin, met = f"{TRAIN} {flags} --name a", 0
    while met < kills:
        words = RESUME if Path("logs/a/last.pth").exists() else begin
        killed = training(words, chance.uniform(0, whole))[1]
        check_files()
        if killed:
            met += 1
            yield place()
        if finished():  # before all kills were done: begin anew
            compare()
            shutil.rmtree("logs/a")
    training(RESUME if Path("logs/a/last.pth").exists() else begin)
    compare()


def place() -> str:
    """How far the run has come, by what it has saved."""
    if not Path("logs/a/last.pth").exists():
        return "before the first step was saved"
    last = read_checkpoint("logs/a/last.pth")
    there = "scored" if last["epoch"] == last["under_way"] else f"batch {last['batch']}"
    return f"epoch {last['under_way']}, {there}" + ", published" * finished()


def finished() -> bool:
    """Whether the run that is killed came to its end."""
    return Path("logs/a/published.txt").exists()


def compare() -> None:
    """Raise AssertionError where the run that was killed is not what the unbroken one is."""
    for name in ("last", "best"):
        assert equal(content(f"logs/whole/{name}.pth"), content(f"logs/a/{name}.pth")), f"{name}.pth: another run"
    assert metrics("whole") == metrics("a"), "metrics.csv: another run"
    compare_published()


def compare_published() -> None:
    """Raise AssertionError where what lies under the fixed names is not the run's."""
    for name, kind in PUBLISHED.items():
        assert equal(read_checkpoint(f"logs/a/{kind}.pth")["model"], read_checkpoint(name)["model"]), name


def kill_pruning(kills: int, chance: random.Random) -> Iterator[str]:
    """Kill test_prune.py where an earlier pruning lies; the earlier or the new one is there, bit for bit."""
    cuts, made = (0.2, 0.6), {}
    for percent in cuts:
        whole, _ = pruning(f"--percent {percent} --out whole{percent}")
        made[percent] = pruned(Path(f"whole{percent}"))
    shutil.copytree(f"whole{cuts[0]}", "out")
    found, met = cuts[0], 0
    while met < kills:
        percent = cuts[cuts[0] == found]
        _, killed = pruning(f"--percent {percent} --out out", whole * chance.random() ** 3)  # pictures end it: longest
        check_files()
        found = next((percent for percent in cuts if equal(pruned(Path("out")), made[percent])), None)
        assert found, "out: a mixture of two prunings"
        if killed:
            met += 1
            yield f"under way to --percent {percent}: {found} is there"
    pruning(f"--percent {cuts[1]} --out out")
    assert equal(pruned(Path("out")), made[cuts[1]])


def pruned(folder: Path) -> list:
    """What a pruning made: the Darknet pair, which loads, and the checkpoint's net."""
    Darknet(folder / "net-pruned.cfg").load_darknet_weights(folder / "net-pruned.weights")
    return [(folder / f"net-pruned{suffix}").read_bytes() for suffix in (".cfg", ".weights")] + [
        read_checkpoint(folder / "prune_net_ckpt.pth")["model"]]


def kill_publishing(kills: int, chance: random.Random) -> Iterator[str]:
    """Kill a finished run while it publishes over its own start, a Darknet pair; the start is kept."""
    Path("pruned").mkdir()
    Path("pruned/net.cfg").write_text(Path("net.cfg").read_text())
    start = Path("net.weights").read_bytes()
    Path("pruned/net.weights").write_bytes(start)
    training(f"{TRAIN} --cfg pruned/net.cfg --weights pruned/net.weights --name a")
    tuned = Path("pruned/net.weights").read_bytes()
    whole, met = publish(start)[0], 0
    while met < kills:
        killed = publish(start, chance.uniform(0, whole))[1]
        check_files()
        assert Path("pruned/net-init.weights").read_bytes() == start, "the start is lost"
        assert Path("pruned/net.weights").read_bytes() in (start, tuned), "pruned/net.weights: neither start nor best"
        if killed:
            met += 1
            written = len(list(Path().rglob("*.tmp")))
            yield "after it was done" if finished() else f"{written} files written, not in place"
        if not finished():
            training(RESUME)
        assert Path("pruned/net.weights").read_bytes() == tuned, "pruned/net.weights: not the best"
        compare_published()


def publish(start: bytes, seconds: float | None = None) -> tuple[float, bool]:
    """Publish logs/a over pruned/net.weights, which is its `start` again, in a process that is killed so many seconds
    after it has begun to; returns as `child`."""
    Path("logs/a/published.txt").unlink()
    Path("pruned/net.weights").write_bytes(start)
    return child(command(train.main, RESUME), (trainer, "publish"), seconds)


SCENES = {"train": kill_training, "sparsity": lambda kills, chance: kill_training(kills, chance, "-sr --accumulate 2"),
          "test_prune": kill_pruning, "publish": kill_publishing}


def prepare() -> None:
    """A data set and a net in this folder."""
    listing = make_dataset(Path("pictures").resolve(), 96, size=(40, 40))
    few = listing.with_name("few.txt")
    few.write_text("".join(listing.read_text().splitlines(True)[:8]))
    Path("d.data").write_text(f"classes=1\ntrain={listing}\nvalid={few}\n")
    Path("net.cfg").write_text(TINY_YOLO)
    torch.manual_seed(0)
    net = Darknet("net.cfg")
    randomise(net)
    net.save_darknet_weights("net.weights")


def main() -> None:
    """Kill each scene so many times, and write down where."""
    p = cli.Parser(prog="python -m tests.kill", description=__doc__)
    p.add_argument("--kills", type=cli.positive_int, default=20, metavar="N", help="of each scene")
    p.add_argument("--scenes", nargs="+", choices=tuple(SCENES), default=list(SCENES), metavar="SCENE",
                   help=f"what is killed: {', '.join(SCENES)}")
    p.add_argument("--seed", type=cli.seed, default=0, help="of the moments")
    p.add_argument("--out", type=Path, default=Path("output/kill.json"), metavar="FILE", help="what was seen")
    args = p.parse_args()
    out, seen = args.out.resolve(), {}
    torch.set_num_threads(1)
    for name in LOADED:
        importlib.import_module(name)
    for name in args.scenes:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            prepare()
            seen[name] = []
            for found in SCENES[name](args.kills, random.Random(args.seed)):
                seen[name].append(found)
                print(f"{name}: kill {len(seen[name])}: {found}", flush=True)
            os.chdir("/")
    write_json(out, {"kills": args.kills, "seed": args.seed, "seen": seen, "environment": environment()})
    print(f"nothing lost: {out}")


if __name__ == "__main__":
    cli.run(main)
