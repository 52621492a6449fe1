"""Several processes train as one does: batch norms over all of them, common losses, restarts."""

import copy
import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

import train
from conftest import ROOT, launch, make_dataset, trained
from models import Darknet
from utils import processes, torchrun
from utils.batch_norm import gammas_of
from utils.checkpoint import read_checkpoint, save_checkpoint, weights_content
from utils.pruning.channel_graph import prunable_layers
from utils.pruning.prospect import Prospect
from utils.training.args import train_options
from utils.training.distributed import SyncBatchNorm2d, synchronise_batch_norms
from utils.training.restart import continued, remember
from utils.training.run_folder import MARK
from utils.training.trainer import Trainer

# train.py, but the second process is killed in the second epoch, once
KILLED_AFTER_AN_EPOCH = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from utils import cli
from utils.training.trainer import Trainer

whole = Trainer.train_one_epoch

def cut_short(self, epoch):
    if epoch == 2 and self.rank == 1 and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, epoch)

Trainer.train_one_epoch = cut_short
cli.run(train.main, several_processes=True)
"""
SHARES = (slice(0, 2), slice(2, 5))  # of five images, for two processes


def batch_norm_of_five_images(dtype, layout):
    """(norm with random scale and shift, images of unlike means and scales per channel, gradient of the output)."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, eps=1e-6).to(dtype)
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.bias)
    channels = torch.arange(5.0, dtype=dtype).view(1, 5, 1, 1)
    images = torch.randn(5, 5, 6, 7, dtype=dtype) * (channels + 1) + 30 * channels
    return norm, images.to(memory_format=layout), torch.randn(5, 5, 6, 7, dtype=dtype)


