"""The .weights format: round trips, both headers, files shorter than the net, files with other heads, damaged files."""

import numpy as np
import pytest
import torch

from conftest import ROOT, randomise, trained
from models import Darknet
from utils.darknet_weights import WeightsError, file_classes
from utils.parse_config import parse_model_config, rebuild_heads


def floats_of(path):
    return np.fromfile(path, "<f4", offset=20)


def states_equal(one, other):
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a if not key.endswith("num_batches_tracked"))


def test_round_trip_restores_every_tensor_and_the_count(tiny_cfg, tmp_path):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    randomise(model)
    model.seen = 2**40 + 7  # needs 64 bits
    model.save_darknet_weights(tmp_path / "a.weights")
    assert other.load_darknet_weights(tmp_path / "a.weights").kind == "full"
    assert states_equal(model, other) and other.seen == 2**40 + 7


def test_header_is_0_2_5_and_a_64_bit_count(tiny_cfg, tmp_path):
    model = Darknet(tiny_cfg)
    model.seen = 99
    model.save_darknet_weights(tmp_path / "a.weights")
    head = (tmp_path / "a.weights").read_bytes()[:20]
    assert np.frombuffer(head[:12], "<i4").tolist() == [0, 2, 5] and np.frombuffer(head[12:], "<i8").tolist() == [99]


def test_old_header_with_a_32_bit_count_is_read(tiny_cfg, tmp_path):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    randomise(model)
    model.save_darknet_weights(tmp_path / "new.weights")
    (tmp_path / "old.weights").write_bytes(
        np.array([0, 1, 0, 1234], "<i4").tobytes() + floats_of(tmp_path / "new.weights").tobytes()
    )
    other.load_darknet_weights(tmp_path / "old.weights")
    assert states_equal(model, other) and other.seen == 1234


def test_order_is_beta_gamma_mean_variance_kernel(tiny_cfg, tmp_path):
    model = Darknet(tiny_cfg)
    randomise(model)
    model.save_darknet_weights(tmp_path / "a.weights")
    bn, conv = model.module_list[0][1], model.module_list[0][0]
    first = torch.cat([bn.bias, bn.weight, bn.running_mean, bn.running_var, conv.weight.flatten()]).detach().numpy()
    assert np.array_equal(floats_of(tmp_path / "a.weights")[:len(first)], first)


def test_bytes_of_others_files_come_back_unchanged(shared, tmp_path):
    for path in (shared / "darknet_pairs").glob("*/*.weights"):
        model = Darknet(next(path.parent.glob("*.cfg")))
        assert model.load_darknet_weights(path).kind == "full"
        model.save_darknet_weights(tmp_path / "again.weights")
        assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("layers", [1, 5])
def test_a_file_that_ends_on_a_layer_boundary_is_a_backbone(tiny_cfg, tmp_path, layers):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    randomise(model)
    model.save_darknet_weights(tmp_path / "a.weights")
    sizes = [
        sum(t.numel() for t in ([conv.weight] + ([bn.weight] * 4 if bn else [conv.bias])))
        for _, conv, bn in model.convolutions()
    ]
    # any name will do: what counts is where the floats end
    (tmp_path / "thing.bin").write_bytes((tmp_path / "a.weights").read_bytes()[:20 + 4 * sum(sizes[:layers])])
    untouched = other.module_list[13][0].weight.clone()
    report = other.load_darknet_weights(tmp_path / "thing.bin")
    assert (report.kind, report.layers) == ("backbone", layers)
    assert torch.equal(other.module_list[0][0].weight, model.module_list[0][0].weight)
    assert torch.equal(other.module_list[13][0].weight, untouched)


