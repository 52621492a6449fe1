"""--road: from a dense net to a small file by one command."""

import importlib.util
import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest

from conftest import ROOT, options_of, trained
from models import Darknet
from utils.checkpoint import read_checkpoint, save_checkpoint, weights_content
from utils.cli import size_target
from utils.deploy.quantisation import LosesTooMuch, Quantised
from utils.parse_config import class_count, parse_model_config, rebuild_heads, write_model_config
from utils.pruning import iterative, road, stages
from utils.pruning.int8 import Column, Int8
from utils.pruning.job import PruneError
from utils.training.args import parse_train_args

TRAINING = "--epochs 1 --batch_size 4 --warmup 0 --no-pictures"
QUICK = "--format torchscript --precision float16"


def main_of(script):
    """main() of a script; test.py by its path, since Python has a package of that name."""
    spec = importlib.util.spec_from_file_location(f"{script[:-3]}_of_the_road", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def walk(tiny_cfg, tiny_data, tmp_path, monkeypatch):
    """Flags of test_prune.py -> scripts that a road ran, in turn, in this process and in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    model = trained(tiny_cfg, zero_share=0.0).float()
    save_checkpoint(tmp_path / "net.pth", weights_content(model, str(tiny_cfg), "test"))
    ran = []

    def here(script, flags):
        ran.append((script, [str(flag) for flag in flags]))
        monkeypatch.setattr(sys, "argv", [script, *ran[-1][1]])
        main_of(script)()

    monkeypatch.setattr(stages, "run", here)
    monkeypatch.setattr(road, "run", here)

    def make(*more, sparse=TRAINING, tune=TRAINING, quantise=QUICK):
        ran.clear()
        words = ["--cfg", tiny_cfg, "--weights", "net.pth", "--data", tiny_data, "--road", "--out", "way",
                 "--n_cpu", 0, "--device", "cpu", "--threads", 1, "--repeats", 0, "--sparse", sparse, "--tune", tune,
                 *(["--quantise", quantise] if quantise else []), *more]
        words = list(map(str, words))
        road.run_road(options_of(words), words, Darknet)
        return [script for script, _ in ran]

    make.ran = ran
    return make


def table(tmp_path):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (tmp_path / "way/road.md").read_text()
            .splitlines() if "---" not in line]
    return {row[0]: row[1:] for row in rows}


def test_a_road_does_each_stage_once_and_says_what_it_gave(walk, tmp_path):
    assert walk("--percent", 0.5) == ["test.py", "train.py", "test_prune.py", "train.py", "test.py", "export.py",
                                      "test.py"]
    flags = [" ".join(words) for _, words in walk.ran]
    assert "-sr" in flags[1] and "--percent 0.5" in flags[2] and "--teacher-weights net.pth" in flags[3]
    assert not any("--road" in words or "--sparse" in words for words in flags)
    rows = table(tmp_path)
    assert list(rows) == ["Stage", "dense", "sparse", "cut", "tuned", "torchscript float16"]
    report = json.loads(next((tmp_path / "way/step1").glob("*-report.json")).read_text())
    assert rows["sparse"][3] == f"{report['before']['map50']:.4f}" and rows["cut"][0] == rows["tuned"][0]
    assert int(rows["cut"][0].replace(",", "")) < int(rows["dense"][0].replace(",", ""))
    assert float(rows["torchscript float16"][2]) > 0
    assert read_checkpoint(tmp_path / "logs/way-step1/best.pth")["data"].endswith("tiny.data")
    assert walk("--percent", 0.5) == [] and table(tmp_path) == rows


def test_flags_of_a_teacher_may_stand_in_tune_where_the_road_brings_the_teacher(walk):
    walk("--percent", 0.5, "--tune", "--epochs 1 --distill-gain 2", quantise="none")
    tuning = next(" ".join(words) for script, words in reversed(walk.ran) if script == "train.py")
    assert "--teacher-weights net.pth" in tuning and "--distill-gain 2" in tuning


def test_a_stopped_road_goes_on_where_it_was(walk, tmp_path):
    walk("--percent", 0.5)
    shutil.rmtree(tmp_path / "logs" / "way-step1")  # as if it had been stopped before its fine-tuning
    assert walk("--percent", 0.5) == ["train.py", "test.py", "export.py", "test.py"]
    assert walk("--percent", 0.5, quantise="--format torchscript") == ["export.py", "test.py"]
    assert walk("--percent", 0.5, quantise="none") == []
    with pytest.raises(ValueError, match="found road begun with .*0.5.* expected .*0.6.*another --out"):
        walk("--percent", 0.6)


def test_a_stage_made_anew_is_not_followed_by_what_came_of_its_forerunner(walk, tmp_path):
    walk("--percent", 0.5, quantise="none")
    shutil.rmtree(tmp_path / "logs" / "way-sparse")
    with pytest.raises(ValueError, match="report.json: found it older than logs/way-sparse/best.pth.*remove way/step1"):
        walk("--percent", 0.5, quantise="none")
    shutil.rmtree(tmp_path / "way" / "step1")
    with pytest.raises(ValueError, match="last.pth: found it older than .*remove logs/way-step1"):
        walk("--percent", 0.5, quantise="none")
    shutil.rmtree(tmp_path / "logs" / "way-step1")
    assert walk("--percent", 0.5, quantise="none") == ["train.py", "test.py"]


def test_a_stage_that_fails_leaves_the_table_of_those_before_it(walk, tmp_path, monkeypatch, capsys):
    whole = road.run

    def fails(script, flags):
        if script == "export.py":
            raise ValueError("export.py ended with status 2")
        whole(script, flags)

    monkeypatch.setattr(road, "run", fails)
    with pytest.raises(ValueError, match="export.py ended"):
        walk("--percent", 0.5)
    assert list(table(tmp_path))[-1] == "tuned" and "from dense to tuned: parameters" in capsys.readouterr().out
    monkeypatch.setattr(road, "run", whole)
    assert walk("--percent", 0.5) == ["export.py", "test.py"]


def test_a_road_cuts_in_steps(walk, tmp_path):
    walk("--target-params", 0.5, "--steps", 2, "--recalibrate", 0, quantise="none")
    rows = table(tmp_path)
    assert list(rows) == ["Stage", "dense", "sparse", "cut 1", "tuned 1", "cut 2", "tuned 2"]
    count = {stage: int(row[0].replace(",", "")) for stage, row in rows.items() if stage != "Stage"}
    assert count["dense"] > count["cut 1"] > count["cut 2"] and count["cut 2"] <= 0.5 * count["dense"]


def test_a_road_of_a_net_of_many_classes_begins_with_its_heads(walk, tiny_cfg, tiny_data, tmp_path):
    write_model_config(tiny_cfg, rebuild_heads(parse_model_config(tiny_cfg), 3))
    (tmp_path / "all.names").write_text("car\nhand\ndog\n")
    save_checkpoint(tmp_path / "net.pth", weights_content(trained(tiny_cfg, zero_share=0.0).float(), str(tiny_cfg),
                                                          "test", names=["car", "hand", "dog"]))
    for labels in (tmp_path / "pictures/labels").iterdir():
        labels.write_text(re.sub("^0", "1", labels.read_text(), flags=re.MULTILINE))
    tiny_data.write_text(re.sub("classes=1", "classes=3", tiny_data.read_text()) + f"names={tmp_path / 'all.names'}\n")
    scripts = walk("--keep-classes", "hand", "--percent", 0.5, quantise=QUICK)
    assert scripts[:2] == ["test_prune.py", "test.py"] and scripts[-2:] == ["export.py", "test.py"]
    slim = next((tmp_path / "way/step1").glob("prune*.cfg"))
    assert class_count(parse_model_config(slim)) == 1
    assert read_checkpoint(tmp_path / "logs/way-step1/best.pth")["names"] == ["hand"]


@pytest.fixture
def in_8_bits(monkeypatch):
    """Nets of at most so many parameters lose too much in 8 bits; returns the parameters of those that were tried, with
    `most` to be set."""
    tried = SimpleNamespace(most=0, counts=[])

    def fake(job, model, rescale, path):
        count = sum(p.numel() for p in model.parameters())
        tried.counts.append(count)
        if count <= tried.most:
            raise LosesTooMuch(f"{path}: int8 loses 0.5", (None, None))
        columns = tuple(Column(name, 0.5, 0.25, count, 7, 9, "openvino", None) for name in ("dense", "slim", "small"))
        return Int8({".bin": b"data", ".xml": b"net"}, Quantised((None, None), (1.0, 1.0), (), 4), columns)

    monkeypatch.setattr(iterative, "quantised", fake)
    monkeypatch.setattr(Quantised, "words", lambda self: "made")
    return tried


def test_the_strongest_step_whose_8_bit_net_keeps_the_limit_is_written_once_as_a_pair_and_in_8_bits(
    walk, in_8_bits, tmp_path, capsys
):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    road_of = lambda: walk("--percent", 0.5, "--steps", 2, "--int8", quantise=None)
    assert road_of()[-1] == "test.py"
    assert not any("--int8" in words for _, words in walk.ran), "no step is quantised by itself"
    rows = table(tmp_path)
    assert list(rows)[-1] == "openvino int8 of step 2" and rows["openvino int8 of step 2"][3:] == ["0.5000", "0.2500"]
    assert (tmp_path / "way/tiny-pruned-int8.xml").read_bytes() == b"net"
    assert (tmp_path / "way/tiny-pruned-int8.bin").read_bytes() == b"data"
    net = Darknet(tmp_path / "way/tiny-pruned.cfg")
    net.load_darknet_weights(tmp_path / "way/tiny-pruned.weights")
    assert len(in_8_bits.counts) == 1 and road_of() == [] and len(in_8_bits.counts) == 1, "made once"
    (tmp_path / "way/tiny-pruned-int8.xml").unlink()
    in_8_bits.most = in_8_bits.counts[0]  # the last step loses too much
    assert road_of() == [] and list(table(tmp_path))[-1] == "openvino int8 of step 1"
    assert "step 2: way/tiny-pruned-int8.xml: int8 loses 0.5" in capsys.readouterr().out
    (tmp_path / "way/tiny-pruned-int8.xml").unlink()
    in_8_bits.most = 1e9
    with pytest.raises(PruneError, match="--int8: .*; cut less, or .*float32 nets are whole: logs/way-step1/best.pth"):
        road_of()
    assert not (tmp_path / "way/tiny-pruned-int8.xml").exists()


def test_a_road_has_one_quantisation(walk):
    with pytest.raises(ValueError, match="--int8: found --quantise beside it, expected one of them"):
        walk("--int8")
    assert walk.ran == []


@pytest.mark.parametrize("cut, sparse, expected", [
    ("--target-flops 0.3", "--epochs 9", ["target_flops"]),
    ("--target-params 1.2M --target-flops 2.5G", "--epochs 9", ["target_flops", "target_params"]),
    ("--target-latency 0.5 --latency-backend torch", "--epochs 9", ["latency_backend", "target_latency"]),
    ("--percent 0.5", "--epochs 9", ["s", "s_schedule"]),
    ("--target-flops 0.3", "--epochs 9 --s 0.03", ["s"]),
    ("--target-flops 0.3", "--s-schedule decay", ["s_schedule"]),
    ("--target-flops 0.3", "--target-flops 0.2", ["target_flops"]),
    ("--target-flops 0.3", "--sparsity l1", []),
])
def test_sparse_training_of_a_road_finds_its_s_for_the_cut_unless_it_is_told_how_strong(cut, sparse, expected):
    words = ["--road", "--sparse", sparse, *cut.split()]
    flags = road.sparse_flags(options_of(words), cut.split())
    asked = parse_train_args("", ["-sr", *flags])
    named = {*road.HOW_STRONG, "latency_backend"} & asked.typed.keys()
    assert sorted(named) == expected and flags[:len(sparse.split())] == sparse.split()
    if "target_params" in expected:
        assert (size_target(asked.target_params), size_target(asked.target_flops)) == ((1.2e6, False), (2.5e9, False))


@pytest.mark.parametrize("flags, words", [
    ({"sparse": "--epochz 3"}, "unrecognized arguments: --epochz"),
    ({"tune": "--epochz 3"}, "unrecognized arguments: --epochz"),
    ({"quantise": "--formt onnx"}, "unrecognized arguments: --formt"),
    ({"quantise": "--format ncnn --precision int8"}, "int8 is written as onnx or openvino"),
])
def test_a_flag_that_a_later_stage_does_not_know_stops_the_road_before_the_first(walk, tmp_path, capsys, flags, words):
    with pytest.raises((SystemExit, ValueError)) as raised:
        walk(**flags)
    assert words in capsys.readouterr().err + str(raised.value)
    assert walk.ran == [] and not (tmp_path / "way").exists()


@pytest.mark.parametrize("flag, value", [
    ("--tune", "--epochs 1 --cfg other.cfg"), ("--tune", "--weights_path=other.pth"), ("--sparse", "--model-def x.cfg"),
    ("--sparse", "-pre other.pth"), ("--quantise", "--format onnx --weights other.pth"), ("--tune", "--name mine")])
def test_a_stage_is_not_given_another_net(walk, flag, value):
    with pytest.raises(ValueError, match=f"{flag}: found -.* in it, expected none of --cfg, .*the one before"):
        walk(f"{flag}={value}")
    assert walk.ran == []


def test_packages_that_the_last_stage_wants_are_asked_for_before_the_first(walk, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else find(name, *rest))
    with pytest.raises(ValueError, match="pip install nncf.*--quantise none"):
        walk(quantise="--format onnx --precision int8")
    assert walk.ran == []


@pytest.mark.parametrize("flag", ["--no-eval", "--unlabelled"])
def test_a_road_has_scores(walk, flag):
    with pytest.raises(ValueError, match=f"--road: found {flag}, expected pictures with boxes"):
        walk(flag)


def test_the_trainings_of_a_road_pull_what_is_cut_and_score_as_it_does():
    options = options_of(["--strategy", "skip", "--scorer", "compat", "--conf_thres", 0.2, "--target-flops", 0.5])
    assert ["--strategy", "skip"] == road.sparse_flags(options, ["--target-flops", "0.5"])[2:4]
    flags = stages.training_flags(options)
    assert flags[flags.index("--scorer") + 1] == "compat" and flags[flags.index("--conf_thres") + 1] == 0.2
