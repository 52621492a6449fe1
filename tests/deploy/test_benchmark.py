"""python -m benchmarks --only deploy: every file by every runtime, scored as test.py scores, and what cannot run says
why."""

import json

import pytest
import torch
from torch.utils.data import Subset

from benchmarks import contest, deploy, output, run_deploy
from benchmarks.__main__ import DEPLOYED, parse_args
from benchmarks.contest import Settings
from conftest import ROOT, trained
from utils.data.datasets import ListDataset, evaluation_loader
from utils.deploy import backends
from utils.deploy.args import FORMATS
from utils.deploy.check import TOLERANCES, compare_boxes, sample_images
from utils.deploy.runtimes import int8_files, open_exported
from utils.evaluation.evaluate import evaluate

SIZE = (64, 64)


@pytest.fixture
def net(tiny_cfg, tmp_path):
    model = trained(tiny_cfg, dtype=torch.float32)
    model.save_darknet_weights(tmp_path / "tiny-hand.weights")
    return model


@pytest.fixture
def item_of(tiny_cfg, tmp_path, net):
    """flags -> the item of --only deploy for a tiny net with weights."""
    def make(*flags):
        words = ["--cfg", tiny_cfg, "--out", tmp_path / "out", "--threads", 1, *flags]
        [item] = deploy.deploy(parse_args(["--only", "deploy", *map(str, words)]), tmp_path)
        return item
    return make


def columns(summary):
    header, *rows = summary["table"]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_every_file_has_its_bytes_score_time_start_and_memory_or_says_why_not(item_of, net, tiny_data, tmp_path):
    item = item_of("--weights", tmp_path / "tiny-hand.weights", "--data", tiny_data, "--images", 5,
                   "--formats", "torchscript", "--precisions", "float32", "int8")
    summary = contest.item_summary(item, contest.run_item(item, Settings(1, 2, 1, settle=0), tmp_path))
    whole, small = columns(summary)
    file = tmp_path / "out" / "files" / "tiny-hand.torchscript"
    assert (whole["file"], whole["run by"]) == ("torchscript float32", "torch")
    assert whole["bytes"] == f"{file.stat().st_size:,}" and whole["n"] == "2" and whole["time / first"] == "1.00"
    assert all(whole[name] != "-" for name in ("median", "start-up", "peak MB", "over imports"))
    images = ListDataset(tiny_data.parent / "pictures" / "list.txt", SIZE, 1)
    result = evaluate(net, evaluation_loader(Subset(images, [0, 1, 3, 4, 6]), 8, 0), ("hand",), quiet=True)
    assert result.map50 > 0 and float(whole["AP@.5"]) == pytest.approx(result.map50, abs=1e-3)
    assert float(whole["AP@[.5:.95]"]) == pytest.approx(result.map, abs=1e-3)
    assert small["file"] == "torchscript int8" and small["bytes"] == small["median"] == small["AP@.5"] == "-"
    assert "--format torchscript --precision int8: found a precision" in small["note"]
    results = {"environment": output.conditions(1, []), "items": [summary]}
    output.write_results(results, tmp_path / "out", None)
    assert "| torchscript float32 |" in (tmp_path / "out" / "table.md").read_text()
    assert "scored on 5 images of" in json.loads((tmp_path / "out" / "results.json").read_text())["items"][0]["title"]


