"""Inputs that ask for too much are refused by their counts and sizes, before memory is reserved."""

import io
import pickle
import resource
import struct
import sys
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import torch

from models import Darknet
from utils import limits
from utils.checkpoint import CheckpointError, read_checkpoint, weights_content
from utils.darknet_weights import WeightsError
from utils.data.data_config import parse_data_config
from utils.data.decoding import TooLargeError, decode
from utils.data.image_files import read_image
from utils.data.yolo_labels import DataError, read_labels
from utils.deploy.sources import is_film, read_picture
from utils.loading import load_net
from utils.parse_config import checked_defs, parse_model_config
from utils.shapes import layer_shapes, live_values
from utils.text import CfgError, TextError

CONV = "[convolutional]\nfilters={filters}\nsize={size}\npad=1\nactivation=leaky\n"


def claimed_png(width, height):
    """A PNG whose header claims that size and whose pixels are few."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND",
                                                                                                              b"")


@pytest.fixture
def refused(tmp_path):
    """Call with a cfg's text: the error of building it, after no more than 100 MB more of memory."""
    def refuse(text):
        (tmp_path / "a.cfg").write_text(text)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CfgError) as caught:
            Darknet(tmp_path / "a.cfg")
        unit = 1 if sys.platform == "darwin" else 1024
        assert unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 100 << 20
        assert str(caught.value).startswith(f"{tmp_path}/a.cfg:") and "expected" in str(caught.value)
        return str(caught.value)
    return refuse


@pytest.mark.parametrize("text, words", [
    ("[net]\n" + CONV.format(filters=10**9, size=3), "found filters=1000000000 in [convolutional], expected 1 or more"),
    ("[net]\n" + CONV.format(filters=10**6, size=99), "expected at most 500,000,000"),
    ("[net]\nwidth=1e6\nheight=32\n" + CONV.format(filters=1, size=1), "at most 8,192 pixels"),
    ("[net]\nwidth=8000\nheight=8000\n" + CONV.format(filters=64, size=3), "expected at most 536,870,912 values"),
    ("[net]\n" + CONV.format(filters=1, size=1) + "[maxpool]\nsize=900000\nstride=900000\n", "a padded map"),
    ("[net]\n" + CONV.format(filters=1, size=1) + "[upsample]\nstride=90000\n", "an output of 1 x 3.744e+07"),
    ("[net]\n" + "[avgpool]\n" * 20_000, "more than 2,000 layers"),
    ("[net]\nwidth=2048\nheight=2048\n" + CONV.format(filters=30, size=1) * 9 + "[route]\nlayers=0,1,2,3\n",
     "in the maps held up to here"),
    ("[net]\n#" + "x" * limits.MOST_CFG_BYTES, "expected a Darknet cfg of at most 524,288"),
    ("[net]\nchannels=1e300\n" + CONV.format(filters=1, size=1), "found channels=1e300")])
def test_a_cfg_that_asks_for_too_much_is_refused_before_a_tensor_is_made(refused, text, words):
    assert words in refused(text)


@pytest.mark.parametrize("section, words", [
    ("[dropout]\nprobability=2", "found probability=2 in [dropout], expected a probability, 0 to 1"),
    ("[convolutional]\nfilters=8\n[convolutional]\nfilters=8\n[scale_channels]\nfrom=-1,-2", "expected one layer"),
    ("[convolutional]\nfilters=8\npadding=-1", "found padding=-1"),
    ("[maxpool]\nsize=2\npadding=-4", "found padding=-4"),
    ("[yolo]\nanchors=-1,2", "found an anchor of -1"), ("[yolo]\nanchors=0,2", "found an anchor of 0"),
    ("[yolo]\nanchors=3,1e30", "found an anchor of 1e30"), ("[yolo]\nanchors=nan,2", "found anchors=nan,2"),
    ("[yolo]\nclasses=1000000\nanchors=1,2", "at most 100,000")])
def test_a_value_that_means_nothing_names_its_line(refused, section, words):
    assert words in refused(f"[net]\n{section}\n")


def test_maps_are_counted_from_the_layer_that_makes_them_to_the_last_that_reads_them(tmp_path):
    (tmp_path / "a.cfg").write_text("[net]\nwidth=4\nheight=2\nchannels=1\n" + CONV.format(filters=2, size=1) * 2
                                    + "[route]\nlayers=0,1\n")
    defs = parse_model_config(tmp_path / "a.cfg")
    assert live_values(defs, layer_shapes(defs), (1, 2, 4)) == [8 + 16, 16 + 16, 32 + 32]


