"""Pruning in steps."""

import re
from pathlib import Path

import pytest

from conftest import options_of, trained, without_labels
from models import Darknet
from utils import cli
from utils.checkpoint import save_checkpoint, weights_content
from utils.data.datasets import DataError
from utils.pruning import iterative, road, stages
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.job import PruneError
from utils.shapes import total_cost


@pytest.mark.parametrize("part", ["train", "valid"])
def test_steps_stop_before_the_first_one_without_labels(tiny_cfg, tiny_data, tmp_path, part):
    place = without_labels(tiny_data, part)
    with pytest.raises(DataError, match=re.escape(str(place))):
        iterative.run_steps(
            options_of(["--cfg", tiny_cfg, "--data", tiny_data, "--steps", 2, "--out", tmp_path / "out"]), [], Darknet
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", [iterative.run_steps, road.run_road])
def test_a_target_that_no_cut_reaches_is_known_before_anything_is_trained(tiny_cfg, tiny_data, tmp_path, run):
    save_checkpoint(tmp_path / "net.pth", weights_content(trained(tiny_cfg).float(), str(tiny_cfg), "test"))
    words = ["--cfg", tiny_cfg, "--weights", tmp_path / "net.pth", "--data", tiny_data, "--steps", 3, "--target-flops",
             "1K", "--n_cpu", 0, "--out", tmp_path / "out"]
    words += ["--road", "--quantise", "none"] if run is road.run_road else []
    with pytest.raises(PruneError, match="no cut gets there; the strongest leaves"):
        run(options_of(words), [], Darknet)
    assert not (tmp_path / "out").exists()


def test_steps_share_what_holds_for_all_of_them_and_know_another_command(tmp_path):
    words = "--steps 3 --percent 0.488 --layer-keep 0.125 --layers 2 --img_size 64 --skip-bad --device cpu".split()
    options = prune_options(parse_prune_args("", words))
    assert iterative.step_shares(options, None) == ["--layer-keep", "0.500000", "--percent", "0.200000"]
    of_all = iterative.OF_THE_WHOLE + iterative.SHARED_OUT
    assert stages.without(words, of_all) == "--img_size 64 --skip-bad --device cpu".split()
    of_a_step = iterative.step_shares(options, None) + stages.without(words, of_all)
    assert iterative.flags_of_a_step(options, words, None) == of_a_step
    alone = prune_options(parse_prune_args("", ["--target-latency", "9ms"]))
    as_typed = ["--target-latency", "9ms"]
    assert iterative.flags_of_a_step(alone, as_typed, None) == as_typed
    assert "--img_size 64 --device cpu --skip-bad" in " ".join(map(str, stages.training_flags(options)))
    assert stages.run_name(Path("a/cut")) != stages.run_name(Path("b/cut"))
    stages.remember(tmp_path / "x" / "steps.json", {"tune": "--epochs 1"})
    stages.remember(tmp_path / "x" / "steps.json", {"tune": "--epochs 1"})
    with pytest.raises(ValueError, match="epochs 1.*epochs 2.*another --out"):
        stages.remember(tmp_path / "x" / "steps.json", {"tune": "--epochs 2"})
    (tmp_path / "w.pth").write_bytes(b"one")
    before = stages.sha256(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"two")  # other weights under the same name are another start
    assert stages.sha256(tmp_path / "w.pth") != before
    with pytest.raises(SystemExit):  # a shortened flag would escape `without`
        parse_prune_args("", ["--step", "3"])


def test_a_count_is_shared_among_steps_by_the_size_that_the_weights_were_trained_at(tiny_cfg, tiny_data, tmp_path):
    content = weights_content(trained(tiny_cfg).float(), str(tiny_cfg), "test", size=(96, 96))
    save_checkpoint(tmp_path / "net.pth", content)
    cost = total_cost(Darknet(tiny_cfg).module_defs, 96, 96)  # the cfg says 64 x 64
    options = iterative.checked(options_of([
        "--cfg", tiny_cfg, "--weights", tmp_path / "net.pth", "--data", tiny_data, "--steps", 2, "--target-flops",
        round(2 * 0.64 * cost.macs)]))
    size = iterative.reachable_from(options, Darknet)
    flag, share = iterative.step_shares(options, size)
    assert size == cost and flag == "--target-flops" and float(share) == pytest.approx(0.8, rel=1e-3)
    assert ["--img_size", 96] == stages.training_flags(options)[8:10]  # the sparse training of --road as well


@pytest.mark.parametrize("out", ["runs/.hidden", "a:b/c", "x/" + 40 * "long/" + "end", "C:\\nets\\slim", "../up"])
def test_whatever_out_is_called_its_runs_have_names_that_train_py_takes(out):
    assert cli.run_name(f"{stages.run_name(Path(out))}-step12")
    assert stages.run_name(Path(out)) != stages.run_name(Path(out) / "other")


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_folder_without_a_name_of_its_own_gives_runs_a_name(out, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.run_name(f"{stages.run_name(Path(out))}-step1")[0].isalnum()
