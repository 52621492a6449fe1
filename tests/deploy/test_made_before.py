"""--backend auto takes what was made and scored of these very weights, where the processor gains by it."""

import json
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import detect
import export
import test as scoring
from conftest import ROOT, trained
from utils.deploy import backends, onnx_runtimes, quantisation
from utils.deploy.backends import make_backend
from utils.deploy.metadata import Metadata, metadata_of, net_hash
from utils.deploy.onnx_export import write_onnx
from utils.deploy.processor import computes_bf16, computes_int8
from utils.deploy.runtimes import int8_files
from utils.deploy.score_note import BFLOAT16, FLOAT32, ScoreNote
from utils.output import write_json

SIZE = (64, 64)
VNNI, BF16, PLAIN = "flags : avx2 avx512_vnni", "flags : avx2 avx512_bf16", "flags : avx2"


@pytest.fixture
def net(tiny_cfg):
    return trained(tiny_cfg, dtype=torch.float32)


@pytest.fixture
def processor(monkeypatch):
    """A function that sets the flags of the processor."""
    from utils.deploy.processor import instructions

    def pretend(cpuinfo):
        monkeypatch.setattr("utils.deploy.processor.instructions", lambda wanted: instructions(wanted, cpuinfo))
    for module in (backends, onnx_runtimes):
        monkeypatch.setattr(module, "missing_packages", lambda name: [])
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(backends.MAKERS, name, lambda model, size: lambda images: time.sleep(0.002))
    monkeypatch.setitem(backends.MAKERS, "openvino-bf16", lambda model, size: lambda images: None)
    return pretend


def write_as_int8(net, path, **changes):
    """A file that says that it is in 8 bits, as export.py would write it."""
    write_onnx(net, path, replace(metadata_of(net, None, SIZE, "int8"), **changes))


def need_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


def test_an_8_bit_file_of_these_weights_is_taken_on_a_processor_with_instructions_for_it(net, processor, tmp_path):
    need_onnx()
    weights = tmp_path / "net.weights"
    write_as_int8(net, tmp_path / "any name.onnx")
    processor(VNNI)
    taken, predict = make_backend("auto", net, SIZE, weights=weights)
    assert taken == "onnxruntime (int8, any name.onnx: made and scored of these weights)"
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(predict(images), net(images), rtol=1e-3, atol=1e-2)
    assert make_backend("auto", net, SIZE)[0] == "openvino", "without weights there is nothing to look beside"
    assert make_backend("onnxruntime", net, SIZE, weights=weights)[0] == "onnxruntime", "a name is a name"
    processor(PLAIN)
    assert make_backend("auto", net, SIZE, weights=weights)[0] == "openvino"


def test_an_8_bit_file_in_output_is_found(net, processor, tmp_path, monkeypatch):
    need_onnx()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    write_as_int8(net, tmp_path / "output" / "net-int8.onnx")
    processor(VNNI)
    assert "int8" in make_backend("auto", net, SIZE, weights=tmp_path / "weights" / "net.pth")[0]


@pytest.mark.parametrize("changes", [{"precision": "float32"}, {"made_from": ""}, {"size": (96, 96)}])
def test_a_file_of_another_kind_is_passed_over(net, tmp_path, changes):
    need_onnx()
    write_as_int8(net, tmp_path / "net.onnx", **changes)
    assert not list(int8_files(net, SIZE, [tmp_path]))


def test_a_file_of_other_weights_and_a_damaged_one_are_passed_over(net, tmp_path):
    need_onnx()
    write_as_int8(net, tmp_path / "net.onnx")
    assert len(list(int8_files(net, SIZE, [tmp_path, tmp_path, tmp_path / "missing"]))) == 1
    (tmp_path / "net.xml").write_text(f"<net>{net_hash(net)}")
    (tmp_path / "empty.onnx").touch()
    assert len(list(int8_files(net, SIZE, [tmp_path]))) == 1
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] += 1e-3
    assert not list(int8_files(net, SIZE, [tmp_path]))


def test_the_hash_is_of_layers_and_weights_alone(net, tiny_cfg):
    same = trained(tiny_cfg, dtype=torch.float32)
    same.load_state_dict(net.state_dict())
    same.module_defs[0]["width"] = "416"
    assert net_hash(same) == net_hash(net)
    layer = next(section for section in same.module_defs[1:] if section.get("activation") == "leaky")
    layer["activation"] = "mish"
    assert net_hash(same) != net_hash(net)


def test_files_of_earlier_versions_have_no_hash(net, tmp_path):
    fields = metadata_of(net, None, SIZE, "int8").to_text()
    assert json.loads(fields["made_from"]) == net_hash(net)
    del fields["made_from"]
    assert Metadata.from_text(fields, tmp_path).made_from == ""


@pytest.mark.parametrize("bf16, taken", [((0.8, 0.5), "openvino-bf16"), ((0.8, 0.4995), "openvino-bf16"),
                                         ((0.79, 0.5), "openvino"), ((float("nan"), 0.5), "openvino")])
def test_bfloat16_is_taken_where_it_was_scored_as_no_worse(net, processor, tmp_path, capsys, bf16, taken):
    weights = tmp_path / "net.weights"
    note = ScoreNote.of(weights)
    note.add(net, FLOAT32, (0.8, 0.5), {"data": "a"})
    note.add(net, BFLOAT16, bf16, {"data": "a"})
    processor(BF16)
    assert make_backend("auto", net, SIZE, weights=weights)[0] == taken
    processor(PLAIN)
    assert make_backend("auto", net, SIZE, weights=weights)[0] == "openvino"
    assert not capsys.readouterr().out


