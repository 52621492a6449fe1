"""What a run that is cut off leaves behind, and that --resume goes on from there bit for bit."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

import test_prune
import train
from conftest import HANG, ROOT, make_dataset
from models import Darknet
from nets import TINY, cfg_text, with_layer
from utils import signals, torchrun
from utils.checkpoint import read_checkpoint
from utils.data.yolo_labels import DataError
from utils.lock import Lock, LockError
from utils.training import restart, trainer
from utils.training.args import parse_train_args, train_options
from utils.training.batches import Batches
from utils.training.objective import Objective
from utils.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal():
    """nohup and a shell's & make a program ignore SIGHUP and SIGINT, and all that it starts; train.py respects that."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

TIMED = ("seconds", "images_per_s")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs train.py in this process, on 64 small pictures and a net with [dropout]."""
    monkeypatch.chdir(tmp_path)
    listing = make_dataset(tmp_path / "pictures", 64, size=(40, 40))
    Path("d.data").write_text(f"classes=1\ntrain={listing}\nvalid={listing}\n")
    Path("net.cfg").write_text(cfg_text(with_layer(TINY, "expand", dropout="[dropout]\nprobability=.5\n")))
    assert any(isinstance(module, torch.nn.Dropout) for module in Darknet("net.cfg").modules())

    def main(*flags):
        begin = [] if "--resume" in flags else ["--cfg", "net.cfg", "--data", "d.data", "--batch_size", "8",
                                                "--epochs", "2", "--img_size", "32"]
        begin += ["--no-pictures"] if begin and "--with-pictures" not in flags else []
        flags = [str(flag) for flag in flags if flag != "--with-pictures"]
        monkeypatch.setattr("sys.argv", ["train.py", *begin, *flags])
        try:
            train.main()
        except BaseException as error:
            # with its frames go its loaders; left to the garbage collector, each would wait 8 s for its processes
            traceback.clear_frames(error.__traceback__)
            raise
    return main


def cut_off(monkeypatch, number, batch, where=(Objective, "__call__")):
    """Send this process a signal in the given call of a function, once."""
    owner, name = where
    whole, calls = getattr(owner, name), []

    def cut(*args, **options):
        calls.append(name)
        if len(calls) == batch:
            os.kill(os.getpid(), number)
        return whole(*args, **options)
    monkeypatch.setattr(owner, name, cut)


def state(name):
    """What --resume would restore, but for times."""
    content = read_checkpoint(f"logs/{name}/last.pth")
    return {key: value for key, value in content.items() if key not in ("args", "run", "seconds")}


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def rows(name):
    with open(f"logs/{name}/metrics.csv") as file:
        return [{key: value for key, value in row.items() if key not in TIMED} for row in csv.DictReader(file)]


@pytest.mark.parametrize("number, batch, flags", [
    (signal.SIGTERM, 11, ()),
    (signal.SIGINT, 3, ("-sr", "--s", "0.05", "--accumulate", "3", "--mosaic", "0.5")),
    (signal.SIGHUP, 8, ("--multiscale_training", "--ema", "0")),
])
def test_a_run_that_is_told_to_end_goes_on_from_its_last_step_as_if_unbroken(run, monkeypatch, number, batch, flags):
    """With [dropout], whatever the number of loader processes before and after."""
    run("--name", "whole", "--n_cpu", "0", *flags)
    with monkeypatch.context() as patch, pytest.raises(signals.Ended) as ended:
        cut_off(patch, number, batch)
        run("--name", "broken", "--n_cpu", "2", *flags)
    assert signals.exit_status(ended.value) == 128 + number
    left = read_checkpoint("logs/broken/last.pth")
    assert (left["under_way"], left["batch"]) == {11: (2, 3), 3: (1, 3), 8: (1, 8)}[batch]
    torch.manual_seed(99)  # whatever happened in between
    run("--resume", "logs/broken", "--n_cpu", "1")
    assert equal(state("whole"), state("broken")) and rows("whole") == rows("broken")


def test_a_run_that_is_told_to_end_while_it_is_scored_scores_that_epoch_again(run, monkeypatch):
    import utils.training.trainer as module

    run("--name", "whole", "--n_cpu", "0")
    with monkeypatch.context() as patch, pytest.raises(signals.Ended), signals.raised():
        cut_off(patch, signal.SIGTERM, 2, (module, "evaluate"))
        run("--name", "broken", "--n_cpu", "0")
    left = read_checkpoint("logs/broken/last.pth")
    assert (left["epoch"], left["under_way"], left["batch"]) == (1, 2, 8)
    run("--resume", "logs/broken", "--n_cpu", "0")
    assert equal(state("whole"), state("broken")) and rows("whole") == rows("broken")


def test_a_run_saves_within_an_epoch_every_few_minutes(run, monkeypatch):
    places = []
    whole = RunFolder.save
    monkeypatch.setattr(RunFolder, "save", lambda self, content, resume, *more: places.append(
        (resume["under_way"], resume["batch"])) or whole(self, content, resume, *more))
    run("--name", "often", "--n_cpu", "0", "--epochs", "1", "--save-minutes", "1e-9", "--accumulate", "3")
    assert places == [(1, 3), (1, 6), (1, 8), (1, 8)]
    places.clear()
    run("--name", "never", "--n_cpu", "0", "--epochs", "1", "--save-minutes", "0")
    assert places == [(1, 8)]


def test_a_run_saves_every_few_epochs_and_the_best_and_the_last(run, monkeypatch):
    epochs = []
    whole = RunFolder.save
    monkeypatch.setattr(RunFolder, "save", lambda self, content, resume, *more: epochs.append(
        content["epoch"]) or whole(self, content, resume, *more))
    run("--name", "seldom", "--n_cpu", "0", "--epochs", "5", "--save_interval", "2", "--evaluation_interval", "5")
    assert epochs == [2, 4, 5]
    epochs.clear()
    scores = iter([0.3, 0.2, 0.4, 0.1])
    monkeypatch.setattr("utils.training.trainer.evaluate", lambda *_, real=trainer.evaluate: dataclasses.replace(
        real(*_), map50=next(scores)))
    run("--name", "best", "--n_cpu", "0", "--epochs", "4", "--save_interval", "9")
    assert epochs == [1, 3, 4]


def test_without_save_on_signal_a_run_ends_at_once_and_its_last_epoch_stays(run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(signals.Ended), signals.raised():
        cut_off(patch, signal.SIGTERM, 11)
        run("--name", "broken", "--n_cpu", "0", "--no-save-on-signal")
    left = read_checkpoint("logs/broken/last.pth")
    assert (left["epoch"], left["under_way"]) == (1, 1)


def start(*flags, **more):
    """train.py as a process of its own, in a group of its own."""
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), "--cfg", "net.cfg", "--data", "d.data",
                             "--batch_size", "4", "--img_size", "32", "--no-pictures", "--device", "cpu", *flags],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, **more)


def until(condition):
    """Wait for something that comes in the end."""
    end = time.monotonic() + HANG
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def children(process):
    """Numbers of the processes that a process started and that are there."""
    listing = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in listing.read_text().split()] if listing.exists() else []


def gone(process):
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize("number, whole_group", [(signal.SIGTERM, True), (signal.SIGINT, True),
                                                 (signal.SIGKILL, False)])
def test_no_loader_process_outlives_its_run_nor_says_a_word(run, number, whole_group):
    process = start("--n_cpu", "2", "--epochs", "1000", "--name", "a", "--evaluation_interval", "1000")
    until(lambda: (Path("logs/a/last.pth").exists() or process.poll() is not None) and len(children(process.pid)) >= 2
          or process.poll() is not None)
    workers = children(process.pid)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=HANG)
    until(lambda: all(map(gone, workers)))
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number and error == f"stopped by {number.name}\n"
        assert read_checkpoint("logs/a/last.pth")["batch"] > 0


def test_one_process_at_a_time_has_a_run(run):
    process = start("--n_cpu", "0", "--epochs", "1000", "--name", "a", "--evaluation_interval", "1000")
    until(lambda: Path("logs/a/last.pth").exists() or process.poll() is not None)
    with pytest.raises(LockError, match=f"logs/a: process {process.pid} on .* is writing there"):
        run("--resume", "logs/a", "--n_cpu", "0")
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    Lock(Path("logs/a/.lock"), "logs/a").release()  # it died with the process


@pytest.fixture
def hold():
    """A function that holds a lock in a process of its own; returns that."""
    holders = []

    def start_holding(path):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        holders.append(holder)
        assert holder.stdout.readline() == "held\n"
        return holder
    yield start_holding
    for holder in holders:
        holder.kill()
        holder.communicate()


HOLD = """
import sys
import traceback
from pathlib import Path
from utils.lock import Lock
lock = Lock(Path(sys.argv[1]), "x")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_that_another_process_has_is_not_even_read(run, hold):
    Path("logs/a").mkdir(parents=True)
    Path("logs/a/last.pth").write_text("half of what the other one is writing")
    holder = hold("logs/a/.lock")
    for name in ("logs/a", "logs/a/last.pth"):
        with pytest.raises(LockError, match=f"logs/a: process {holder.pid} on .* is writing there"):
            run("--resume", name, "--n_cpu", "0")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run("--resume", "logs/nowhere", "--n_cpu", "0")
    assert not Path("logs/nowhere").exists()


