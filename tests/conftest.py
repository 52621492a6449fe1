"""What the tests share: data that may be missing, tiny nets, a tiny data set."""

import contextlib
import importlib.util
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded; a process forked beside its threads hangs
import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from models import Darknet
from nets import MIXED, TINY_YOLO, cfg_text
from utils.checkpoint import save_checkpoint, weights_content
from utils.deploy.layer_time import LayerClock, conv_specs
from utils.deploy.net_time import Stopwatch
from utils.pruning import job, plan
from utils.pruning.args import PruneOptions, parse_prune_args, prune_options

ROOT = Path(__file__).resolve().parent.parent
HANG = 900  # seconds after which a process of a test is taken to hang; never a matter of speed: the machine may be busy
# no test fails because the machine is busy: no deadline for an example, nor for making examples
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell; tests send it all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """Some runtimes switch denormal numbers off in the whole process when they are loaded; no test depends on which ran
    before it."""
    torch.set_flush_denormal(False)


@contextlib.contextmanager
def small_disk(most: int = 2000):
    """In this block no file can grow past so many bytes: what a full disk does, with another errno."""
    import resource  # not above: Windows has none

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


FAMILIES = ("yolov3", "yolov3-tiny", "yolov3-spp", "yolov4", "yolov4-tiny")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with data that is not part of the repository; tests that want it are skipped where it is missing."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("the folder of external test data is not here")
    return path


@pytest.fixture
def tiny_cfg(tmp_path) -> Path:
    """A two-headed net with a residual block, upsample and route: 64 px, one class."""
    path = tmp_path / "tiny-hand.cfg"
    path.write_text(TINY_YOLO)
    return path


