"""What a trained net keeps on its way: heads, class names, input size, data; a pruned one starts to count anew."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT, make_dataset, randomise
from models import Darknet, load
from utils.checkpoint import read_checkpoint, save_checkpoint, weights_content
from utils.parse_config import class_count, input_size, parse_model_config, rebuild_heads, write_model_config


@pytest.fixture
def script(monkeypatch, capsys, tmp_path):
    """Run one of the scripts in tmp_path, in this process; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        status = 0
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        out, error = capsys.readouterr()
        return status, out, error
    return run


@pytest.fixture
def nets(tiny_cfg, tmp_path):
    """one.cfg and three.cfg of that many classes, each with random .weights, and paw.data of one class called paw."""
    for name, classes in (("one", 1), ("three", 3)):
        write_model_config(tmp_path / f"{name}.cfg", rebuild_heads(parse_model_config(tiny_cfg), classes))
        torch.manual_seed(classes)
        model = Darknet(tmp_path / f"{name}.cfg")
        randomise(model, 0.0)
        model.seen = 3_200_000
        model.save_darknet_weights(tmp_path / f"{name}.weights")
    listing = make_dataset(tmp_path / "pictures", 4)
    (tmp_path / "paw.names").write_text("paw\n")
    (tmp_path / "paw.data").write_text(f"classes=1\ntrain={listing}\nvalid={listing}\nnames=paw.names\n")
    return tmp_path


DATA = "--data", "paw.data", "--n_cpu", "0"
CUT = "--percent", "0.3", "--repeats", "0"
PRUNE = "test_prune.py", *DATA, *CUT, "--out", "out"


def known(content):
    """What a checkpoint says of its net."""
    return list(content["names"]), tuple(content["size"]), content["data"]


def head_kernels(cfg, weights):
    """(filters, inputs) of each head's convolution."""
    model = Darknet(cfg)
    model.load_darknet_weights(weights)
    return [model.module_list[i - 1][0].weight[:, :, 0, 0].detach() for i in model.head_layers()]


def test_pruning_keeps_the_heads_it_was_given_where_it_does_not_score(nets, script):
    status, _, error = script(*PRUNE, "--cfg", "three.cfg", "--weights", "three.weights", "--no-eval")
    assert status == 0 and class_count(parse_model_config("out/prune_three.cfg")) == 3, error
    before = head_kernels("three.cfg", "three.weights")
    after = head_kernels("out/three-pruned.cfg", "out/three-pruned.weights")
    for dense, slim in zip(before, after, strict=True):  # every column that is left is one of the trained ones
        assert all((dense == column[:, None]).all(dim=0).any() for column in slim.T)


@pytest.mark.parametrize("name, flags", [("test_prune.py", ("--repeats", "0", "--out", "out")), ("test.py", ())])
def test_other_classes_than_the_datas_are_an_error_that_names_both_counts(nets, script, name, flags):
    for cfg in ("three.cfg", "one.cfg") if name == "test.py" else ("three.cfg",):
        status, _, error = script(name, "--cfg", cfg, "--weights", "three.weights", *DATA, *flags)
        assert status == 2 and "three.weights: made for 3 classes, but paw.data has 1" in error
        assert not (nets / "out").exists()


def test_a_start_for_training_is_pruned_with_a_warning_that_its_heads_are_not_trained(nets, script):
    """A cfg made for the data, with weights of other classes: what yolov3.weights is to a hand detector."""
    status, out, _ = script(*PRUNE, "--cfg", "one.cfg", "--weights", "three.weights")
    assert status == 0 and "warning" in out
    assert "heads, which were made for 3 classes and start from scratch for 1" in out
    assert class_count(parse_model_config("out/prune_one.cfg")) == 1


def test_weights_of_the_datas_classes_in_a_cfg_of_others_keep_their_heads(nets, script):
    status, out, _ = script(*PRUNE, "--cfg", "three.cfg", "--weights", "one.weights")
    assert status == 0 and "heads rebuilt for 1" in out and "from scratch" not in out
    assert class_count(parse_model_config("out/prune_three.cfg")) == 1


def test_export_and_detect_take_the_heads_of_the_weights(nets, script):
    status, out, _ = script("export.py", "--cfg", "one.cfg", "--weights", "three.weights", "--out", "x.weights")
    assert status == 0 and "heads rebuilt for 3" in out and class_count(parse_model_config("x.cfg")) == 3
    assert np.array_equal(np.fromfile("x.weights", "<f4", offset=20), np.fromfile("three.weights", "<f4", offset=20))
    assert load("one.cfg", "three.weights", "cpu").names == ["class0", "class1", "class2"]