def in_child(work, said):
    """Do `work` in a child process that prints into the file `said`; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 1)
        sys.stdout = os.fdopen(1, "w")  # not what pytest captures
        work()
    except BaseException as error:
        print(repr(error))
    finally:
        sys.stdout.flush()
        os._exit(0)


@pytest.mark.parametrize("path, flags", [
    ("weights/.lock", ()), ("pruned/.net.lock", ("--cfg", "pruned/net.cfg", "--weights", "pruned/net.weights"))])
def test_who_publishes_waits_until_another_has_done_so(run, hold, path, flags):
    Path("pruned").mkdir()
    Path("pruned/net.cfg").write_text(Path("net.cfg").read_text())
    Darknet("net.cfg").save_darknet_weights("pruned/net.weights")
    holder = hold(path)
    child = in_child(lambda: run("--name", "a", "--n_cpu", "0", "--epochs", "1", *flags), "said.txt")
    until(lambda: "waiting until it is done" in Path("said.txt").read_text() if Path("said.txt").exists() else None)
    assert Path("logs/a/best.pth").exists() and not list(Path().rglob("*_ckpt.pth"))
    assert f": process {holder.pid} on " in Path("said.txt").read_text()
    holder.kill()
    os.waitpid(child, 0)
    assert Path("logs/a/published.txt").exists() and Path("weights/best.pt").exists() and not Path(path).exists()


def test_a_pruning_waits_until_a_run_has_published(run, hold, monkeypatch):
    Darknet("net.cfg").save_darknet_weights("net.weights")
    holder = hold("weights/.lock")
    words = "--cfg net.cfg --weights net.weights --data d.data --no-eval --n_cpu 0 --repeats 0"
    monkeypatch.setattr("sys.argv", ["test_prune.py", *words.split()])
    child = in_child(test_prune.main, "said.txt")
    until(lambda: "waiting until it is done" in Path("said.txt").read_text() if Path("said.txt").exists() else None)
    assert not [path for path in Path().rglob("*prune*.*") if path.suffix != ".lock"]
    holder.kill()
    os.waitpid(child, 0)
    assert {path.name for path in Path().rglob("*") if path.is_file()} >= {
        "prune_net.cfg", "prune_net_ckpt.pth", "net-pruned.cfg", "net-pruned.weights"}


# ---- a run that comes to nothing

@pytest.mark.parametrize("flags", [(), ("--with-pictures",)])
def test_a_run_whose_first_batch_holds_a_bad_picture_leaves_nothing(run, flags):
    for picture in Path("pictures/images").iterdir():
        picture.write_bytes(picture.read_bytes()[:200])
    before = set(Path().rglob("*"))
    with pytest.raises(DataError, match="cannot be decoded"):
        run("--n_cpu", "0", "--name", "group/a", *flags)
    assert set(Path().rglob("*")) == before


def test_a_picture_that_cannot_be_scored_does_not_cost_the_epoch_before_it(run):
    listing = make_dataset(Path("others").resolve(), 9, size=(40, 40))
    data = Path("d.data").read_text().splitlines()
    Path("d.data").write_text("\n".join([*data[:2], f"valid={listing}"]))
    last = sorted(Path("others/images").iterdir())[-1]
    last.write_bytes((whole := last.read_bytes())[:200])
    with pytest.raises(DataError, match="cannot be decoded"):
        run("--n_cpu", "0", "--name", "a")
    assert state("a")["under_way"] == 1 and not Path("logs/a/metrics.csv").exists()
    last.write_bytes(whole)
    run("--resume", "logs/a", "--n_cpu", "0")
    assert [row["epoch"] for row in rows("a")] == ["1", "2"]


def test_a_run_does_not_go_on_with_other_classes_or_other_pictures(run):
    run("--n_cpu", "0", "--name", "a", "--epochs", "1")
    data = Path("d.data").read_text()
    Path("d.data").write_text(data.replace("classes=1", "classes=2"))
    with pytest.raises(ValueError, match="d.data: found classes 2, expected 1, as when the run"):
        run("--resume", "logs/a", "--epochs", "2")
    listing = Path("pictures/list.txt")
    listing.write_text("".join(listing.read_text().splitlines(keepends=True)[:60]))
    Path("d.data").write_text(data)
    with pytest.raises(ValueError, match="d.data: found training images 60, expected 64, as when the run"):
        run("--resume", "logs/a", "--epochs", "2")


def test_a_cfg_that_was_made_for_a_run_that_comes_to_nothing_goes_as_well(run, monkeypatch):
    def of_epoch(*_):
        assert list(Path("config").iterdir()) and list(Path("logs/a").glob("*.cfg"))
        raise DataError("bad")
    monkeypatch.setattr(Batches, "of_epoch", of_epoch)
    monkeypatch.setattr("sys.argv", "train.py --data d.data --n_cpu 0 --name a --img_size 64".split())
    before = set(Path().rglob("*"))
    with pytest.raises(DataError, match="bad"):
        train.main()
    assert set(Path().rglob("*")) == before


def test_a_run_that_comes_to_nothing_leaves_what_others_have_put_into_its_folder(run, monkeypatch):
    Path("logs/a").mkdir(parents=True)
    Path("logs/a/notes.txt").write_text("mine")
    with monkeypatch.context() as patch, pytest.raises(signals.Ended), signals.raised():
        cut_off(patch, signal.SIGTERM, 1)
        run("--name", "a", "--n_cpu", "0", "--no-save-on-signal")
    assert [path.name for path in Path("logs/a").iterdir()] == ["notes.txt"]


def test_once_a_run_has_saved_its_files_stay(run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(signals.Ended), signals.raised():
        cut_off(patch, signal.SIGTERM, 11)
        run("--name", "a", "--n_cpu", "0", "--no-save-on-signal")
    assert {path.name for path in Path("logs/a").iterdir()} >= {"args.json", "metrics.csv", "last.pth", "best.pth"}


# ---- runs of a group

def test_runs_of_the_same_name_in_two_groups_are_two_runs(run, capsys):
    """What the first published is the second's to replace, and is known to be in the first's folder."""
    for group, seed in (("one", 1), ("two", 2)):
        run("--name", f"{group}/a", "--n_cpu", "0", "--epochs", "1", "--seed", seed)
    assert read_checkpoint("weights/best.pt")["run"] == "two/a"
    assert "replaces that of run one/a (cfg net.cfg, data d.data), which is in logs/one/a/best.pth" in (
        capsys.readouterr().out)
    assert not list(Path().rglob("*-before*"))


class Store(dict):
    """torchrun's, as far as a restart asks it."""

    def set(self, key, value):
        self[key] = value.encode()

    def check(self, keys):
        return all(key in self for key in keys)


