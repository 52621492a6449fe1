"""What the tests share: data that may be missing, tiny nets, a tiny data set."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from models import Darknet
from utils.checkpoint import save_checkpoint, weights_content
from utils.pruning import job, plan
from utils.pruning.args import PruneOptions, parse_prune_args, prune_options

ROOT = Path(__file__).resolve().parent.parent
HANG = 900  # seconds after which a process of a test is taken to hang; never a matter of speed: the machine may be busy
# no test fails because the machine is busy: no deadline for an example, nor for making examples
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def denormal_numbers():
    """Some runtimes switch denormal numbers off in the whole process when they are loaded; no test depends on which ran
    before it."""
    torch.set_flush_denormal(False)

FAMILIES = ("yolov3", "yolov3-tiny", "yolov3-spp", "yolov4", "yolov4-tiny")

TINY_YOLO = """
[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
pad=1
activation=leaky

[shortcut]
from=-3
activation=linear

[convolutional]
batch_normalize=1
filters=24
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=12
size=1
stride=1
pad=1
activation=leaky

[convolutional]
size=1
stride=1
pad=1
filters=18
activation=linear

[yolo]
mask=3,4,5
anchors=4,6, 8,10, 12,14, 20,24, 30,30, 48,50
classes=1
num=6

[route]
layers=-3

[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
activation=leaky

[upsample]
stride=2

[route]
layers=-1, 4

[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
pad=1
activation=leaky

[convolutional]
size=1
stride=1
pad=1
filters=18
activation=linear

[yolo]
mask=0,1,2
anchors=4,6, 8,10, 12,14, 20,24, 30,30, 48,50
classes=1
num=6
"""


MIXED = """
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation={act}
[convolutional]
batch_normalize=1
filters=16
size=3
pad=1
groups=16
activation={act}
[convolutional]
batch_normalize=1
filters=16
size=1
activation=linear
[shortcut]
from=-3
activation={act}
[convolutional]
batch_normalize=1
filters=24
size=3
pad=1
groups=4
activation={act}
[convolutional]
batch_normalize=1
filters=32
size=3
stride=2
pad=1
activation={act}
[route]
layers=-1
groups=2
group_id=1
[convolutional]
batch_normalize=1
filters=16
size=3
pad=1
activation={act}
[maxpool]
size=5
stride=1
[route]
layers=-1, -3
[avgpool]
[convolutional]
batch_normalize=1
filters=32
size=1
activation=logistic
[scale_channels]
from=5
[convolutional]
batch_normalize=1
filters=32
size=3
pad=1
activation={act}
[upsample]
stride=2
[route]
layers=-1, 4
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
padding=0
activation={act}
[reorg]
stride=1
[convolutional]
filters=12
size=3
pad=1
activation=linear
[yolo]
mask=0,1
anchors=10,10, 20,20
classes=1
num=2
"""


def convolution(filters, size=1, stride=1, groups=1, normalised=1, act="{act}"):
    """Section of a padded convolution."""
    return (
        f"[convolutional]\nbatch_normalize={normalised}\nfilters={filters}\nsize={size}\n"
        f"stride={stride}\npad=1\ngroups={groups}\n"
        f"activation={act}\n"
    )


# what MIXED lacks: an inverted residual block with dropout (as in Yolo-Fastest and MobileNet-YOLO), a shortcut of three
# inputs, a depthwise
# layer with two outputs an input, a convolution without batch norm in the middle, sam, a grouped route of two inputs, a
# reorg
# that moves places, two kinds of heads. joined: a layer that reads 8 and 10
ODD = "[net]\nwidth=64\nheight=64\nchannels=3\n" + "".join([
    convolution(8, 3, stride=2),  # 0
    convolution(16), convolution(16, 3, groups=16), convolution(8, act="linear"),  # 1 to 3
    "[dropout]\nprobability=0.15\n",  # 4
    "[shortcut]\nfrom=-5\nactivation=linear\n",  # 5
    convolution(8),  # 6
    "[shortcut]\nfrom=-2,-7\nactivation={act}\n",  # 7
    convolution(16, 3, groups=8),  # 8
    convolution(16, 3, normalised=0),  # 9
    convolution(16, 3),  # 10
    "{joined}",  # 11
    "[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n",  # 12
    convolution(16, 3, stride=2),  # 13
    convolution(8), "[reorg]\nstride=2\n",  # 14, 15
    "[route]\nlayers=-3\n", convolution(12, 3, stride=2), "[maxpool]\nsize=5\nstride=1\n",  # 16 to 18
    "[route]\nlayers=-1,-2,15\n", convolution(16, 3),  # 19, 20
    convolution(12, normalised=0, act="linear"),  # 21
    "[region]\nanchors=1,1, 2,2\nclasses=1\nnum=2\ncoords=4\nsoftmax=1\n",  # 22
    "[route]\nlayers=20\n", "[upsample]\nstride=2\n", "[route]\nlayers=-1,13\n", convolution(8, 3),  # 23 to 26
    convolution(12, normalised=0, act="linear"),  # 27
    "[yolo]\nmask=0,1\nanchors=10,10, 20,20\nclasses=1\nnum=2\n"])  # 28
# layers of other people's cfgs: shortcuts of unequal widths (the other input narrower, wider, two of them, chained;
# what
# they do not add is read by padded convolutions), dilation, strides that differ, [reorg3d], [local_avgpool], scaled
# upsampling, [se], [depthwise], [Gaussian_yolo]
FOREIGN = "[net]\nwidth=64\nheight=64\nchannels=3\n" + "".join([
    convolution(8, 3, stride=2),  # 0
    convolution(12, 3).replace("stride=1", "stride_x=1\nstride_y=2"),  # 1
    convolution(12, 3).replace("stride=1", "stride_x=2\nstride_y=1"),  # 2
    convolution(8, 3).replace("pad=1", "pad=1\ndilation=2"),  # 3
    "[shortcut]\nfrom=-2\nactivation={act}\n",  # 4: 8 channels and the first 8 of 12
    convolution(16, 3),  # 5
    "[shortcut]\nfrom=-2\n",  # 6: 16 channels, the first 8 with those of layer 4
    "[shortcut]\nfrom=2,-3\nactivation={act}\n",  # 7: 16, 12 and 8 channels
    convolution(8, 3),  # 8
    "[depthwise]\nbatch_normalize=1\nfilters=8\nsize=5\npad=1\nactivation={act}\n",  # 9
    "[se]\nreduction=2\n",  # 10 to 13
    convolution(10, 3), "[reorg3d]\nstride=2\n",  # 14, 15
    convolution(12, 3), "[local_avgpool]\nsize=3\nstride=1\n",  # 16, 17
    convolution(14, 3), "[shortcut]\nfrom=-4\n",  # 18, 19: 14 channels and the first 14 of 40 that share ten
    convolution(14, 3), "[upsample]\nstride=2\nscale=0.5\n",  # 20, 21
    "[route]\nlayers=-1,7\n", convolution(12, 3),  # 22, 23
    convolution(20, normalised=0, act="linear"),  # 24
    "[Gaussian_yolo]\nmask=0,1\nanchors=10,10, 20,20, 30,30\nclasses=1\nnum=3\n"])  # 25
SAM = "[sam]\nfrom=8\nactivation=linear\n"
ADD = "[shortcut]\nfrom=8\nactivation=linear\n"


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
    (tmp_path / "m.cfg").write_text(MIXED.format(act="leaky"))
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
