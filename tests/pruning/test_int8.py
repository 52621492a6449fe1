"""--int8: one limit of lost mAP for the cut, the fine-tuning and 8-bit numbers together."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import test_prune
from conftest import fake_score, options_of
from models import Darknet
from utils.deploy.quantisation import LosesTooMuch
from utils.deploy.runtimes import int8_files, open_exported
from utils.loading import load_net
from utils.text import CfgError
from utils.pruning import args, budget, int8, iterative
from utils.pruning.budget import Pruned, within_budget
from utils.pruning.compact import compact_and_verify
from utils.pruning.int8 import Column, fastest_of, int8_path, table
from utils.pruning.job import PruneError
from utils.pruning.plan import plan_cut
from utils.shapes import total_cost


def need_openvino():
    for package in ("openvino", "nncf"):
        pytest.importorskip(package)


def score(map50, map_=0.5):
    return SimpleNamespace(map50=map50, map=map_, precision=0.0, recall=0.0)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def eight_bits_lose(monkeypatch):
    """Nets that lose loss(parameters) of mAP by pruning lose `more` in 8 bits; returns a function of both that gives
    the list of nets that were quantised, by their parameters."""
    def lose(loss, more, at_ap=0.0):
        fake_score(monkeypatch, loss)
        tried = []

        def fake(job, model, rescale, path):
            tried.append(parameters(model))
            scores = score(0.9 - loss(tried[-1])), score(0.9 - loss(tried[-1]) - more, 0.5 - at_ap)
            if not int8.limits_of(job.options, job.before).keeps(scores):
                raise LosesTooMuch(f"{path}: int8 loses", scores)
            return SimpleNamespace(scores=scores)

        monkeypatch.setattr(budget, "quantised", fake)
        return tried
    return lose


def pruned(job):
    plan = plan_cut(job)
    return Pruned(plan, compact_and_verify(job, plan), None, None)


def test_the_strongest_cut_whose_8_bit_file_is_within_the_limit_is_found(job_of, eight_bits_lose):
    job = job_of("--max-drop 0.1 --recalibrate 0 --int8")
    dense = parameters(job.dense)
    tried = eight_bits_lose(lambda count: 0.2 * (1 - count / dense), 0.03)
    found = within_budget(job, pruned(job))
    loss, small = (result.map50 for result in found.compact.int8.scores)
    assert 0.9 - small <= 0.1 < 0.9 - small + 0.02, "within the limit, and not by much"
    assert len(tried) == 2 and tried[0] < tried[1], "the strongest cut without room, then one that leaves 0.03"
    assert parameters(found.compact.model) == tried[1]
    alone = pruned(job_of("--max-drop 0.07 --recalibrate 0"))
    assert parameters(alone.compact.model) == tried[1], "as a search for the rest of the limit would have found"


def test_8_bits_that_alone_lose_more_than_the_limit_are_refused_in_words(job_of, eight_bits_lose, tmp_path):
    job = job_of("--max-drop 0.02 --recalibrate 0 --int8")
    dense = parameters(job.dense)
    tried = eight_bits_lose(lambda count: 0.2 * (1 - count / dense), 0.03)
    with pytest.raises(PruneError, match=r"--int8: .*int8 loses; fine-tune the cut \(--tune FLAGS\), or .*--max-drop"):
        within_budget(job, pruned(job))
    assert len(tried) == 1
    eight_bits_lose(lambda count: 0.0, 0.0, at_ap=0.05)  # a milder cut does not mend what 8 bits do to AP@[.5:.95]
    with pytest.raises(PruneError, match="--int8: "):
        within_budget(job, pruned(job))


def test_a_cut_that_was_asked_for_is_not_changed_but_refused(job_of, eight_bits_lose):
    job = job_of("--percent 0.5 --max-drop 0.05 --int8")
    assert job.options.aims.max_drop is None and job.options.limit == 0.05
    dense = parameters(job.dense)
    eight_bits_lose(lambda count: 0.04 * (count < dense), 0.02)
    with pytest.raises(PruneError, match=r"--int8: .*; cut less \(a smaller --percent"):
        within_budget(job, pruned(job))
    eight_bits_lose(lambda count: 0.04 * (count < dense), 0.005)
    assert within_budget(job, pruned(job)).compact.int8


@pytest.mark.parametrize("flags, of_the_cut, of_a_step", [
    ("--max-drop 0.02 --int8", 0.02, ["--max-drop", "0.02"]),
    ("--max-drop 0.02 --int8 --percent 0.3", None, ["--percent", "0.3"]),
    ("--max-drop 0.02 --int8 onnx --target-flops 0.5", 0.02, ["--max-drop", "0.02", "--target-flops", "0.5"]),
    ("--max-drop 0.02 --int8=onnx --target-flops 0.5 --tune=--epochs=1", None, ["--target-flops", "0.5"]),
    ("--max-drop 0.02 --target-flops 0.5 --tune=--epochs=1", 0.02, ["--max-drop", "0.02", "--target-flops", "0.5"]),
])
def test_the_limit_looks_for_the_cut_unless_another_flag_says_it(flags, of_the_cut, of_a_step):
    options = options_of(flags.split())
    assert options.aims.max_drop == of_the_cut and options.limit == 0.02
    assert options.in_steps == ("--tune" in flags)
    assert iterative.flags_of_a_step(options, flags.split(), None) == of_a_step
    assert args.INT8_FORMATS[0] == "openvino" and options.int8 in (None, "onnx", "openvino")


@pytest.mark.parametrize("words, error, said", [
    ("--no-eval", PruneError, "--int8: found --no-eval beside it"),
    ("--no-eval --steps 2", PruneError, "--int8: found --no-eval beside it"),
    ("", CfgError, "found no 'train' entry"),
    ("--steps 2", CfgError, "found no 'train' entry"),
])
def test_without_what_it_takes_nothing_is_written(job_of, tiny_data, tmp_path, monkeypatch, words, error, said):
    job_of()  # writes net.pth
    if "--no-eval" not in words:
        tiny_data.write_text("\n".join(line for line in tiny_data.read_text().splitlines() if "train" not in line))
    with pytest.raises(error, match=said):
        prune(monkeypatch, tmp_path, tiny_data, "--int8", *words.split())
    assert not (tmp_path / "out").exists()


def prune(monkeypatch, tmp_path, tiny_data, *flags):
    """main() of test_prune.py on the net of `job_of`, into `out`."""
    words = ["--cfg", tmp_path / "tiny-hand.cfg", "--weights", tmp_path / "net.pth", "--data", tiny_data, "--n_cpu", 0,
             "--device", "cpu", "--out", tmp_path / "out", *flags]
    monkeypatch.setattr(sys, "argv", ["test_prune.py", *map(str, words)])
    test_prune.main()


def test_a_pruning_in_8_bits_is_written_beside_its_pair_and_stands_in_the_table(
    job_of, tiny_data, tmp_path, monkeypatch, capsys
):
    need_openvino()
    job = job_of()
    monkeypatch.setattr("utils.deploy.quantisation.is_slower", lambda seconds: False)
    prune(monkeypatch, tmp_path, tiny_data, "--percent", 0.3, "--max-drop", 1, "--int8", "--repeats", 2)
    pair = tmp_path / "out" / "tiny-pruned.cfg"
    path = int8_path(pair.with_suffix(".weights"), "openvino")
    net = load_net(pair, pair.with_suffix(".weights"), Darknet)
    assert [file.path for file in int8_files(net.model, net.size, [tmp_path / "out"])] == [path], "--backend auto's"
    file = open_exported(path)
    assert file.metadata.precision == "int8" and file.metadata.names == ("class0",)
    report = json.loads(path.with_name("tiny-pruned-report.json").read_text())
    dense, slim, small = report["int8"]["columns"]
    assert [dense["parameters"], slim["parameters"]] == [parameters(job.dense), total_cost(net.model.module_defs, 64,
                                                                                          64).parameters]
    assert small["bytes"] == file.bytes() and slim["bytes"] < dense["bytes"] and small["macs"] == slim["macs"]
    assert small["runtime"] == "openvino" and all(column["seconds"] > 0 for column in (dense, slim, small))
    assert slim["map50"] == pytest.approx(report["after"]["map50"], abs=0.01)
    said = path.with_name("tiny-pruned-int8-table.md").read_text()
    assert "dense float32" in said and f"{small['bytes']:,}" in said and "lost, of 1" in said
    assert not [left for left in (tmp_path / "out").iterdir() if left.name.startswith(".")]


def test_a_refused_file_leaves_no_pair_behind(job_of, tiny_data, tmp_path, monkeypatch):
    job_of()

    def refuse(*_):
        raise LosesTooMuch("int8 loses", (score(0.9), score(0.5)))

    monkeypatch.setattr(budget, "quantised", refuse)
    with pytest.raises(PruneError, match="cut less"):
        prune(monkeypatch, tmp_path, tiny_data, "--percent", 0.3, "--int8", "--repeats", 0)
    assert not (tmp_path / "out").exists()


def test_the_table_has_the_three_nets_side_by_side_each_in_its_fastest_runtime():
    column = Column("dense float32", 0.9, 0.5, 1000, 2_000_000, 4000, "torch", 0.002)
    small = replace(column, name="pruned int8", map50=0.893, bytes=700, runtime="openvino", seconds=0.001)
    rows = {row[0].strip(): row[1:] for row in table((column, small, small), 0.01)}
    assert rows["lost, of 0.01"] == ["", "0.0070", "0.0070"] and rows["bytes of the file"][::2] == ["4,000", "700"]
    assert rows["ms per image, fastest runtime"][0] == "2.00 (torch)"
    assert "ms per image, fastest runtime" not in {row[0] for row in table((replace(column, seconds=None),) * 3, None)}


def test_each_way_to_run_a_net_is_timed_beside_the_first_and_counts_by_its_share(monkeypatch):
    measured = {("a", "a"): (2.0, 2.0), ("a", "b"): (4.0, 2.0), ("a", "c"): (1.0, 0.25)}  # the machine's pace drifts
    monkeypatch.setattr(int8, "alternate_seconds", lambda runs, image, count: measured[tuple(runs)])
    ways = [[("one", "a"), ("two", "b")], [("one", "c")]]
    assert fastest_of(ways, torch.zeros(1), 5) == [("two", 1.0), ("one", 0.5)]
    assert fastest_of(ways, torch.zeros(1), 0) == [("one", None), ("one", None)]