def test_module_defs_pass_the_checks_of_a_cfg(tiny_cfg):
    defs = [dict(section) for section in parse_model_config(tiny_cfg)]
    assert [dict(section) for section in checked_defs(defs, "a.pth")] == defs
    for wrong in (3, [], [1], [{}], [{"type": "net"}], defs[:1] + [defs[1] | {"filters": 8}],
                  defs[:1] + [defs[1] | {"filters": "8\n[maxpool]"}], defs[:1] + [{"type": ["net"]}],
                  defs[:1] + [defs[1] | {"filters": "-1"}], defs[:1] + [defs[1] | {3: "1"}], defs[1:]):
        with pytest.raises(CfgError, match="a.pth: "):
            checked_defs(wrong, "a.pth")


@pytest.mark.parametrize("change, words", [
    ({"size": [64, "64"]}, "found size"), ({"size": [64, 64, 64]}, "found size"), ({"size": [10**6, 64]}, "found size"),
    ({"names": [1]}, "found names"), ({"rescale": float("nan")}, "found rescale"), ({"seen": -1}, "found seen"),
    ({"seen": 1 << 70}, "found seen"), ({"module_defs": ["net"]}, "found module_defs of \\['str'\\]"),
    ({"model": {"module_list.0.conv_0.weight": torch.zeros(8, 3, 3, 3, dtype=torch.complex64)}}, "complex64"),
    ({"model": {"module_list.0.conv_0.weight": torch.zeros(8, 3, 3, 3, device="meta")}}, "found")])