def test_bfloat16_is_not_taken_where_it_is_the_slower(net, processor, tmp_path, capsys, monkeypatch):
    """As on Intel's processors with AVX-512 BF16 and without AMX: the instruction is there, at half the speed."""
    note = ScoreNote.of(tmp_path / "net.weights")
    for precision in (FLOAT32, BFLOAT16):
        note.add(net, precision, (0.8, 0.5), {"data": "a"})
    processor(BF16)
    monkeypatch.setitem(backends.MAKERS, "openvino-bf16", lambda model, size: lambda images: time.sleep(0.2))
    assert make_backend("auto", net, SIZE, weights=tmp_path / "net.weights")[0] == "openvino"
    assert "bfloat16 is slower than float32 on this processor" in capsys.readouterr().out


def test_without_both_scores_of_these_weights_one_line_says_how_to_get_to_bfloat16(net, processor, tmp_path, capsys):
    weights = tmp_path / "net.weights"
    note = ScoreNote.of(weights)
    processor(BF16)

    def stays_and_says_so():
        assert make_backend("auto", net, SIZE, weights=weights)[0] == "openvino"
        [line] = capsys.readouterr().out.splitlines()
        assert "test.py --backend openvino-bf16" in line

    stays_and_says_so()
    note.add(net, FLOAT32, (0.8, 0.5), {"data": "a"})
    note.add(net, BFLOAT16, (0.8, 0.5), {"data": "b"})
    stays_and_says_so()
    note.path.write_text("{")
    stays_and_says_so()
    write_json(note.path, {"made_from": "other weights", "scores": {FLOAT32: 1, BFLOAT16: 1}})
    stays_and_says_so()


def test_scores_are_noted_where_the_processor_computes_in_bfloat16(
    net, processor, tiny_cfg, tiny_data, tmp_path, monkeypatch, capsys
):
    weights = tmp_path / "net.pth"
    torch.save({"model": net.state_dict()}, weights)
    monkeypatch.setitem(backends.MAKERS, "openvino-bf16", lambda model, size: model.optimize())
    monkeypatch.chdir(tmp_path)
    words = ("--cfg", tiny_cfg, "--weights", weights, "--data", tiny_data, "--n_cpu", 0, "--device", "cpu")

    def score(backend):
        monkeypatch.setattr(sys, "argv", ["test.py", *map(str, words), "--backend", backend])
        scoring.main()

    processor(PLAIN)
    score("torch")
    assert not ScoreNote.of(weights).path.exists()
    processor(BF16)
    score("torch")
    assert ScoreNote.of(weights).bf16_drop(net) is None
    score("openvino-bf16")
    assert ScoreNote.of(weights).bf16_drop(net) == 0
    assert BFLOAT16 in capsys.readouterr().out


# ---- by the scripts, on this processor as it is

def run(script, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
    script.main()


@pytest.mark.skipif(not computes_bf16(), reason="this processor does not compute in bfloat16")
def test_auto_computes_in_bfloat16_once_test_py_scored_both(net, tiny_cfg, tiny_data, tmp_path, monkeypatch, capsys):
    need_onnx()
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    net.save_darknet_weights(tmp_path / "net.weights")
    words = ("--cfg", tiny_cfg, "--weights", tmp_path / "net.weights", "--device", "cpu")
    assert make_backend("auto", net, SIZE, weights=tmp_path / "net.weights")[0] == "openvino"
    for name in ("openvino", "openvino-bf16"):
        run(scoring, monkeypatch, *words, "--data", tiny_data, "--n_cpu", 0, "--backend", name)
    monkeypatch.setattr(backends, "WORTH_IT", 0.0)  # a few pictures are work enough
    # which is the faster differs by processor
    monkeypatch.setattr(backends, "measured_alternately", lambda predicts, *_: [
        SimpleNamespace(median=place) for place, _ in enumerate(predicts)])
    run(detect, monkeypatch, *words, "--source", ROOT / "data" / "samples", "--out", tmp_path / "out")
    assert "64x64 on cpu, by openvino-bf16" in capsys.readouterr().out
    predict = make_backend("auto", net, SIZE, weights=tmp_path / "net.weights")[1]
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        off = (predict(images) - net(images))[..., :2].abs().max()
    assert 1e-4 < off < 4, "pixels: more than float32 rounds, less than another net would differ"


@pytest.mark.skipif(not computes_int8(), reason="this processor does not sum 8-bit products")
def test_auto_takes_the_8_bit_file_once_export_py_made_it(net, tiny_cfg, tiny_data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quantisation, "alternate_seconds", lambda *_: [0.1, 0.01])  # a tiny net gains no time
    monkeypatch.setattr(quantisation, "KEPT", (0,))
    net.save_darknet_weights(tmp_path / "net.weights")
    words = ("--cfg", tiny_cfg, "--weights", tmp_path / "net.weights")
    run(export, monkeypatch, *words, "--data", tiny_data, "--format", "openvino", "--precision", "int8",
        "--max-drop", 1, "--calibration", 6)
    run(detect, monkeypatch, *words, "--device", "cpu", "--source", ROOT / "data" / "samples", "--out",
        tmp_path / "out")
    assert "by openvino (int8, tiny-hand-int8.xml: made and scored of these weights)" in capsys.readouterr().out