def test_processes_that_torchrun_starts_anew_begin_again_in_the_folder_of_their_group(run, monkeypatch):
    store = Store()
    monkeypatch.setattr(torchrun, "launcher_store", lambda: store)
    monkeypatch.setattr(torchrun, "attempt", lambda: "2")
    restart.remember(RunFolder("logs/group/a"))
    options = train_options(vars(parse_train_args("", ["--name", "group/a"])))
    assert restart.continued(options).output.name == "group/a"


# ---- every file is whole or not there

@pytest.fixture(scope="module")
def opened():
    """(event, path, target) of every file that is opened for writing or renamed by this process from now on."""
    events, on = [], [True]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def note(event, arguments):
        if on and event == "open" and isinstance(arguments[0], (str, bytes)) and (arguments[2] or 0) & writing:
            events.append(("open", os.fsdecode(arguments[0]), ""))
        elif on and event == "os.rename":
            events.append(("rename", *map(os.fsdecode, arguments[:2])))
    sys.addaudithook(note)  # there is no way to take it off again
    yield events
    on.clear()


def test_every_file_of_a_run_takes_its_place_by_a_rename(run, tmp_path, opened):
    """Whoever writes one in place would leave half of it when the machine goes down or the disk is full."""
    for name in ("teacher.weights", "pruned/net.weights"):
        Path(name).parent.mkdir(exist_ok=True)
        Darknet("net.cfg").save_darknet_weights(name)
    Path("pruned/net.cfg").write_text(Path("net.cfg").read_text())
    inputs = {path.resolve() for path in Path(".").rglob("*") if path.is_file()}
    opened.clear()
    flags = ("--n_cpu", "0", "--epochs", "1", "--cfg", "pruned/net.cfg", "--weights", "pruned/net.weights",
             "--checkpoint_interval", "1", "--save-minutes", "1e-9")
    run("--name", "first", *flags)
    run("--name", "second", *flags)  # replaces what the first published
    run("--resume", "logs/second", "--epochs", "2", "--n_cpu", "0")
    absolute = lambda name: Path(name).resolve()
    renamed = {absolute(target) for event, _, target in opened if event == "rename"}
    in_place = {absolute(name) for event, name, _ in opened if event == "open"}
    written = {path.resolve() for path in Path(".").rglob("*") if path.is_file() and path.name != ".lock"}
    assert {path.name for path in written - inputs} >= {
        "args.json", "metrics.csv", "curves.png", "last.pth", "best.pth", "epoch_1.pth", "published.txt", "best.pt",
        "net_ckpt.pth", "net-init.weights"}
    assert written - inputs <= renamed, "files that were not renamed into place"
    ours = {path for path in in_place if tmp_path in path.parents}
    assert not {path.name for path in ours if not path.name.endswith((".tmp", ".lock"))}