def test_a_checkpoint_with_a_value_that_means_nothing_is_refused(tiny_cfg, tmp_path, change, words):
    torch.save(weights_content(Darknet(tiny_cfg), "a.cfg", "r") | change, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(tmp_path / "a.pth")
    assert str(caught.value).startswith(f"{tmp_path}/a.pth")


def rezipped(path, change):
    """A torch file written anew by `change`(name, content) -> content, compressed."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    path.write_bytes(content.getvalue())


def test_a_checkpoint_of_few_bytes_that_unpacks_to_many_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.torch_archive.MOST_UNPACKED_BYTES", 1 << 20)
    torch.save({"module_list.0.conv_0.weight": torch.zeros(1 << 20)}, tmp_path / "a.pth")
    assert len(read_checkpoint(tmp_path / "a.pth")["model"]) == 1  # as torch saves it, whatever its size
    rezipped(tmp_path / "a.pth", lambda name, content: content)
    assert (tmp_path / "a.pth").stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="bytes that unpack to 4,[0-9,]+, expected at most 1,048,576"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_states_more_values_than_the_file_holds_is_never_read(tmp_path, zipped):
    state = {"module_list.0.conv_0.weight": torch.arange(255.0)}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    more = lambda content: content.replace(pickle.dumps(255, 2)[2:-1], b"\x8a\x05" + (1 << 33).to_bytes(5, "little"))
    if zipped:
        rezipped(tmp_path / "a.pth", lambda name, content: more(content) if name.endswith("data.pkl") else content)
    else:
        (tmp_path / "a.pth").write_bytes(more((tmp_path / "a.pth").read_bytes()))
    with pytest.raises(CheckpointError, match="found (a tensor|tensors) of 34,359,738,368 bytes"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_sparse_weights_file_is_refused_by_its_size(tiny_cfg, tmp_path):
    with open(tmp_path / "a.weights", "wb") as file:
        file.truncate(9 << 30)
    with pytest.raises(WeightsError, match="floats, expected"):
        Darknet(tiny_cfg).load_darknet_weights(tmp_path / "a.weights")
    for start in (b"PK\x03\x04", b"\x80\x02P", b"PQ"):  # P: a pickle's word up to the end of the line
        with open(tmp_path / "a.weights", "r+b") as file:
            file.write(start)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError, match="a.weights"):
            read_checkpoint(tmp_path / "a.weights")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


@pytest.mark.parametrize("text", ["classes=99999999999", "classes=\u00b2"])
def test_a_data_file_that_asks_for_too_many_classes_is_refused(tmp_path, text):
    (tmp_path / "a.data").write_text(text)
    with pytest.raises(CfgError, match="a.data"):
        parse_data_config(tmp_path / "a.data")


def test_yaml_whose_aliases_multiply_is_one_short_line(tmp_path):
    levels = "".join(f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 9)}]\n" for i in range(30))
    (tmp_path / "a.yaml").write_text(f"l0: &l0 [x]\n{levels}names: *l30\ntrain: *l30\n")
    with pytest.raises(CfgError, match="found names") as caught:
        parse_data_config(tmp_path / "a.yaml")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["x" * (limits.MOST_YAML_BYTES + 1), "? [a]\n: b", "nc: \u00b2", "nc: 2024-01-01",
                                  "names: {1: a, b: c}", "[" * 100_000])
def test_yaml_that_cannot_be_taken_names_its_file(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((CfgError, TextError), match="a.yaml"):
        parse_data_config(tmp_path / "a.yaml")


def test_a_picture_that_claims_too_many_pixels_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.png").write_bytes(claimed_png(40_000, 40_000))
    (tmp_path / "b.png").write_bytes(claimed_png(20_000, 15_000))
    for name, words in (("a.png", "more than 400,000,000 pixels"), ("b.png", "20000x15000 pixels")):
        with pytest.raises(DataError, match=f"{name}: found .*{words}, expected at most 200,000,000"):
            read_image(tmp_path / name)
    with pytest.raises(TooLargeError):
        decode(claimed_png(40_000, 40_000))


def test_a_gif_that_claims_too_many_pixels_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b";")
    assert not is_film(tmp_path / "a.gif")
    with pytest.raises(DataError, match="a.gif"):
        read_picture(tmp_path / "a.gif")


def test_labels_of_one_image_are_bounded_and_read_in_linear_time(tmp_path):
    rows = np.random.default_rng(0).uniform(0.1, 0.4, (limits.MOST_BOXES, 4))
    lines = [f"0 {' '.join(f'{x:.6f}' for x in row)}\n" for row in rows]
    (tmp_path / "a.txt").write_text("".join(lines))
    assert len(read_labels(tmp_path / "a.txt", 1)) == limits.MOST_BOXES
    (tmp_path / "a.txt").write_text("".join(lines + lines[:1]))
    with pytest.raises(DataError, match="more than 10,000 boxes"):
        read_labels(tmp_path / "a.txt", 1)


def test_published_nets_are_far_from_the_bounds(families):
    for cfg in families.values() if isinstance(families, dict) else families:
        defs = parse_model_config(cfg)
        width, height = 1024, 1024
        assert max(live_values(defs, layer_shapes(defs, width, height), (3, height, width))) < (
            limits.MOST_LIVE_VALUES / 2)


def test_weights_that_do_not_fit_are_refused_before_the_net_is_made(tiny_cfg, tmp_path):
    (tmp_path / "a.weights").write_bytes(bytes(4000))

    def never(*_, **__):
        raise AssertionError("made a net")
    with pytest.raises(WeightsError, match="a.weights: found"):
        load_net(tiny_cfg, tmp_path / "a.weights", never)


def test_a_zip_directory_that_the_zip_reader_itself_refuses_is_left_to_torch(tmp_path):
    """zipfile.is_zipfile raises where the directory claims to span several disks."""
    torch.save({"module_list.0.conv_0.weight": torch.zeros(9)}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    end = content.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 0, 9)  # of a zip64 directory; 9 disks
    (tmp_path / "a.pth").write_bytes(content[:end] + locator + content[end:])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(tmp_path / "a.pth")
    for mapped in (True, False):
        assert len(read_checkpoint(tmp_path / "a.pth", mapped=mapped)["model"]) == 1


@pytest.mark.parametrize("place", ["first", "later"])
def test_a_png_whose_chunk_claims_more_than_the_file_holds_is_not_decoded(tmp_path, monkeypatch, place):
    """OpenCV would reserve four gigabytes for 300 bytes."""
    picture = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    assert decode(picture).shape == (9, 9, 3) and decode(picture + b"more").shape == (9, 9, 3)
    start = picture.index(b"IDAT") - 4 if place == "later" else 8
    (tmp_path / "a.png").write_bytes(picture[:start] + b"\xff\xff\x04\x9b" + picture[start + 4:])
    monkeypatch.setattr(cv2, "imdecode", None)  # never asked
    with pytest.raises(DataError, match="a.png: found a file that cannot be decoded"):
        read_image(tmp_path / "a.png")
