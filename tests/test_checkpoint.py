"""Checkpoints of this program and of others: what loads, under which names, and what each wrong one is told."""

import argparse
import json
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import randomise
from models import Darknet
from nets import FOREIGN, TINY, cfg_text
from utils.checkpoint import (
    EXPORTED,
    CheckpointError,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    weights_classes,
    weights_content,
)
from utils.deploy.runtimes import RUNTIMES
from utils.loading import load_net
from utils.parse_config import parse_model_config, rebuild_heads
from utils.training.args import parse_train_args, train_options
from utils.training.resume import resumed_options


@pytest.fixture
def net(tiny_cfg):
    model = Darknet(tiny_cfg)
    randomise(model)
    return model


def assert_loads(cfg, net, path, atol=0.0):
    other = Darknet(cfg)
    load_weights(other, path)
    for key, value in net.state_dict().items():
        assert torch.allclose(other.state_dict()[key], value, atol=atol, rtol=atol), key


def renamed(state, change):
    return OrderedDict((change(key), value) for key, value in state.items())


def ultralytics(key):
    return re.sub(r"batch_norm_\d+", "BatchNorm2d", re.sub(r"conv_\d+", "Conv2d", key))


def marvis(key):
    return re.sub(r"module_list\.(\d+)\.(conv|batch_norm)_\d+",
                  lambda match: f"models.{match[1]}.{'conv' if match[2] == 'conv' else 'bn'}7", key)


NAMINGS = {"plain": lambda key: key, "DataParallel": lambda key: f"module.{key}",
           "nested": lambda key: f"module.model.{key}", "ultralytics": ultralytics,
           "ultralytics DataParallel": lambda key: f"module.{ultralytics(key)}",
           "marvis": marvis,
           "numbered": lambda key: re.sub(r"conv_\d+", "0", re.sub(r"batch_norm_\d+", "1", key))}


@pytest.mark.parametrize("naming", NAMINGS)
def test_keys_of_other_ports_are_understood(tiny_cfg, net, tmp_path, naming):
    torch.save(renamed(net.state_dict(), NAMINGS[naming]), tmp_path / "a.pth")
    assert_loads(tiny_cfg, net, tmp_path / "a.pth")


def zeros_like(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


@pytest.mark.parametrize("wrap", [
    lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"ema": s},
    lambda s: {"model_state_dict": s, "optimizer": {}}, lambda s: {"ema": {"module": s, "updates": 7}},
    lambda s: {"model": {"state_dict": s}}, lambda s: {"ema": None, "model": s},
    lambda s: {"model": zeros_like(s), "ema": s}, lambda s: {"state_dict": zeros_like(s), "state_dict_ema": s},
    lambda s: {"model": zeros_like(s), "ema": {"decay": 0.99, "shadow": s}},
    lambda s: {"model": s, "ema": {"decay": 0.99, "updates": 7}}, lambda s: {"model": s, "ema": {"shadow": {}}},
    lambda s: {"network": s}, lambda s: {"epoch": 3, "params": s}, lambda s: {"checkpoint": {"model_state": s}}])
def test_wrappers_are_taken_off_and_the_average_is_preferred(tiny_cfg, net, tmp_path, wrap):
    torch.save(wrap(net.state_dict()), tmp_path / "a.pth")
    assert_loads(tiny_cfg, net, tmp_path / "a.pth")


def test_counts_of_batches_may_be_missing_and_of_operations_left_over(tiny_cfg, net, tmp_path):
    state = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state | {"total_ops": torch.zeros(1), "module_list.0.total_params": torch.zeros(1)}, tmp_path / "a.pth")
    assert_loads(tiny_cfg, net, tmp_path / "a.pth")


@pytest.mark.parametrize("dtype, off", [(torch.float16, 1e-2), (torch.bfloat16, 2e-2), (torch.float64, 0)])
def test_other_precisions_load_as_float32(tiny_cfg, net, tmp_path, dtype, off):
    state = net.state_dict()
    floats = {key: value.to(dtype) for key, value in state.items() if value.is_floating_point()}
    torch.save(state | floats, tmp_path / "a.pth")
    assert_loads(tiny_cfg, net, tmp_path / "a.pth", off)