# ---- killed while publishing

def killed_at(rename, work):
    """Do `work` in a child process that is killed at its so-and-so-many-th rename; returns whether it was."""
    process = os.fork()
    if process:
        return os.WIFSIGNALED(os.waitpid(process, 0)[1])
    try:
        whole, seen = os.replace, []

        def replace(source, target):
            seen.append(target)
            if len(seen) == rename:
                os.kill(os.getpid(), signal.SIGKILL)
            whole(source, target)
        os.replace = replace
        work()
    finally:
        os._exit(0)


def weights_of(path):
    net = Darknet("pruned/net.cfg")
    net.load_darknet_weights(path)
    return net.state_dict()


def test_whenever_publishing_is_killed_the_start_is_kept_and_resuming_publishes_the_run(run, capsys):
    Path("pruned").mkdir()
    Path("pruned/net.cfg").write_text(Path("net.cfg").read_text())
    torch.manual_seed(1)
    Darknet("net.cfg").save_darknet_weights("pruned/net.weights")
    start = weights_of("pruned/net.weights")
    flags = ("--n_cpu", "0", "--cfg", "pruned/net.cfg", "--weights", "pruned/net.weights", "--name", "a")
    run("--epochs", "1", *flags, "--no-publish")
    content = torch.load("logs/a/last.pth", weights_only=True)
    content["args"]["no_publish"] = False
    torch.save(content, "logs/a/last.pth")
    rename = 1
    while killed_at(rename, lambda: run("--resume", "logs/a", "--n_cpu", "0")):
        weights_of("pruned/net.weights")  # never half a file
        rename += 1
    assert rename > 5 and Path("logs/a/published.txt").exists()
    assert equal(weights_of("pruned/net-init.weights"), start)
    assert not equal(weights_of("pruned/net.weights"), start)
    assert read_checkpoint("checkpoints/net_ckpt.pth")["run"] == "a"
    left = [path.name for folder in ("pruned", "checkpoints", "weights", "logs/a") for path in Path(folder).iterdir()]
    assert not [name for name in left if name.endswith((".tmp", ".old"))]


