"""Darknet pairs: what is written is what OpenCV and Darknet itself compute, or a line says where they do not."""

import ctypes
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import randomise
from models import Darknet, load
from utils.deploy.darknet_export import check_size, export_darknet
from utils.parse_config import explicit, parse_model_config

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
HEAD = ("[convolutional]\nfilters=12\nsize=1\nactivation=linear\n"
        "[yolo]\nmask=0,1\nanchors=4,6, 10,12\nclasses=1\nnum=2\n")


def conv(activation="activation=leaky\n", more="pad=1\n", filters=8):
    return f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize=3\n{more}{activation}"


def net_of(folder: Path, text: str) -> Darknet:
    (folder / "net.cfg").write_text(text)
    torch.manual_seed(0)
    model = Darknet(folder / "net.cfg").eval()
    randomise(model, 0.0)
    return model


# keys left out whose defaults OpenCV's reader and Darknet's do not share
BARE = {"activation": NET + conv("", "pad=1\nstride=2\n") + conv("") + HEAD,
        "stride of a pool": NET + conv() + "[maxpool]\nsize=2\n" + HEAD,
        "size of a pool": NET + conv() + "[maxpool]\nstride=2\n" + HEAD,
        "stride of an upsample": NET + conv(more="pad=1\nstride=2\n") + "[upsample]\n" + HEAD,
        "stride of a reorg": NET + conv() + "[reorg]\n" + HEAD,
        "num": NET + conv() + HEAD.replace("num=2\n", ""),
        "channels": NET.replace("channels=3\n", "") + conv() + HEAD,
        "activation of a shortcut": NET + conv() + conv() + "[shortcut]\nfrom=-2\n" + HEAD}


@pytest.mark.parametrize("text", BARE.values(), ids=BARE)
def test_defaults_that_readers_do_not_share_are_written_out(tmp_path, text, capsys):
    model = net_of(tmp_path, text)
    words = export_darknet(model, 1.0, tmp_path / "out.weights", (64, 64))
    assert "OpenCV computes the same" in words and "warning" not in capsys.readouterr().out
    defs = parse_model_config(tmp_path / "out.cfg")
    assert defs == explicit(defs) and len(defs) == len(model.module_defs)


REGION = HEAD.replace("[yolo]\nmask=0,1\nanchors=4,6, 10,12\n", "[region]\nanchors=1,1, 2,3\ncoords=4\nsoftmax=1\n")
OF_YOLOV2 = {"alone": NET + conv() + REGION,
             "before a yolo": NET + conv() + REGION + "[route]\nlayers=0\n" + conv("activation=mish\n") + HEAD}


@pytest.mark.parametrize("text", OF_YOLOV2.values(), ids=OF_YOLOV2)
def test_a_region_head_whose_opencv_layer_has_no_number_is_written_and_compared(tmp_path, text, capsys):
    words = export_darknet(net_of(tmp_path, text), 1.0, tmp_path / "out.weights", (64, 64))
    assert "OpenCV computes the same" in words and "warning" not in capsys.readouterr().out


def test_the_layer_that_opencv_computes_otherwise_is_named_in_a_net_with_a_region_head(tmp_path, capsys):
    several = conv() + conv() + conv() + "[shortcut]\nfrom=-2,-3\nactivation=linear\n"
    export_darknet(net_of(tmp_path, NET + several + REGION), 1.0, tmp_path / "out.weights", (64, 64))
    assert "from layer 3 [shortcut] on" in capsys.readouterr().out