def test_a_pruned_net_has_seen_no_image(nets, script):
    """Darknet ends a training at once whose count of images is past max_batches."""
    script(*PRUNE, "--cfg", "one.cfg", "--weights", "one.weights", "--no-eval")
    assert np.fromfile("one.weights", "<i8", 1, offset=12) == 3_200_000
    assert np.fromfile("out/one-pruned.weights", "<i8", 1, offset=12) == 0
    assert read_checkpoint("out/checkpoints/prune_one_ckpt.pth")["seen"] == 0


def test_names_size_and_data_go_from_training_to_the_pruned_pair(nets, script):
    """Trained at another size than the cfg's; nobody has to say so again."""
    status, _, error = script("train.py", "--cfg", "one.cfg", "--weights", "none", *DATA, "--epochs", "1",
                              "--batch_size", "4", "--img_size", "96", "--name", "run")
    assert status == 0, error
    for path in ("logs/run/last.pth", "logs/run/best.pth", "checkpoints/one_ckpt.pth", "weights/one_ckpt.pth"):
        content = read_checkpoint(path)
        assert known(content) == (["paw"], (96, 96), "paw.data"), path

    trained = "--cfg", "one.cfg", "--weights", "weights/one_ckpt.pth"
    status, out, error = script("test.py", *trained, "--n_cpu", "0", "--json", "t.json")
    numbers = json.loads((nets / "t.json").read_text())
    assert status == 0 and numbers["data"] == "paw.data" and numbers["size"] == [96, 96], error

    status, out, error = script("test_prune.py", *trained, *CUT, "--n_cpu", "0", "--out", "out")
    assert status == 0, error
    assert "weights/one_ckpt.pth was trained at 96x96, one.cfg is for 64x64: the pruned net is for the former" in out
    assert known(read_checkpoint("out/prune_one_ckpt.pth")) == (["paw"], (96, 96), "paw.data")
    for cfg in ("out/prune_one.cfg", "out/one-pruned.cfg"):
        assert input_size(parse_model_config(cfg)) == (96, 96)
    for cfg, weights in (("one-pruned.cfg", "one-pruned.weights"), ("prune_one.cfg", "prune_one_ckpt.pth")):
        net = load(f"out/{cfg}", f"out/{weights}", "cpu")
        assert net.names == ["paw"] and net.size == (96, 96)

    status, _, error = script("export.py", *trained, "--out", "x.weights")
    assert status == 0 and (nets / "x.names").read_text() == "paw\n", error
    assert input_size(parse_model_config("x.cfg")) == (96, 96)


def test_checkpoints_that_know_neither_names_nor_size_work_as_before(nets, script):
    model = Darknet("one.cfg")
    randomise(model, 0.0)
    save_checkpoint(nets / "old.pth", weights_content(model, "one.cfg", "r"))
    assert load("one.cfg", "old.pth", "cpu").names == ["class0"] and load("one.cfg", "old.pth", "cpu").size == (64, 64)
    status, out, error = script("test.py", "--cfg", "one.cfg", "--weights", "old.pth", *DATA)
    assert status == 0 and "warning" not in out, error


def test_names_that_differ_from_the_datas_are_said(nets, script):
    save_checkpoint(nets / "hoof.pth", weights_content(Darknet("one.cfg"), "one.cfg", "r", names=["hoof"]))
    status, out, _ = script("test.py", "--cfg", "one.cfg", "--weights", "hoof.pth", *DATA)
    assert status == 0 and "the net's classes are hoof, those of paw.data paw" in out


def test_a_pair_in_pruned_gets_the_tuned_weights_written_back_with_names_and_size(nets, script):
    script("test_prune.py", "--cfg", "one.cfg", "--weights", "one.weights", *DATA, *CUT, "--no-eval",
           "--img_size", "96", "--out", "pruned")
    (nets / "pruned/one-pruned.names").unlink()
    start = (nets / "pruned/one-pruned.weights").read_bytes()
    status, out, error = script("train.py", "--cfg", "pruned/one-pruned.cfg", "--weights", "pruned/one-pruned.weights",
                                *DATA, "--epochs", "1", "--batch_size", "4")
    assert status == 0 and "OpenCV computes the same" in out, error
    assert (nets / "pruned/one-pruned-init.weights").read_bytes() == start
    assert (nets / "pruned/one-pruned.weights").read_bytes() != start
    net = load("pruned/one-pruned.cfg", "pruned/one-pruned.weights", "cpu")
    assert net.names == ["paw"] and net.size == (96, 96)