@pytest.mark.parametrize("classes", [80, 3])
def test_heads_of_another_class_count_are_left_and_all_else_is_loaded(tiny_cfg, tmp_path, classes):
    defs = parse_model_config(tiny_cfg)
    source, target = Darknet(rebuild_heads(defs, classes)), Darknet(defs)
    randomise(source)
    source.save_darknet_weights(tmp_path / "other.weights")
    heads = [target.module_list[i - 1][0].weight.clone() for i in target.head_layers()]
    report = target.load_darknet_weights(tmp_path / "other.weights")
    assert report.kind == "no heads" and f"{classes} classes" in report.detail
    for i, _, bn in target.convolutions():
        if bn is not None:  # also the layers that come after the first head in the file
            assert torch.equal(target.module_list[i][0].weight, source.module_list[i][0].weight)
            assert torch.equal(bn.running_var, source.module_list[i][1].running_var)
    assert all(torch.equal(target.module_list[i - 1][0].weight, head) for i, head in zip(target.head_layers(), heads))


def test_files_of_the_public_sizes_are_told_apart(tmp_path):
    """Stand-ins of the size of yolov3.weights (80 classes) and darknet53.conv.74 load into the one-class net."""
    defs = parse_model_config(ROOT / "config" / "yolov3-hand.cfg")
    model = Darknet(defs)
    for size, kind in ((248_007_048, "no heads"), (162_482_580, "backbone")):
        path = tmp_path / "stand-in"
        with open(path, "wb") as file:
            file.write(np.array([0, 2, 0, 1, 0], "<i4").tobytes() + np.ones(1, "<f4").tobytes())
            file.truncate(size)
        assert model.load_darknet_weights(path).kind == kind
        path.unlink()


@pytest.mark.parametrize("change, words", [(4, "1 over"), (-4, "1 missing"), (2, "cut off")])
def test_damaged_files_say_how_many_floats_and_load_nothing(tiny_cfg, tmp_path, change, words):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    randomise(model)
    model.save_darknet_weights(tmp_path / "a.weights")
    data = (tmp_path / "a.weights").read_bytes()
    (tmp_path / "a.weights").write_bytes(data + b"\0" * change if change > 0 else data[:change])
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match=words):
        other.load_darknet_weights(tmp_path / "a.weights")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("content, words", [
    (b"not weights at all, but text", "found text; expected Darknet .weights"),
    (b"\x93NUMPY and so on, with bytes", "found no Darknet header; expected Darknet .weights"),
    (b"", "found an empty file"), (b"\n<!DOCTYPE html>\n<html>", "found a page of HTML.*download the file itself"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "found a Git LFS pointer.*git lfs pull"),
    (b"\x1f\x8b\x08\x00 and so on, with bytes", "found a compressed archive: unpack it"),
    (b"# yolo\n[net]\nwidth=64\n", "found a Darknet cfg: that is --cfg")])
def test_something_else_than_weights_is_called_by_its_name(tiny_cfg, tmp_path, content, words):
    (tmp_path / "x.weights").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"x\.weights: {words}"):
        Darknet(tiny_cfg).load_darknet_weights(tmp_path / "x.weights")


def test_weights_that_are_not_there_are_missed(tiny_cfg, tmp_path):
    with pytest.raises(FileNotFoundError):
        Darknet(tiny_cfg).load_darknet_weights(tmp_path / "none.weights")