def test_a_pair_is_written_without_opencvs_word_where_its_version_reads_no_darknet_files(tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(cv2.dnn, "readNetFromDarknet")  # as in 5.0
    words = export_darknet(net_of(tmp_path, NET + conv() + HEAD), 1.0, tmp_path / "out.weights", (64, 64))
    assert f"not compared with OpenCV, whose version {cv2.__version__} reads no Darknet files" in words
    assert "warning" not in capsys.readouterr().out and (tmp_path / "out.cfg").is_file()


def test_a_shortcut_of_several_inputs_is_written_with_a_warning_that_names_its_layer(tmp_path, capsys):
    model = net_of(tmp_path, NET + conv() + conv() + conv() + "[shortcut]\nfrom=-2,-3\nactivation=linear\n" + HEAD)
    words = export_darknet(model, 1.0, tmp_path / "out.weights", (64, 64))
    said = capsys.readouterr().out
    assert "OpenCV computes it differently: off by" in said
    assert "from layer 3 [shortcut] on, of whose several inputs" in said
    assert "read back it is within" in words and "OpenCV" not in words and (tmp_path / "out.cfg").is_file()


def test_a_net_that_opencv_cannot_read_is_written_with_a_warning(tmp_path, capfd):
    model = net_of(tmp_path, NET + conv("activation=relu6\n") + HEAD)
    export_darknet(model, 1.0, tmp_path / "out.weights", (64, 64))
    out, error = capfd.readouterr()
    assert f"warning: {tmp_path / 'out.weights'}: OpenCV cannot read this pair (" in out
    assert out.count("\n") == 1 and not error
    assert (tmp_path / "out.weights").is_file()


def test_a_file_that_reads_back_as_another_net_is_never_written(tmp_path, monkeypatch):
    model = net_of(tmp_path, NET + conv() + HEAD)
    monkeypatch.setattr(Darknet, "load_darknet_weights", lambda self, path: randomise(self, 0.0))
    with pytest.raises(ValueError, match="it was not written"):
        export_darknet(model, 1.0, tmp_path / "out.weights", (64, 64), ["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["net.cfg"]


def test_a_pair_knows_its_names_and_its_size(tmp_path):
    model = net_of(tmp_path, NET + conv() + HEAD)
    export_darknet(model, 1.0, tmp_path / "out.weights", (96, 32), ["猫"])
    net = load(tmp_path / "out.cfg", tmp_path / "out.weights", "cpu")
    assert net.names == ["猫"] and net.size == (96, 32)
    assert model.module_defs[0]["width"] == "64"  # the net that was written is as it was


def test_the_check_is_made_on_a_small_image_that_is_not_square():
    defs = [{"type": "net"}] + [{"type": "convolutional", "filters": "8", "size": "3", "stride": "2", "pad": "1"}] * 5
    assert check_size(defs, (416, 416)) == (96, 64) and check_size(defs, (64, 64)) == (64, 64)


def darknet_library() -> ctypes.CDLL:
    """Darknet itself, as Debian's package installs it."""
    path = Path("/usr/lib/darknet/libdarknet.so")
    if not path.is_file():
        pytest.skip("Darknet itself is not installed (apt-get install darknet)")
    library = ctypes.CDLL(str(path))
    library.load_network.restype = ctypes.c_void_p
    library.load_network.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    library.network_predict.restype = ctypes.POINTER(ctypes.c_float)
    library.network_predict.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)]
    return library


HALF = conv(more="pad=1\nstride=2\n")
DARKNET_READS = {"residual": NET + conv() + HALF + conv() + "[shortcut]\nfrom=-2\n" + HEAD,
                 "logistic by default": BARE["activation"], "pool": BARE["size of a pool"],
                 "route": NET + conv() + HALF + conv() + "[upsample]\n[route]\nlayers=-1,0\n" + HEAD}


@pytest.mark.parametrize("text", DARKNET_READS.values(), ids=DARKNET_READS)
def test_darknet_itself_computes_the_same(tmp_path, text):
    library, model = darknet_library(), net_of(tmp_path, text)
    export_darknet(model, 1.0, tmp_path / "out.weights", (64, 64))
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    network = library.load_network(bytes(tmp_path / "out.cfg"), bytes(tmp_path / "out.weights"), 0)
    found = library.network_predict(network, image.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
    with torch.no_grad():
        raw = model.raw_maps(torch.from_numpy(image))[0]
    theirs = np.ctypeslib.as_array(found, (raw.numel(),)).reshape(2, 6, *raw.shape[2:])
    ours = raw[0].reshape(2, 6, *raw.shape[2:])
    ours[:, [0, 1, 4, 5]] = ours[:, [0, 1, 4, 5]].sigmoid()  # Darknet leaves width and height raw
    ours = ours.numpy()
    assert np.abs(ours - theirs).max() < 1e-4 * max(np.abs(ours).max(), 1)
