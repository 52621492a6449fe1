"""Every file that export.py writes does in its own runtime what the network does, and test.py and detect.py take it
like a network."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import detect
import export
import test as scoring
from conftest import FAMILIES, ROOT, small_disk, trained
from models import Darknet
from nets import ADD, MIXED, ODD, cfg_text
from utils.deploy import args as export_args
from utils.deploy import formats, runtimes
from utils.deploy.check import TOLERANCES, ExportError, compare_boxes, compare_predictions
from utils.deploy.formats import FORMATS, Order, export_format, out_name, out_paths
from utils.deploy.graph import DeployGraph, takes_any_size
from utils.deploy.metadata import BuiltInNms, metadata_of
from utils.deploy.onnx_export import write_onnx
from utils.deploy.runtimes import open_exported, open_on_cpu
from utils.evaluation.nms import non_max_suppression
from utils.places import OutputError

SIZE = (64, 64)
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "torchscript": (),
    "litert": ("litert_torch", "ai_edge_litert"),
}
QUICK = ("openvino", "ncnn", "torchscript")  # converted from a trace; onnx takes five times as long


def need(name):
    for package in PACKAGES[name]:
        pytest.importorskip(package)


@pytest.fixture
def net(tiny_cfg):
    return trained(tiny_cfg, dtype=torch.float32)


def written(net, name, folder, precision="float32", nms=None, size=SIZE):
    need(name)
    path = folder / f"net{FORMATS[name].suffix}"
    words = export_format(net, name, path, Order(("hand",), size, precision, nms))
    assert words.startswith(f"{path}: ") and "checked: " in words
    return path


@torch.inference_mode()
def assert_equal(net, path, sizes=(SIZE,), limit=1e-3, **options):
    for size in sizes:
        images = torch.rand(2, 3, size[1], size[0], generator=torch.Generator().manual_seed(1))
        found, expected = open_exported(path, size=size, **options).predict(images), net(images)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= limit * expected.abs().max()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_file_computes_what_the_net_computes_and_knows_its_names_and_size(net, tmp_path, name):
    path = written(net, name, tmp_path)
    free = FORMATS[name].free_size
    assert_equal(net, path, ((64, 64), (96, 64), (32, 160)) if free else ((64, 64),))
    metadata = open_exported(path).metadata
    assert metadata.names == ("hand",) and metadata.size == SIZE and metadata.stride == 8 and metadata.free_size == free
    assert metadata.anchors[1] == ((4.0, 6.0), (8.0, 10.0), (12.0, 14.0))
    if name == "onnx":
        pytest.importorskip("openvino")
        assert_equal(net, path, backend="openvino")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_file_holds_no_line_and_no_folder_of_the_program_that_made_it(net, tmp_path, name):
    path = written(net, name, tmp_path)
    for file in path.parent.glob(f"{path.stem}.*"):
        assert not [word for word in (str(ROOT), "stack_trace") if word.encode() in file.read_bytes()]


@pytest.mark.parametrize("name", [name for name in PACKAGES if "float16" in FORMATS[name].precisions])
def test_float16_halves_the_weights_and_stays_close(net, tmp_path, name):
    whole, half = written(net, name, tmp_path / "a"), written(net, name, tmp_path / "b", "float16")
    assert_equal(net, half, limit=1e-2)
    assert open_exported(half).metadata.precision == "float16"
    saved = 2 * sum(parameter.numel() for parameter in net.optimize().parameters())
    sizes = [open_exported(path).files()[-1].stat().st_size for path in (whole, half)]
    assert sizes[0] - sizes[1] > 0.8 * saved


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", QUICK)
def test_every_family_exports(families, tmp_path, family, name):
    net = trained(families[family], dtype=torch.float32)
    assert_equal(net, written(net, name, tmp_path, size=(96, 96)), ((96, 96),), limit=2e-3)


@pytest.mark.parametrize("name", QUICK)
def test_nets_of_others_with_depthwise_layers_export(shared, tmp_path, name):
    folder = shared / "darknet_pairs" / "yolo-fastest-1.1-coco"
    net = Darknet(folder / "yolo-fastest-1.1.cfg").eval()
    net.load_darknet_weights(folder / "yolo-fastest-1.1.weights")
    need(name)
    path = tmp_path / f"net{FORMATS[name].suffix}"
    export_format(net, name, path, Order(None, (160, 160), "float32", None))
    assert_equal(net, path, ((160, 160),))
    assert open_exported(path).metadata.names[79] == "class79"


@pytest.mark.parametrize(
    "text", [cfg_text(MIXED, act="mish"), cfg_text(ODD, joins=ADD)], ids=["mixed", "odd"]
)
@pytest.mark.parametrize("name", PACKAGES)
def test_every_kind_of_layer_exports(tmp_path, text, name):
    """Padded and unpadded convolutions, conv groups, grouped routes, reorg, both kinds of heads, pooling of stride 1,
    scale_channels."""
    (tmp_path / "net.cfg").write_text(text)
    net = trained(tmp_path / "net.cfg", dtype=torch.float32)
    assert_equal(net, written(net, name, tmp_path))


@pytest.mark.parametrize("name", QUICK)
def test_a_net_of_brightness_exports_and_its_file_says_so(tiny_cfg, tmp_path, name):
    need(name)
    tiny_cfg.write_text(tiny_cfg.read_text().replace("channels=3", "channels=1"))
    net = trained(tiny_cfg, dtype=torch.float32)
    file = open_exported(written(net, name, tmp_path))
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        assert file.channels == 1 and torch.allclose(file.predict(images), net(images), rtol=1e-3, atol=1e-3)


def test_the_size_is_free_only_where_cells_keep_their_pixels(tmp_path, net):
    (tmp_path / "net.cfg").write_text(cfg_text(MIXED))  # a convolution without padding: 15 cells of 64 pixels
    assert takes_any_size(net, SIZE) and not takes_any_size(Darknet(tmp_path / "net.cfg"), SIZE)


def test_the_file_can_end_with_the_suppression_that_the_project_uses(tmp_path):
    """Several classes, against utils.evaluation.nms, in both runtimes that read ONNX."""
    need("onnx")
    (tmp_path / "net.cfg").write_text(
        cfg_text(MIXED).replace("classes=1", "classes=3").replace("filters=12", "filters=16")
    )
    net = trained(tmp_path / "net.cfg", dtype=torch.float32)
    nms = BuiltInNms(0.3, 0.4, 20)
    net.module_list[-2][0].bias.data.view(2, 8)[:, 4:] = 0  # unsure, not sure of nothing
    net.module_list[-2][0].weight.data *= 30
    path = tmp_path / "net.onnx"
    export_format(net, "onnx", path, Order(("a", "b", "c"), SIZE, "float32", nms))
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = non_max_suppression(net(images), 0.3, 0.4, 20)
    assert sum(map(len, expected)) > 20 and len(set(torch.cat(expected)[:, 5].tolist())) > 1
    import onnxruntime

    names = ["boxes", "scores", "classes", "count"]
    boxes, scores, classes, count = onnxruntime.InferenceSession(path).run(names, {"images": images.numpy()})
    assert boxes.shape == (3, 20, 4) and count.tolist() == [len(rows) for rows in expected]
    for image_i, rows in enumerate(expected):
        n = len(rows)
        assert np.allclose(boxes[image_i, :n], rows[:, :4], rtol=1e-4, atol=1e-3) and np.allclose(
            scores[image_i, :n], rows[:, 4], atol=1e-5
        )
        assert (
            (classes[image_i, :n] == rows[:, 5].numpy()).all()
            and not scores[image_i, n:].any()
            and not boxes[image_i, n:].any()
        )
    pytest.importorskip("openvino")
    for ours, theirs in zip(open_exported(path).predict(images), open_exported(path, "openvino").predict(images)):
        assert torch.allclose(ours[ours[:, 4] > 0], theirs[theirs[:, 4] > 0], rtol=1e-3, atol=1e-3)


def test_an_onnx_file_is_run_by_the_fastest_runtime_that_is_installed_which_needs_nothing_else(
    net, tmp_path, monkeypatch
):
    pytest.importorskip("openvino")
    path = written(net, "onnx", tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)  # as where it is not installed
    file = open_on_cpu(path, "auto", None)
    assert file.runtime == "openvino" and file.metadata.names == ("hand",) and file.size == SIZE
    monkeypatch.setattr(runtimes, "missing", lambda packages: [name for name in packages if name == "openvino"])
    assert open_on_cpu(path, "auto", None).runtime == "onnxruntime"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_file_that_computes_something_else_is_not_written(net, tiny_cfg, tmp_path, monkeypatch, name):
    need(name)
    other = trained(tiny_cfg, seed=5, dtype=torch.float32)
    write = FORMATS[name].write
    monkeypatch.setitem(
        formats.FORMATS, name, replace(FORMATS[name], write=lambda model, path, metadata: write(other, path, metadata))
    )
    with pytest.raises(ExportError, match="it was not written"):
        export_format(net, name, tmp_path / "out" / f"net{FORMATS[name].suffix}", Order(None, SIZE, "float32", None))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "litert"])
def test_on_a_full_disk_the_error_names_the_file_and_nothing_is_left(net, tmp_path, monkeypatch, name):
    need(name)
    kind = FORMATS[name]

    def write(model, path, metadata):
        with small_disk():
            kind.write(model, path, metadata)
    monkeypatch.setitem(formats.FORMATS, name, replace(kind, write=write))
    path = tmp_path / "out" / f"net{kind.suffix}"
    with pytest.raises(OutputError, match=f"{path.name}: cannot be written .*nothing was left there"):
        export_format(net, name, path, Order(None, SIZE, "float32", None))
    assert not list((tmp_path / "out").iterdir())


def test_what_a_runtime_rounds_of_a_class_that_is_never_seen_is_no_difference():
    box = torch.tensor([[[32.0, 32, 20, 20, 0.9, 1e-4], [10, 10, 8, 8, 0.6, 5e-5]]])
    rounded, wrong = box.clone(), box.clone()
    rounded[..., 5] += 2e-7
    wrong[..., 5] = box.flip(1)[..., 5]
    off = [compare_predictions(lambda _: box, lambda _, own=own: own, (64, 64), (1,), "net.onnx")
           for own in (rounded, wrong)]
    assert off[0] < TOLERANCES["float32"].predictions < off[1]


def test_a_box_that_moves_or_goes_missing_is_noticed():
    box = torch.tensor([[[32.0, 32, 20, 20, 0.9, 1.0], [10, 10, 8, 8, 0.6, 1.0]]])
    images = torch.zeros(1, 3, 64, 64)

    def compare(found):
        return compare_boxes(lambda _: box, lambda _: found, images, None, TOLERANCES["float32"], "net.onnx")

    assert compare(box) == 2
    moved, weaker, missing, extra = box.clone(), box.clone(), box.clone(), torch.cat([box, box[:, :1] + 15], dim=1)
    moved[0, 0, 0] += 1
    weaker[0, 0, 4] -= 0.02
    missing[0, 1, 4] = 0
    extra[0, 2, 4:] = torch.tensor([0.7, 1.0])
    for wrong in (moved, weaker, missing, extra):
        with pytest.raises(ExportError, match="it was not written"):
            compare(wrong)


def test_which_of_two_boxes_of_one_score_stays_is_no_difference():
    boxes = torch.tensor([[[32.0, 32, 20, 20, 0.9, 1.0], [34, 32, 20, 20, 0.8999999, 1.0], [40, 32, 20, 20, 0.8, 1.0]]])
    found = boxes.clone()
    found[0, 0, 4] = 0.8999998  # now the second stays, and suppresses the third
    compare = lambda net, file, nms: compare_boxes(
        lambda _: net, lambda _: file, torch.zeros(1, 3, 64, 64), nms, TOLERANCES["float32"], "net.onnx")
    assert compare(boxes, found, None) == 2
    # of a file with a suppression of its own there is but what it left
    assert compare(boxes[:, :2], found[:, 1:2], BuiltInNms()) == 1
    with pytest.raises(ExportError, match="the file does not find"):
        compare(boxes[:, :2], found[:, 2:], BuiltInNms())


def test_a_format_whose_runtime_is_missing_is_converted_and_said_not_to_be_run(net, tmp_path, monkeypatch):
    find = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    words = export_format(net, "torchscript", tmp_path / "net.torchscript", Order(None, SIZE, "float32", None))
    assert "converted, NOT run (pip install torch" in words


def test_the_graph_equals_the_net_in_any_shape(net):
    graph = DeployGraph(net, SIZE)
    for height, width in ((64, 64), (32, 96)):
        images = torch.rand(2, 3, height, width)
        with torch.inference_mode():
            assert torch.allclose(graph(images), net(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "out, formats_, precision, expected",
    [
        ("a/x.onnx", None, "float32", {"onnx": "a/x.onnx"}),
        ("x.weights", None, "float32", {"darknet": "x.weights"}),
        ("a/x", None, "float32", {"onnx": "a/x.onnx"}),
        ("x.v2", ["onnx"], "float16", {"onnx": "x.v2-float16.onnx"}),
        (
            "x",
            ["openvino", "ncnn", "torchscript"],
            "float32",
            {"openvino": "x.xml", "ncnn": "x.ncnn.param", "torchscript": "x.torchscript"},
        ),
        ("x.onnx", ["onnx", "openvino"], "float16", {"onnx": "x-float16.onnx", "openvino": "x-float16.xml"}),
        ("X.ONNX", None, "float32", {"onnx": "X.onnx"}),
        ("x.ncnn.param", None, "float32", {"ncnn": "x.ncnn.param"}),
        ("x.param", None, "float32", {"ncnn": "x.param"}),
        ("x.Ncnn.Param", ["ncnn", "openvino"], "float32", {"ncnn": "x.ncnn.param", "openvino": "x.xml"}),
        ("x.ncnn.param", ["ncnn", "onnx"], "float16", {"ncnn": "x-float16.ncnn.param", "onnx": "x-float16.onnx"}),
    ],
)
def test_files_are_named_by_out_and_format(tmp_path, out, formats_, precision, expected):
    found = out_paths(tmp_path / out, formats_, precision)
    assert found == {name: tmp_path / path for name, path in expected.items()}


@pytest.mark.parametrize("out, expected", [("made", "made/hand"), ("new/", "new/hand"), ("new", "new"),
                                           ("made.v2", "made.v2"), (None, "output/hand")])
def test_files_go_into_a_folder_that_is_named(tmp_path, monkeypatch, out, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    assert out_name(out, Path("config/hand.cfg")) == Path(expected)


@pytest.mark.parametrize("blocked", ["out/net.xml", "out"])
def test_a_place_where_nothing_can_be_written_is_said_before_the_net_is_read(tmp_path, monkeypatch, blocked):
    (tmp_path / blocked).mkdir(parents=True) if "." in blocked else (tmp_path / blocked).write_text("a file")
    with pytest.raises(OutputError, match=f"{blocked}: found a (file|folder), expected"):
        run(export, monkeypatch, "--cfg", "none.cfg", "--out", tmp_path / "out" / "net", "--format", "openvino")


def test_files_are_opened_whatever_the_case_of_their_endings(net, tmp_path):
    path = written(net, "openvino", tmp_path)
    for file in open_exported(path).files():
        file.rename(tmp_path / file.name.replace(".xml", ".XML"))
    assert_equal(net, tmp_path / "net.XML")
    assert [file.name for file in open_exported(tmp_path / "net.XML").files()] == ["net.XML", "net.bin"]


def run(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, words)])
    module.main()


@pytest.mark.parametrize("name", QUICK)
def test_scripts_score_and_draw_a_file_like_the_net(net, tiny_cfg, tiny_data, tmp_path, monkeypatch, capsys, name):
    need(name)
    net.save_darknet_weights(tmp_path / "net.weights")
    common = ("--cfg", tiny_cfg, "--weights", tmp_path / "net.weights")
    run(export, monkeypatch, *common, "--format", name, "--out", tmp_path / "files" / "net", "--data", tiny_data)
    path = tmp_path / "files" / f"net{FORMATS[name].suffix}"
    scores, found = [], []
    for weights in (common, ("--weights", path)):
        run(
            scoring,
            monkeypatch,
            *weights,
            "--data",
            tiny_data,
            "--n_cpu",
            0,
            "--json",
            tmp_path / "s.json",
            "--pr",
            tmp_path / "pr.png",
        )
        scores.append(json.loads((tmp_path / "s.json").read_text()))
        run(
            detect,
            monkeypatch,
            *weights,
            "--source",
            tmp_path / "pictures" / "images",
            "--out",
            tmp_path / "drawn",
            "--conf_thres",
            0.05,
        )
        found.append(json.loads((tmp_path / "drawn" / "detections.json").read_text()))
    assert scores[0]["map50"] == pytest.approx(scores[1]["map50"], abs=1e-3)
    for one, other in zip(*found, strict=True):
        assert len(one["detections"]) == pytest.approx(len(other["detections"]), abs=2)
    assert f"{path}: float32, by {FORMATS[name].runtime}" in capsys.readouterr().out


def test_wrong_files_sizes_and_flags_are_one_line(net, tiny_data, tmp_path, monkeypatch):
    path = written(net, "torchscript", tmp_path)
    fixed = tmp_path / "fixed.torchscript"
    FORMATS["torchscript"].write(net, fixed, metadata_of(net, None, SIZE, "float32"))
    with pytest.raises(ValueError, match="found images of 100x100, expected multiples of 8; leave --img_size out"):
        open_exported(path, size=(100, 100))
    with pytest.raises(ValueError, match="found images of 96x96, expected 64x64, the size it was exported for"):
        open_exported(fixed, size=(96, 96))
    with pytest.raises(ValueError, match="found images of 32x32, expected 64x64, the size it was opened for"):
        open_exported(path).predict(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="run by torch; leave --backend out"):
        open_exported(path, "openvino")
    (tmp_path / "broken.torchscript").write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="broken.torchscript: torch cannot read it"):
        open_exported(tmp_path / "broken.torchscript")
    with pytest.raises(FileNotFoundError, match="net.bin: no such file; .*net.xml needs it beside it"):
        shutil.copy(path, tmp_path / "net.xml")
        open_exported(tmp_path / "net.xml")
    (tmp_path / "two.data").write_text(tiny_data.read_text().replace("classes=1", "classes=2"))
    with pytest.raises(ValueError, match="made for 1 classes, but .*two.data has 2; name the data it was trained on"):
        run(scoring, monkeypatch, "--weights", path, "--data", tmp_path / "two.data")
    with pytest.raises(ValueError, match="--format ncnn --precision int8: found a precision"):
        out_paths(tmp_path / "x", ["ncnn"], "int8")
    with pytest.raises(ValueError, match="leave the suffix out"):
        out_paths(tmp_path / "x.onnx", ["ncnn"], "float32")


@pytest.mark.parametrize("error, kind, words", [
    (RuntimeError("the network\nhas a fault"), ValueError, r"net.torchscript: torch cannot read it \(the network\)"),
    (ValueError("no net"), ValueError, r"net.torchscript: torch cannot read it \(no net\), expected a file as export"),
    (ImportError("libx.so"), ValueError, r"net.torchscript: its runtime does not work here \(libx.so\)"),
    (PermissionError(13, "no"), ValueError, r"net.torchscript: cannot be read \(.*no\)"),
    (MemoryError("full"), MemoryError, "full")])
def test_a_file_is_blamed_for_its_own_faults_alone(net, tmp_path, monkeypatch, error, kind, words):
    path = written(net, "torchscript", tmp_path)

    def fails(*_, **__):
        raise error
    monkeypatch.setattr(torch.jit, "load", fails)
    with pytest.raises(kind, match=words):
        open_exported(path)


def test_int8_needs_the_data_and_no_suppression(net, tiny_cfg, tiny_data, tmp_path, monkeypatch):
    net.save_darknet_weights(tmp_path / "net.weights")
    words = ("--cfg", tiny_cfg, "--weights", tmp_path / "net.weights", "--precision", "int8", "--out", tmp_path / "net")
    with pytest.raises(ValueError, match="--precision int8: found no --data, expected the data that the net was "
                                         "trained on"):
        run(export, monkeypatch, *words)
    with pytest.raises(ValueError, match="--nms --precision int8: found both"):
        run(export, monkeypatch, *words, "--nms", "--data", tiny_data)
    with pytest.raises(ValueError, match="--nms: found --format onnx torchscript, expected onnx alone"):
        run(export, monkeypatch, *words[:4], "--nms", "--format", "onnx", "torchscript", "--out", tmp_path / "net")
    assert not list(tmp_path.glob("net-int8*"))


def test_an_onnx_file_without_metadata_says_what_is_missing(net, tmp_path):
    need("onnx")
    import onnx

    write_onnx(net, tmp_path / "net.onnx", metadata_of(net, None, SIZE, "float32"))
    bare = onnx.load(tmp_path / "net.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="bare.onnx: found no usable names, size and stride in it"):
        open_exported(tmp_path / "bare.onnx")


def test_export_offers_what_can_be_written():
    assert set(export_args.FORMATS) == set(FORMATS)
    assert {p for kind in FORMATS.values() for p in kind.precisions} >= set(export_args.PRECISIONS)
    assert (ROOT / "data" / "samples").is_dir()


def test_a_format_that_cannot_be_had_does_not_stop_those_after_it(net, tiny_cfg, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise ExportError("net.onnx: it computes something else")

    net.save_darknet_weights(tmp_path / "w.weights")
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=fails))
    words = ["--cfg", str(tiny_cfg), "--weights", str(tmp_path / "w.weights"), "--format", "onnx", "torchscript"]
    with pytest.raises(ValueError, match="^net.onnx: it computes something else$"):
        run(export, monkeypatch, *words, "--out", str(tmp_path / "net"))
    assert (tmp_path / "net.torchscript").is_file() and not (tmp_path / "net.onnx").exists()
    assert "net.torchscript: " in capsys.readouterr().out


def test_a_darknet_pair_does_not_take_the_place_of_the_cfg_that_is_read(net, tiny_cfg, tmp_path, monkeypatch):
    net.save_darknet_weights(tmp_path / "w.weights")
    before, words = tiny_cfg.read_text(), ["--cfg", str(tiny_cfg), "--weights", str(tmp_path / "w.weights")]
    for out, refused in ((tiny_cfg.with_suffix(".weights"), True), (tmp_path / "other.weights", False)):
        monkeypatch.setattr("sys.argv", ["export.py", *words, "--format", "darknet", "--out", str(out)])
        with pytest.raises(ValueError, match="the cfg that is read") if refused else contextlib.nullcontext():
            export.main()
        assert out.exists() != refused and tiny_cfg.read_text() == before


def test_a_torchscript_file_is_written_and_opened_without_a_warning(net, tmp_path, recwarn):
    open_exported(written(net, "torchscript", tmp_path))
    assert not [str(warning.message) for warning in recwarn]