def test_a_failed_save_leaves_the_old_file(tiny_cfg, tmp_path, monkeypatch):
    model = Darknet(tiny_cfg)
    path = tmp_path / "a.weights"
    path.write_bytes(b"old")
    monkeypatch.setattr("utils.darknet_weights.conv_tensors", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_darknet_weights(path)
    assert path.read_bytes() == b"old"


# ---- version 0.0.0, which has a header of four numbers by Darknet's rule and of five in the files of PyTorch ports

def rewrite_header(path, *words):
    path.write_bytes(np.array(words, "<i4").tobytes() + floats_of(path).tobytes())


@pytest.mark.parametrize("words", [(0, 0, 0, 32000, 0), (0, 0, 0, 32000)])
def test_version_0_0_0_is_read_with_the_header_that_fits(tiny_cfg, tmp_path, words):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    randomise(model)
    model.save_darknet_weights(tmp_path / "a.weights")
    rewrite_header(tmp_path / "a.weights", *words)
    assert other.load_darknet_weights(tmp_path / "a.weights").kind == "full"
    assert states_equal(model, other) and other.seen == 32000


@pytest.mark.parametrize("words", [(0, 0, 0, 7, 0), (0, 0, 0, 7)])
def test_backbones_and_other_heads_of_version_0_0_0_load(tiny_cfg, tmp_path, words):
    defs = parse_model_config(tiny_cfg)
    source = Darknet(rebuild_heads(defs, 80))
    randomise(source)
    source.save_darknet_weights(tmp_path / "a.weights")
    first = sum(t.numel() for t in source.module_list[0].state_dict().values() if t.ndim)
    floats = floats_of(tmp_path / "a.weights")
    for name, kind, part in (("heads", "no heads", floats), ("backbone", "backbone", floats[:first])):
        target = Darknet(defs)
        (tmp_path / name).write_bytes(np.array(words, "<i4").tobytes() + part.tobytes())
        assert target.load_darknet_weights(tmp_path / name).kind == kind
        assert torch.equal(target.module_list[0][0].weight, source.module_list[0][0].weight)
    assert file_classes(tmp_path / "heads", defs) == 80 and file_classes(tmp_path / "backbone", defs) is None


def test_the_file_of_a_port_loads_as_its_twin(shared):
    case = shared / "field_cases" / "weights_header_0_0_0"
    peer, ours = Darknet(case / "tiny.cfg"), Darknet(case / "tiny.cfg")
    assert peer.load_darknet_weights(case / "peer.weights").kind == "full"
    assert ours.load_darknet_weights(case / "ours.weights").kind == "full"
    assert states_equal(peer, ours)


@pytest.mark.parametrize("version", [(0, 0, 0), (0, 1, 0), (0, 2, 5)])
def test_one_float_over_in_a_file_says_so(tiny_cfg, tmp_path, version):
    model = Darknet(tiny_cfg)
    model.save_darknet_weights(tmp_path / "a.weights")
    count = (7,) if version == (0, 1, 0) else (7, 0)
    floats = np.append(floats_of(tmp_path / "a.weights"), np.float32(0))
    (tmp_path / "b.weights").write_bytes(np.array(version + count, "<i4").tobytes() + floats.tobytes())
    with pytest.raises(WeightsError, match=": 1 over"):
        model.load_darknet_weights(tmp_path / "b.weights")


def test_a_huge_file_is_refused_by_its_size_alone(tiny_cfg, tmp_path, monkeypatch):
    path = tmp_path / "huge.weights"
    with open(path, "wb") as file:
        file.write(np.array([0, 2, 5, 0, 0], "<i4").tobytes())
        file.truncate(9 * 2**30)  # sparse: takes no room
    read, whole = np.fromfile, []
    monkeypatch.setattr(np, "fromfile", lambda *args, **kw: whole.append(kw) if "offset" in kw else read(*args, **kw))
    with pytest.raises(WeightsError, match="over"):
        Darknet(tiny_cfg).load_darknet_weights(path)
    assert not whole


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_with_its_layer(tiny_cfg, tmp_path, value):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    layer_i = list(model.convolutions())[-1][0]
    model.module_list[layer_i][0].bias.data[0] = value
    model.save_darknet_weights(tmp_path / "a.weights")
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises(WeightsError, match=f"not a finite number in layer {layer_i}"):
        other.load_darknet_weights(tmp_path / "a.weights")
    assert all(torch.equal(tensor, before[key]) for key, tensor in other.state_dict().items())


def test_as_many_floats_of_another_net_or_zeros_are_refused_and_nothing_is_loaded(tiny_cfg, tmp_path):
    model = trained(tiny_cfg).float()
    model.save_darknet_weights(tmp_path / "a.weights")
    floats, header = floats_of(tmp_path / "a.weights"), (tmp_path / "a.weights").read_bytes()[:20]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for content, words in ((floats[::-1], "found a variance of -.* in layer"), (floats * 0, "nothing but zeros")):
        (tmp_path / "b.weights").write_bytes(header + content.tobytes())
        with pytest.raises(WeightsError, match=words):
            model.load_darknet_weights(tmp_path / "b.weights")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
