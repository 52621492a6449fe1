"""Every backend and every exported file computes what the network computes, or says why not."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from conftest import ROOT, trained
from models import Darknet
from nets import FOREIGN, MIXED, cfg_text
from utils import cli
from utils.deploy import backends, onnx_export, onnx_runtimes
from utils.deploy.backends import make_backend
from utils.deploy.check import ExportError
from utils.deploy.onnx_export import export_onnx
from utils.evaluation.evaluate import evaluate

SIZE = (64, 64)
REGION = """
[net]
width=64
height=64
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[reorg]
stride=2
[convolutional]
filters=14
size=1
activation=linear
[region]
anchors=1,1, 2,2
num=2
classes=2
softmax=1
"""


def need(*packages):
    for package in packages:
        pytest.importorskip(package)


@pytest.fixture
def net(tiny_cfg):
    return trained(tiny_cfg, dtype=torch.float32)


def assert_same(model, predict):
    for batch in (2, 1, 3, 4, 2):  # an evaluation's last batch is smaller
        images = torch.rand(batch, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(batch)).to(
            memory_format=torch.channels_last
        )
        with torch.inference_mode():
            expected, found = model(images), predict(images)
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_a_backend_gives_the_networks_output(net, name):
    need(*(() if name == "torch" else (name, "onnx", "onnxscript")))
    taken, predict = make_backend(name, net, SIZE)
    assert taken == name
    assert_same(net, predict)
    first = predict(torch.zeros(1, 3, 64, 64))
    kept = first.clone()
    predict(torch.ones(1, 3, 64, 64))
    assert torch.equal(first, kept), "a later call changed an earlier result"


def test_bfloat16_is_close_and_asked_for_by_name_alone(net, monkeypatch):
    need("openvino", "onnx", "onnxscript")
    monkeypatch.setattr(backends, "require_bf16", lambda: None)  # others imitate it
    taken, predict = make_backend("openvino-bf16", net, SIZE)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert (predict(images) - net(images))[..., :2].abs().mean() < 0.5 and "openvino-bf16" not in backends.FROM_ONNX
    monkeypatch.undo()
    monkeypatch.setattr("utils.deploy.processor.instructions", lambda wanted: [])
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(ValueError, match="found a processor without bfloat16.*; take --backend openvino$"):
        make_backend("openvino-bf16", net, SIZE)


def test_torch_compile_is_asked_to_freeze_the_folded_net(net, monkeypatch):
    """Compiling takes a minute; what is compiled, and with what, is looked at instead."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: calls.append(options) or model)
    name, predict = make_backend("compile", net, SIZE)
    assert name == "compile" and calls == [{"options": {"freezing": True}}]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in predict.modules())
    assert_same(net, predict)


def test_a_compiled_net_can_be_scored_and_a_missing_compiler_is_one_line(net, monkeypatch):
    """torch's own compiled module, its graphs run without a C++ compiler; nn.Module's bool() would ask it for a
    length."""
    compiled = torch.compile(net.optimize(), backend="eager")
    images = DataLoader([(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(0, 6))], batch_size=None)
    assert evaluate(net, images, ("hand",), quiet=True, predict=compiled).n_targets == 0

    def broken(images):
        raise RuntimeError("no working C++ compiler found\nmore")
    monkeypatch.setattr(torch, "compile", lambda model, **options: broken)
    with pytest.raises(ValueError, match=r"^--backend compile does not work here \(no working C\+\+ compiler found\); "
                                         r"take --backend torch$"):
        make_backend("compile", net, SIZE)


def test_auto_takes_the_first_that_is_installed_where_there_is_work_enough(net, monkeypatch):
    monkeypatch.setattr(backends, "_seconds", lambda model, size: 0.5)
    for name in backends.FROM_ONNX:
        monkeypatch.setitem(backends.MAKERS, name, lambda model, size, name=name: f"{name}'s")
    gone = set()
    for module in (backends, onnx_runtimes):
        monkeypatch.setattr(module, "missing_packages", lambda name: [name] if name in gone else [])
    assert make_backend("auto", net, SIZE) == ("openvino", "openvino's")
    assert make_backend("auto", net, SIZE, images=239)[0] == "torch"
    assert make_backend("auto", net, SIZE, images=240)[0] == "openvino"
    gone.add("openvino")
    assert make_backend("auto", net, SIZE) == ("onnxruntime", "onnxruntime's")
    gone.add("onnxruntime")
    assert make_backend("auto", net, SIZE)[0] == "torch"