def test_a_package_that_is_missing_is_a_row_with_its_pip_command(item_of, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.deploy.onnx_export.importlib.util.find_spec", lambda name: None)
    item = item_of("--weights", tmp_path / "tiny-hand.weights", "--formats", "onnx", "--precisions", "float32")
    [outcome] = contest.run_item(item, Settings(1, 1, 0), tmp_path)
    assert outcome.error.endswith("pip install onnx onnxscript onnxruntime") and outcome.name.startswith("onnx float32")


def test_files_made_before_are_taken_as_they_are(item_of, tmp_path):
    item_of("--weights", tmp_path / "tiny-hand.weights", "--formats", "torchscript", "--precisions", "float32")
    item = item_of("--files", tmp_path / "out" / "files" / "tiny-hand.torchscript")
    assert [contestant.name for contestant in item.contestants] == ["tiny-hand.torchscript, torch"]
    with pytest.raises(ValueError, match="net.weights: found a file that no runtime here loads, expected"):
        item_of("--files", tmp_path / "net.weights")


def test_a_pair_finds_the_same_boxes_by_every_runtime():
    cfg, weights = str(ROOT / "config" / "hands-tiny.cfg"), str(ROOT / "weights" / "hands-tiny.weights")
    net = run_deploy.opened(weights, "torch", (256, 256), cfg)[1]
    for runtime in (run_deploy.PLAIN, run_deploy.OPENCV):
        words, predict = run_deploy.opened(weights, runtime, (256, 256), cfg)
        assert words == runtime
        assert compare_boxes(net, predict, sample_images((256, 256)), None, TOLERANCES["float32"], runtime) > 3


def test_a_net_with_random_weights_is_timed_in_8_bits_and_nothing_takes_that_file(item_of, tiny_cfg, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    item = item_of("--formats", "openvino", "--precisions", "float32", "int8", "--size", 96)
    assert "random weights: 96x96" in item.title and "not scored: no --data" in item.title
    path = tmp_path / "out" / "files" / "tiny-hand-int8.xml"
    assert open_exported(path).metadata.precision == "int8" and open_exported(path).metadata.made_from == ""
    assert item.contestants[-1].name == "openvino int8, openvino-bf16" and not item.contestants[-1].why
    model = deploy.subject_of(parse_args(["--cfg", str(tiny_cfg), "--size", "96"])).model
    assert not list(int8_files(model, (96, 96), [path.parent]))


def test_auto_takes_bfloat16_where_the_table_scored_it_as_free(tiny_cfg, net, tmp_path, monkeypatch):
    pair = deploy.File("darknet float32", tmp_path / "tiny-hand.weights", tiny_cfg)
    subject = deploy.Subject(net, ("hand",), SIZE, 3, "")
    monkeypatch.setattr(backends, "computes_bf16", lambda: True)
    monkeypatch.setattr(backends, "missing_packages", lambda name: [])
    for half, free in ((0.8, True), (0.7, False)):
        deploy.note_scores(pair, subject, {"openvino float32, openvino": {"ap50": 0.8, "ap": 0.5},
                                           "openvino float32, openvino-bf16": {"ap50": half, "ap": 0.5}})
        assert backends._bf16_is_free(net, pair.path) == free


# ---- MediaPipe

def test_palm_models_come_out_of_the_unpacked_package_or_are_a_file(tmp_path):
    names = ("handedness.txt", *run_deploy.PALMS)
    files = [{"filename": f"/third_party/{name}", "start": 3 * i, "end": 3 * i + 3} for i, name in enumerate(names)]
    (tmp_path / f"{run_deploy.PACKED}.data").write_bytes(b"txtfulite")
    (tmp_path / f"{run_deploy.PACKED}_loader.js").write_text(f'load({{"files": {json.dumps(files)}, "size": 9}});')
    assert run_deploy.palm_models(tmp_path) == dict(zip(run_deploy.PALMS, (b"ful", b"ite")))
    (tmp_path / "palm.tflite").write_bytes(b"TFL3")
    assert run_deploy.palm_models(tmp_path / "palm.tflite") == {"palm.tflite": b"TFL3"}
    with pytest.raises(ValueError, match="--palm .*nothing: found no .*npm pack @mediapipe/hands"):
        run_deploy.palm_models(tmp_path / "nothing")


def test_without_litert_the_palm_detector_is_a_row_that_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "palm.tflite").write_bytes(b"TFL3")
    monkeypatch.setattr(deploy.importlib.util, "find_spec", lambda name: None)
    [row] = deploy.palms(parse_args(["--only", "deploy", "--palm", str(tmp_path / "palm.tflite")]))
    assert row.name == "MediaPipe palm, LiteRT" and row.missing() == "not installed: pip install ai-edge-litert"


def test_deploy_is_offered_every_format():
    assert sorted(DEPLOYED) == sorted(FORMATS) and DEPLOYED[0] == "openvino"