def test_nothing_is_lost_by_kills_at_random_moments(tmp_path):
    """A slice of make kill-test: -sr and pruning, each killed once."""
    scenes = ["sparsity", "test_prune"]
    done = subprocess.run([sys.executable, "-m", "tests.kill", "--kills", "1", "--scenes", *scenes, "--out",
                           str(tmp_path / "kill.json")], cwd=ROOT, capture_output=True, text=True, timeout=HANG,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    seen = json.loads((tmp_path / "kill.json").read_text())["seen"]
    assert {name: len(places) for name, places in seen.items()} == dict.fromkeys(scenes, 1)


# ---- one at a time

@pytest.mark.parametrize("path, flags", [("out/.net-pruned.lock", ()), ("out/.lock", ("--steps", "2")),
                                         ("out/.lock", ("--road",))])
def test_one_process_at_a_time_prunes_into_a_folder(run, monkeypatch, hold, path, flags):
    Darknet("net.cfg").save_darknet_weights("net.weights")
    holder = hold(path)
    words = "--cfg net.cfg --weights net.weights --data d.data --n_cpu 0 --repeats 0 --out out".split()
    monkeypatch.setattr("sys.argv", ["test_prune.py", *words, *flags])
    with pytest.raises(LockError, match=f"out.*: process {holder.pid} on .* is writing there"):
        test_prune.main()
    holder.kill()
    holder.communicate()
    assert not list(Path("out").glob("*.weights"))
    Lock(Path(path), "out").release()
    assert not Path(path).exists()
