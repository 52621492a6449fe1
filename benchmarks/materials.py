"""What the contestants work on, made anew in a temporary folder: random nets, their pruned twins, pictures,
detections."""

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.contest import ROOT
from benchmarks.run_detections import predictions, scored_set
from benchmarks.run_training import fixed_batches
from models import Darknet
from utils.checkpoint import load_weights
from utils.loading import resolve_cfg
from utils.parse_config import class_count, parse_model_config, write_model_config
from utils.pruning import plan
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.compact import compact_and_verify
from utils.pruning.job import load
from utils.shapes import LayerCost, total_cost

SEED = 0
GAMMA_SPREAD = 0.7  # of log gamma: some layers lose nearly all, some little, as after training with -sr


@dataclass(frozen=True)
class Net:
    """A net on disk as a Darknet pair, with input images and the output expected for them."""

    cfg: Path
    weights: Path
    images: Path
    expected: Path
    cost: LayerCost

    def options(self) -> dict:
        """What the contestants of run_forward and run_peer take."""
        return {
            "cfg": str(self.cfg),
            "weights": str(self.weights),
            "images": str(self.images),
            "expected": str(self.expected),
        }


def sized_defs(cfg: str | Path, size: int | None) -> list[dict]:
    """module_defs of a cfg for square input of `size` pixels; None: the cfg's own."""
    defs = [section.copy() for section in parse_model_config(resolve_cfg(str(cfg)))]
    if size:
        defs[0].update(width=str(size), height=str(size))
    return defs


def random_net(defs: list[dict]) -> nn.Module:
    """A Darknet with fixed random weights. Gammas are lognormal with a mean square of 1, so that values neither vanish
    nor explode, and betas not zero, so that removed channels leave constants behind as in a trained net."""
    torch.manual_seed(SEED)
    model = Darknet(defs).eval()
    for _, _, bn in model.convolutions():
        if bn is not None:
            with torch.no_grad():
                bn.weight.normal_(-GAMMA_SPREAD ** 2, GAMMA_SPREAD).exp_()
                bn.bias.normal_(0, 0.1)
    return model


@torch.inference_mode()
def store_net(model: nn.Module, folder: Path, name: str) -> Net:
    """Write a net's pair, a random image of the cfg's size and what the net makes of it."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg, weights, images, expected = (
        folder / f"{name}{end}" for end in (".cfg", ".weights", "-images.npy", "-expected.npy")
    )
    width, height = (int(model.module_defs[0][side]) for side in ("width", "height"))
    write_model_config(cfg, model.module_defs)
    model.save_darknet_weights(weights)
    batch = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(SEED))
    np.save(images, batch.numpy())
    np.save(expected, model.eval()(batch).numpy())
    return Net(cfg, weights, images, expected, total_cost(model.module_defs, width, height))


def user_net(cfg: str, weights: str, size: int | None, folder: Path, name: str) -> Net:
    """The user's net as the contestants want it."""
    model = Darknet(sized_defs(cfg, size))
    load_weights(model, weights)
    return store_net(model.eval(), folder, name)


def prune_words(net: Net, out: Path) -> list[str]:
    """Flags of test_prune.py for a net without data: no score, no timing, files below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    data = out / "classes.data"
    data.write_text(f"classes={class_count(parse_model_config(net.cfg))}\n")
    return [
        "--cfg",
        str(net.cfg),
        "--weights",
        str(net.weights),
        "--data",
        str(data),
        "--device",
        "cpu",
        "--no-eval",
        "--repeats",
        "0",
        "--out",
        str(out / "files"),
    ]


def pruned_twin(net: Net, target: float, folder: Path, divisor: int = 1) -> Net:
    """`net` cut to `target` of its FLOPs by the project's own search, widths multiples of `divisor`, and verified."""
    words = [*prune_words(net, folder / "cut"), "--target-flops", str(target), "--divisor", str(divisor)]
    with contextlib.redirect_stdout(io.StringIO()):
        job = load(prune_options(parse_prune_args("", words)), Darknet)
        compact = compact_and_verify(job, plan.plan_cut(job))
    return store_net(compact.model, folder, "pruned")


def pictures(folder: Path, count: int, side: int) -> Path:
    """Draw and convert so many pictures; returns the .data file."""
    for words in (
        ["data/synthesize_hands.py", "--out", folder, "--train", count, "--valid", 0, "--test", 16, "--size", side],
        ["data/converter.py", "--root", folder],
    ):
        done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{words[0]}: {done.stderr.strip().splitlines()[-1]}")
    data = folder / "hands.data"
    data.write_text(
        f"classes=1\ntrain={folder / 'train.txt'}\nvalid={folder / 'valid.txt'}\n"
        f"names={ROOT / 'data/oxfordhand.names'}\n"
    )
    return data


def store_predictions(folder: Path, options: dict) -> Path:
    """run_detections.predictions as a file, for a peer."""
    path = folder / "predictions.npy"
    np.save(path, predictions(**options).numpy())
    return path


def store_detections(folder: Path, images: int, boxes: int) -> Path:
    """run_detections.scored_set as a file for a peer: score in column 4, probability 1, class."""
    detections, targets = scored_set(images, boxes)
    rows = torch.stack(detections)
    truth = torch.cat([torch.cat([torch.full((len(own), 1), float(i)), own], 1) for i, own in enumerate(targets)])
    path = folder / "detections.npz"
    np.savez(
        path,
        detections=torch.cat([rows[..., :5], torch.ones_like(rows[..., :1]), rows[..., 5:6]], -1).numpy(),
        targets=truth.numpy(),
    )
    return path


def store_batches(folder: Path, train_list: str, size: int, batch: int, steps: int) -> Path:
    """run_training.fixed_batches as a file, for a peer."""
    path = folder / "batches.npz"
    arrays = {}
    for i, (images, targets) in enumerate(fixed_batches(train_list, size, batch, steps)):
        arrays |= {f"images{i}": images.numpy(), f"targets{i}": targets.numpy()}
    np.savez(path, **arrays)
    return path