def test_auto_passes_over_a_package_that_does_not_work_and_says_so(net, monkeypatch, capsys):
    def broken(model, size):
        raise ImportError("a library\nis missing")

    for module in (backends, onnx_runtimes):
        monkeypatch.setattr(module, "missing_packages", lambda name: [])
    monkeypatch.setitem(backends.MAKERS, "onnxruntime", broken)
    monkeypatch.setitem(backends.MAKERS, "openvino", broken)
    assert make_backend("auto", net, SIZE)[0] == "torch"
    assert capsys.readouterr().out.splitlines() == [f"warning: --backend {name} does not work here (a library); take "
                                                    "--backend torch"
                                                    for name in backends.FROM_ONNX]
    with pytest.raises(ValueError, match="does not work here"):
        make_backend("openvino", net, SIZE)


def test_a_backend_that_is_not_installed_names_the_pip_command(net, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install openvino onnx onnxscript"):
        make_backend("openvino", net, SIZE)
    with pytest.raises(ValueError, match="pip install onnx onnxscript"):
        export_onnx(net, "unwritten.onnx", SIZE)


@pytest.mark.parametrize("act", ["leaky", "mish", "swish", "relu6"])
def test_every_layer_type_exports(tmp_path, act):
    """Depthwise, grouped, routes with groups, stride-1 pooling, scale_channels, upsample; the region head with reorg
    once."""
    need("onnx", "onnxscript", "onnxruntime")
    (tmp_path / "net.cfg").write_text(REGION if act == "relu6" else cfg_text(MIXED, act=act))
    model = trained(tmp_path / "net.cfg", dtype=torch.float32)
    words = export_onnx(model, tmp_path / "a" / "net.onnx", SIZE)
    assert words.startswith("checked: onnxruntime is within") and (tmp_path / "a" / "net.onnx").stat().st_size > 1000
    assert model.training is False and any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()), (
        "the original was changed"
    )


@pytest.mark.parametrize("act", ["stair"])
def test_a_grey_net_of_foreign_layers_exports(tmp_path, act):
    """Shortcuts of unequal widths, dilation, [reorg3d], [local_avgpool], [Gaussian_yolo], activations without a
    module."""
    need("onnx", "onnxscript", "onnxruntime")
    (tmp_path / "net.cfg").write_text(cfg_text(FOREIGN, channels=1, act=act))
    model = trained(tmp_path / "net.cfg", dtype=torch.float32)
    assert export_onnx(model, tmp_path / "net.onnx", SIZE).startswith("checked: onnxruntime is within")


def test_a_wrong_file_is_an_error_and_is_not_written(net, tiny_cfg, tmp_path, monkeypatch):
    need("onnx", "onnxscript", "onnxruntime")
    make = onnx_export._program
    monkeypatch.setattr(
        onnx_export, "_program", lambda model, size: make(trained(tiny_cfg, seed=5, dtype=torch.float32), size)
    )
    with pytest.raises(ExportError, match="it was not written"):
        export_onnx(net, tmp_path / "net.onnx", SIZE)
    assert not [path.name for path in tmp_path.iterdir() if "onnx" in path.name]


def test_a_net_that_gives_nan_is_not_exported(net, tmp_path):
    need("onnx", "onnxscript", "onnxruntime")
    net.module_list[-2][0].bias.data[0] = float("nan")
    with pytest.raises(ExportError, match="off by nan"):
        export_onnx(net, tmp_path / "net.onnx", SIZE)
    assert not (tmp_path / "net.onnx").exists()


def test_the_files_inputs_and_outputs_are_as_documented(net, tmp_path):
    need("onnx", "onnxscript", "onnxruntime")
    import onnx

    export_onnx(net, tmp_path / "net.onnx", SIZE)
    graph = onnx.load(tmp_path / "net.onnx").graph
    sides = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    boxes = Darknet(net.module_defs).eval()(torch.zeros(1, 3, 64, 64)).shape[1]
    assert [value.name for value in (*graph.input, *graph.output)] == ["images", "predictions"]
    assert isinstance(sides[0][0], str) and sides[0][1:] == [3, 64, 64]
    assert isinstance(sides[1][0], str) and sides[1][1:] == [boxes, 6]
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_the_command_line_offers_every_backend():
    import argparse

    parser = argparse.ArgumentParser()
    cli.add_backend_flag(parser)
    assert set(parser._actions[-1].choices) == {"auto", *backends.MAKERS}


def test_a_signal_after_several_nets_in_openvino_is_handled():
    """OpenVINO's cores, closed in the order in which they were opened, took the stack for signal handlers with them."""
    pytest.importorskip("openvino")
    program = """if True:
        import signal, sys
        sys.path.insert(0, sys.argv[1])
        from models import Darknet
        from utils.deploy.backends import make_backend
        nets = [make_backend("openvino", Darknet(sys.argv[2]).eval(), (64, 64), 1) for _ in range(3)]
        while nets:
            nets.pop(0)
        signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
        signal.raise_signal(signal.SIGUSR1)
    """
    cfg = ROOT / "config" / "hands-slim.cfg"
    done = subprocess.run([sys.executable, "-c", program, str(ROOT), str(cfg)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith("handled"), done.stderr