def normalised_by_two(rank, folder):
    """One of two processes: its outputs, gradients and statistics in a file per case."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    for dtype in (torch.float64, torch.float32):
        for layout in (torch.contiguous_format, torch.channels_last):
            one, images, gradient = batch_norm_of_five_images(dtype, layout)
            norm = SyncBatchNorm2d.of(one)
            part = images[SHARES[rank]].clone().requires_grad_()
            out = norm(part)
            out.backward(gradient[SHARES[rank]])
            found = [out.detach(), part.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
            torch.save(found, f"{folder}/{dtype}-{layout}-{rank}.pt")
    norm.running_mean.fill_(rank + 1)  # as without synchronisation
    processes.share_buffers(norm)
    torch.save(norm.running_mean, f"{folder}/shared-{rank}.pt")
    dist.destroy_process_group()


def test_batch_norm_over_two_processes_of_unequal_shares_is_that_of_one(tmp_path):
    torch.multiprocessing.spawn(normalised_by_two, (str(tmp_path),), nprocs=2)
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        for layout in (torch.contiguous_format, torch.channels_last):
            norm, images, gradient = batch_norm_of_five_images(dtype, layout)
            images.requires_grad_()
            out = norm(images)
            out.backward(gradient)
            first, second = (torch.load(tmp_path / f"{dtype}-{layout}-{rank}.pt") for rank in range(2))
            pairs = [(torch.cat([first[0], second[0]]), out), (torch.cat([first[1], second[1]]), images.grad),
                     (first[2] + second[2], norm.weight.grad), (first[3] + second[3], norm.bias.grad),
                     (first[4], norm.running_mean), (second[4], norm.running_mean), (second[5], norm.running_var)]
            for found, expected in pairs:
                assert (found - expected).abs().max() <= limit * max(expected.abs().max(), 1)
    shared = [torch.load(tmp_path / f"shared-{rank}.pt") for rank in range(2)]  # what processes score with
    assert torch.equal(*shared) and torch.equal(shared[0], torch.ones(5))


def test_synchronised_batch_norms_are_ordinary_ones_to_everyone_else(tiny_cfg):
    model = trained(tiny_cfg)
    before = copy.deepcopy(model)
    parameters = list(model.parameters())
    synchronise_batch_norms(model)
    assert all(a is b for a, b in zip(parameters, model.parameters()))  # an optimiser keeps them
    norms = [bn for _, _, bn in model.convolutions() if bn is not None]
    assert norms and all(isinstance(bn, SyncBatchNorm2d) and isinstance(bn, nn.BatchNorm2d) for bn in norms)
    assert list(model.state_dict()) == list(before.state_dict())
    layers = prunable_layers(model.module_defs)
    assert all(torch.equal(a, b) for a, b in zip(gammas_of(model, layers), gammas_of(before, layers)))
    images = torch.rand(2, 3, 64, 64).double()
    for mode in ("eval", "train"):  # of one process: torch's own batch norm
        outputs = [getattr(net, mode)()(images) for net in (model, before)]
        assert all(torch.equal(a, b) for a, b in zip(*map(torch.utils._pytree.tree_leaves, outputs)))
    assert torch.equal(model.eval().optimize()(images), before.eval().optimize()(images))


TRAINED = ("--n_cpu", "0", "--device", "cpu", "--epochs", "3", "--no-publish", "--multiscale_training",
           "--mosaic", "0.5", "-sr", "--s", "0.2", "--lr", "0.003", "--warmup", "0")


def run_here(*words):
    """train.py by this process."""
    options = train_options(vars(train.parse_args(list(map(str, words)))))
    trainer = Trainer(options, Darknet, Prospect)
    for epoch in range(1, options.steps.epochs + 1):
        losses, result = trainer.train_one_epoch(epoch), trainer.evaluate(epoch)
        trainer.record(epoch, losses, result)
        trainer.save(epoch, result)


@pytest.mark.parametrize("images, batch, flags", [(22, 8, ("--accumulate", "2")), (5, 8, ("--sparsity", "l1"))])
def test_two_processes_train_as_one_does_at_the_same_common_batch(
        tiny_cfg, tmp_path, monkeypatch, images, batch, flags):
    """The second case: fewer images than a batch, three for the one process and two for the other."""
    monkeypatch.chdir(tmp_path)
    listing = make_dataset(tmp_path / "set", images)
    (tmp_path / "d.data").write_text(f"classes=1\ntrain={listing}\nvalid={listing}\n")
    common = ("--cfg", tiny_cfg, "--data", "d.data", *TRAINED, *flags)
    run_here(*common, "--name", "one", "--batch_size", batch)
    done = launch(tmp_path, "train.py", *common, "--name", "two", "--batch_size", batch // 2)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_checkpoint(tmp_path / "logs" / name / "last.pth") for name in ("one", "two"))
    assert one["seen"] == two["seen"] and one["step"] == two["step"] and "2 process" in done.stdout
    for kind in ("live", "model"):
        assert list(one[kind]) == list(two[kind])
        for name, value in one[kind].items():
            assert (two[kind][name] - value).abs().max() <= 1e-5 * max(value.abs().max(), 1), name
    first, second = (list(csv.DictReader(open(tmp_path / "logs" / name / "metrics.csv"))) for name in ("one", "two"))
    for row, other in zip(first, second, strict=True):
        for name in row.keys() - {"seconds", "images_per_s"}:
            assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-5, abs=1e-5), name


def test_a_process_that_is_killed_is_started_anew_and_the_run_ends_as_if_it_had_not_been(tiny_cfg, tmp_path):
    listing = make_dataset(tmp_path / "set", 8)
    (tmp_path / "d.data").write_text(f"classes=1\ntrain={listing}\nvalid={listing}\n")
    (tmp_path / "killed.py").write_text(KILLED_AFTER_AN_EPOCH.format(root=str(ROOT)))
    flags = ("--cfg", tiny_cfg, "--data", "d.data", "--n_cpu", "0", "--device", "cpu", "--epochs", "3", "--batch_size",
             "2", "-sr")
    unbroken = launch(tmp_path, "train.py", *flags, "--name", "one", "--no-publish")
    assert unbroken.returncode == 0, unbroken.stderr[-2000:]
    done = launch(tmp_path, tmp_path / "killed.py", *flags, "--name", "two",
                  options=("--max-restarts", "1"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "killed").exists() and "going on with" in done.stdout
    one, two = (read_checkpoint(tmp_path / "logs" / name / "last.pth") for name in ("one", "two"))
    assert two["epoch"] == 3 and all(torch.equal(two["live"][name], value) for name, value in one["live"].items())
    assert [row["epoch"] for row in csv.DictReader(open(tmp_path / "logs/two/metrics.csv"))] == ["1", "2", "3"]
    assert (tmp_path / "weights" / "tiny_ckpt.pth").is_file()


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """What processes that torchrun started anew find: the folder of the run that the first ones began, and their
    options."""
    monkeypatch.chdir(tmp_path)
    store = dist.HashStore()
    monkeypatch.setattr(torchrun, "launcher_store", lambda: store)
    torchrun.attempt.cache_clear()
    remember(SimpleNamespace(path=Path("logs/tiny-train-0102-030405")))
    options = train_options(vars(train.parse_args(["--epochs", "3"])))
    return Path("logs/tiny-train-0102-030405"), options


def store_run(folder, cfg, epoch, **changes):
    """A run folder whose last checkpoint is that of `epoch` of three."""
    content = weights_content(trained(cfg), str(cfg), folder.name, epoch=epoch)
    save_checkpoint(folder / "last.pth", content | {"args": {"epochs": 3, "no_publish": False} | changes})


def test_processes_started_anew_go_on_with_the_run_whose_name_came_from_the_time(begun, tiny_cfg):
    folder, options = begun
    store_run(folder, tiny_cfg, 1)
    assert continued(options).output.resume == str(folder)


def test_processes_started_anew_before_the_first_checkpoint_begin_again_in_the_same_folder(begun):
    folder, options = begun
    found = continued(options)
    assert not found.output.resume and found.output.name == folder.name


@pytest.mark.parametrize("published, no_publish, done", [(True, False, True), (False, False, False),
                                                         (False, True, True)])
def test_processes_started_anew_after_the_last_epoch_only_publish(begun, tiny_cfg, published, no_publish, done):
    folder, options = begun
    store_run(folder, tiny_cfg, 3, no_publish=no_publish)
    if published:
        (folder / MARK).write_text("x")
    assert (continued(options) is None) == done


def test_processes_that_are_started_for_the_first_time_take_their_own_arguments(begun, monkeypatch):
    monkeypatch.setattr(torchrun, "launcher_store", dist.HashStore)
    assert continued(begun[1]) is begun[1]