def make_dataset(root: Path, images: int = 8, seed: int = 0, size: tuple[int, int] = (80, 60)) -> Path:
    """`images` pictures with a bright box each, labels, and a list with entries relative to it; returns the list."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    width, height = size
    names = []
    for i in range(images):
        image = rng.integers(0, 80, (height, width, 3)).astype(np.uint8)
        w, h = rng.integers(12, 28, 2)
        x, y = rng.integers(0, width - w), rng.integers(0, height - h)
        image[y:y + h, x:x + w] = (90, 200, 240)
        cv2.imwrite(str(root / "images" / f"{i}.jpg"), image)
        (root / "labels" / f"{i}.txt").write_text(f"0 {(x + w / 2) / width} {(y + h / 2) / height} {w / width} "
                                                  f"{h / height}\n")
        names.append(f"images/{i}.jpg")
    (root / "list.txt").write_text("\n".join(names) + "\n")
    return root / "list.txt"


@pytest.fixture
def tiny_data(tmp_path) -> Path:
    """A .data file of one class whose training and validation lists hold eight pictures each."""
    listing = make_dataset(tmp_path / "pictures")
    path = tmp_path / "tiny.data"
    path.write_text(f"classes=1\ntrain={listing}\nvalid={listing}\n")
    return path


def without_labels(tiny_data: Path, part: str) -> Path:
    """Make the pictures of part "train" or "valid" of a .data file ones that nobody labelled; returns a place where
    labels were expected."""
    root = tiny_data.parent / f"unlabelled-{part}"
    listing = make_dataset(root, 4, seed=9)
    for path in (root / "labels").iterdir():
        path.unlink()
    lines = [f"{part}={listing}" if line.startswith(part) else line for line in tiny_data.read_text().splitlines()]
    tiny_data.write_text("\n".join(lines) + "\n")
    return root / "labels" / "0.txt"


def randomise(model, zero_share: float = 0.3) -> None:
    """Batch norms as a trained net could have them: random statistics, gammas of either sign, some exactly 0."""
    for _, conv, bn in model.convolutions():
        if bn is not None:
            torch.nn.init.normal_(bn.running_mean, 0, 0.3)
            torch.nn.init.uniform_(bn.running_var, 0.5, 2)
            torch.nn.init.uniform_(bn.weight, 0.05, 1)
            bn.weight.data *= torch.where(torch.rand_like(bn.weight) < 0.2, -1.0, 1.0)
            bn.weight.data[torch.rand_like(bn.weight) < zero_share] = 0
            torch.nn.init.normal_(bn.bias)


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """cfgs of every family that the generator makes, quarter width."""
    spec = importlib.util.spec_from_file_location("create_hand_model", ROOT / "config" / "create_hand_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("families")
    for base in FAMILIES:
        assert (
            module.main(["--base", base, "--width", "0.25", "--size", "96", "--out", str(folder / f"{base}.cfg")]) == 0
        )
    return {base: folder / f"{base}.cfg" for base in FAMILIES}


@torch.no_grad()
def worst(one, other, size=(96, 128), batch=2):
    image = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(3)).to(next(one.parameters()).dtype)
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(one.raw_maps(image), other.raw_maps(image)))


def trained(cfg, seed=0, zero_share=0.3, dtype=torch.float64):
    torch.manual_seed(seed)
    model = Darknet(cfg).to(dtype).eval()
    randomise(model, zero_share)
    return model


LAUNCHER = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


def launch(folder, script, *flags, options=(), environment=None):
    """Run a script by two processes of one thread in `folder`."""
    command = [sys.executable, *LAUNCHER, *options, "--", str(ROOT / script), *map(str, flags)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})})


def alone(folder, script, *flags):
    """Run a script by one process of one thread in `folder`."""
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, flags)], cwd=folder, capture_output=True,
                          text=True, timeout=HANG, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture
def mixed(tmp_path) -> Darknet:
    """A net of MIXED, leaky, in double precision, no gamma 0."""
    (tmp_path / "m.cfg").write_text(cfg_text(MIXED))
    return trained(tmp_path / "m.cfg", zero_share=0.0)


def options_of(words) -> PruneOptions:
    """What a command line of test_prune.py asks for."""
    return prune_options(parse_prune_args("", list(map(str, words))))


@pytest.fixture
def job_of(tiny_cfg, tiny_data, tmp_path):
    """flags of test_prune.py -> Job of a small net whose gammas are all different."""
    model = trained(tiny_cfg, zero_share=0.0).float()
    save_checkpoint(tmp_path / "net.pth", weights_content(model, str(tiny_cfg), "test"))

    def make(flags: str = "") -> job.Job:
        words = ["--cfg", tiny_cfg, "--weights", tmp_path / "net.pth", "--data", tiny_data, "--n_cpu", 0]
        return job.load(options_of([*words, *flags.split()]), Darknet)
    return make


def fake_score(monkeypatch, loss_of):
    """Scores fall by loss_of(parameters left); returns, for each net that was recalibrated, on how many training
    images."""
    calls = []
    original = plan.recalibrate

    def spy(model, batches):
        batches = list(batches)
        calls.append(sum(len(images) for images, _ in batches))
        return original(model, batches)

    monkeypatch.setattr(plan, "recalibrate", spy)
    for module in (job, plan):
        monkeypatch.setattr(module, "evaluate", lambda model, *args, **options: SimpleNamespace(
            map50=0.9 - loss_of(sum(p.numel() for p in model.parameters())), map=0.0, precision=0.0, recall=0.0))
    return calls


def conv_law(unit=1, overhead=1e-5):
    """A clock's law: widths are computed in blocks of `unit`, and every convolution has an overhead, in seconds."""
    up = lambda width: math.ceil(width / unit) * unit
    return lambda spec: overhead + 1e-9 * up(spec.inputs) * up(spec.outputs) * spec.size ** 2 * (
        spec.rows // spec.stride[0]) * (spec.columns // spec.stride[1])


@pytest.fixture
def clock(monkeypatch):
    """law -> a runtime in which convolutions take law(spec) seconds, and a whole net 1.3 times their sum and 50 us."""
    def set_to(law):
        whole = lambda net, size: 5e-5 + 1.3 * sum(law(spec) for spec in conv_specs(net.module_defs, size).values())
        monkeypatch.setattr(LayerClock, "of", lambda runtime, device: LayerClock(law))
        monkeypatch.setattr(Stopwatch, "beside", lambda self, net, repeats: [
            SimpleNamespace(median=whole(own, self.size), protocol="made up") for own in (self.dense, net)])
        return whole
    return set_to