def test_numbers_arrays_and_arguments_beside_the_weights_do_no_harm(tiny_cfg, net, tmp_path):
    torch.save({"model": net.state_dict(), "best_fitness": np.float64(0.3), "step": np.int64(2), "curve": np.zeros(3),
                "opt": argparse.Namespace(lr=0.1), "names": ["hand"]}, tmp_path / "a.pth")
    assert_loads(tiny_cfg, net, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["names"] == ["hand"]
    torch.save({key: value.numpy() for key, value in net.state_dict().items()}, tmp_path / "arrays.pth")
    assert_loads(tiny_cfg, net, tmp_path / "arrays.pth")
    torch.save({"model": net.state_dict(), "opt": argparse.Namespace(data=Path("a/b.data"))}, tmp_path / "path.pth")
    assert_loads(tiny_cfg, net, tmp_path / "path.pth")


def write_safetensors(path, state, more=None):
    """The format as its description has it; more: entries of the header that replace those of the tensors."""
    header, content = {"__metadata__": {"format": "pt"}}, b""
    names = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    for key, value in state.items():
        start, content = len(content), content + value.numpy().tobytes()
        header[key] = {"dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": [start, len(content)]}
    text = json.dumps(header | (more or {})).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def test_safetensors_and_numpys_archives_load(tiny_cfg, net, tmp_path):
    state = net.state_dict()
    write_safetensors(tmp_path / "a.safetensors", renamed(state, lambda key: f"model.{key}"))
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    write_safetensors(tmp_path / "half.safetensors", half)
    np.savez_compressed(tmp_path / "a.npz", **{key: value.numpy() for key, value in state.items()})
    for name, off in (("a.safetensors", 0.0), ("half.safetensors", 1e-2), ("a.npz", 0.0)):
        assert_loads(tiny_cfg, net, tmp_path / name, off)
        assert weights_classes(tmp_path / name, parse_model_config(tiny_cfg)) == 1


KEY = "module_list.0.conv_0.weight"


@pytest.mark.parametrize("entry, words", [
    ({"dtype": "F32", "shape": [8, 3, 3, 3], "data_offsets": [0, 1 << 40]}, "the file is cut off"),
    ({"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}, "the file is cut off"),
    ({"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}, "the file is cut off"),
    ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "of type F8_E4M3, expected one of F64, F32"),
    ({"shape": [2]}, "a header that is none of safetensors"), ([], "a header that is none of safetensors")])
def test_a_damaged_safetensors_file_is_one_line(tiny_cfg, net, tmp_path, entry, words):
    write_safetensors(tmp_path / "a.safetensors", net.state_dict(), {KEY: entry})
    with pytest.raises(CheckpointError, match=rf"a\.safetensors: found .*{words}"):
        load_weights(Darknet(tiny_cfg), tmp_path / "a.safetensors")


def test_what_only_ends_like_a_checkpoint_is_told_what_it_is(tiny_cfg, net, tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("yolo/a.weights", "x")
    with pytest.raises(CheckpointError, match="a zip archive of yolo/a.weights: unpack it"):
        load_weights(Darknet(tiny_cfg), path)
    path.write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(CheckpointError, match="a pickle .* that torch.save did not write") as caught:
        load_weights(Darknet(tiny_cfg), path)
    assert "weights_only" not in str(caught.value)


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (done.append(name), real(*args))[1])
    save_checkpoint(tmp_path / "a.pth", {"epoch": 1})
    assert done == ["fsync", "replace"] and torch.load(tmp_path / "a.pth") == {"epoch": 1}


def test_the_files_of_forks_load(shared):
    case = shared / "field_cases" / "checkpoints_of_forks"
    plain = Darknet(case / "tiny.cfg")
    load_weights(plain, case / "plain.pth")
    for name in ("dataparallel.pth", "ultralytics.pt", "state_dict.pth"):
        assert_loads(case / "tiny.cfg", plain, case / name)


def test_a_pickled_module_is_refused_and_a_state_dict_asked_for(tiny_cfg, net, tmp_path):
    for content in (net, {"model": net, "epoch": 1}):
        torch.save(content, tmp_path / "whole.pth")
        with pytest.raises(CheckpointError, match=r"object of the class models\.Darknet, expected a state_dict"):
            load_weights(Darknet(tiny_cfg), tmp_path / "whole.pth")


def test_no_code_of_a_pickle_runs(tiny_cfg, tmp_path):
    class Trap:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match="pickled object of the class"):
        load_weights(Darknet(tiny_cfg), tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def without_layer(state):
    return {key: value for key, value in state.items() if not key.startswith("module_list.3.")}


@pytest.mark.parametrize("make, words", [
    (lambda m: without_layer(m.state_dict()),
     r"found nothing for layer 3 .*expected \(16, 8, 3, 3\): the file does not hold"),
    (lambda m: m.state_dict() | {"module_list.3.conv_3.weight": torch.zeros(4, 8, 3, 3)},
     r"found \(4, 8, 3, 3\) in layer 3 .*expected \(16, 8, 3, 3\).*use the cfg"),
    (lambda m: m.state_dict() | {"module_list.99.conv_99.weight": torch.zeros(4)},
     r"found module_list.99.conv_99.weight .*use the cfg"),
    (lambda m: m.state_dict() | {"module_list.3.conv_3.weight": [1, 2]},
     "found a list as module_list.3.conv_3.weight, expected a tensor"),
    (lambda m: m.state_dict() | {"module_list.3.batch_norm_3.bias": torch.full((16,), float("nan"))},
     "not a finite number in layer 3"),
    (lambda m: {"backbone.conv1.weight": torch.zeros(3)},
     "found the keys backbone.conv1.weight, expected a state_dict of a Darknet"),
    (lambda m: {}, "found the keys nothing"),
    (lambda m: {"model": "yolo", "epoch": 1}, "found the keys model, epoch"),
    (lambda m: [1, 2], "found a list, expected a checkpoint"),
    (lambda m: torch.zeros(3), "found a Tensor, expected a checkpoint"),
    (lambda m: weights_content(m, "a.cfg", "r") | {"module_defs": ["net", "yolo"]},
     r"found module_defs of \['str'\], expected a list of cfg sections"),
    (lambda m: weights_content(m, "a.cfg", "r") | {"module_defs": {"net": 1}}, "found module_defs of dict"),
    (lambda m: weights_content(m, "a.cfg", "r") | {"model": None}, "found model of type NoneType"),
    (lambda m: weights_content(m, "a.cfg", "r") | {"seen": "many"}, "found seen of type str, expected int"),
    (lambda m: weights_content(m, "a.cfg", "r") | {"size": 64}, "found size of type int, expected list or tuple"),
])
def test_a_wrong_checkpoint_is_one_line_and_changes_nothing(tiny_cfg, net, tmp_path, make, words):
    torch.save(make(net), tmp_path / "a.pth")
    other = Darknet(tiny_cfg)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as caught:
        load_weights(other, tmp_path / "a.pth")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / "a.pth"))
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("ending", [".onnx", ".XML", ".ncnn.param", ".torchscript", ".tflite"])
def test_a_file_for_a_runtime_is_named_as_such_by_whoever_wants_weights(tiny_cfg, tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"PK, or whatever it holds")
    for read in (lambda: load_net(tiny_cfg, path, Darknet), lambda: load_weights(Darknet(tiny_cfg), path, strict=False),
                 lambda: read_checkpoint(path), lambda: weights_classes(path, parse_model_config(tiny_cfg))):
        with pytest.raises(CheckpointError, match="found a file for a runtime, expected a checkpoint .* detect.py and"):
            read()


def test_whoever_runs_files_knows_the_endings_of_all_that_are_refused_as_weights():
    assert set(RUNTIMES) == set(EXPORTED)


@pytest.mark.parametrize("layers", [TINY, FOREIGN], ids=["yolo", "Gaussian_yolo"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_class_count_is_that_of_the_weights_whatever_the_kind_of_file(tmp_path, wrapped, layers):
    (tmp_path / "a.cfg").write_text(cfg_text(layers))
    defs = parse_model_config(tmp_path / "a.cfg")
    source = Darknet(rebuild_heads(defs, 5))
    save_checkpoint(tmp_path / "a.pth", weights_content(source, "a.cfg", "r") if wrapped else source.state_dict())
    source.save_darknet_weights(tmp_path / "a.weights")
    assert weights_classes(tmp_path / "a.pth", defs) == weights_classes(tmp_path / "a.weights", defs) == 5


@pytest.mark.parametrize("change, words", [
    ({"args": 3}, "found args of type int"), ({"args": {}}, "found no usable epochs"), ({}, "holds no state of a run"),
    ({"args": {"epochs": "x"}}, "found no usable epochs"), ({"epoch": "1"}, "found epoch of type str")])
def test_a_damaged_run_is_not_resumed(tiny_cfg, tmp_path, change, words):
    torch.save(weights_content(Darknet(tiny_cfg), "a.cfg", "r") | change, tmp_path / "last.pth")
    with pytest.raises(ValueError, match=f"{tmp_path}/last.pth: {words}"):
        resumed_options(train_options(vars(parse_train_args("", ["--resume", str(tmp_path)]))))
