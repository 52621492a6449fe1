"""What a pruning leaves behind, and what it replaces."""

from dataclasses import replace
from pathlib import Path

import pytest

from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.compare import Latency
from utils.pruning import report
from utils.pruning.compact import compact_and_verify
from utils.pruning.plan import plan_cut
from utils.pruning.report import warn_about_speed
from utils.shapes import LayerCost


def cut_into(job, out):
    job = replace(job, options=replace(job.options, out=out))
    plan = plan_cut(job)
    compact = compact_and_verify(job, plan)
    report.report(job, plan, compact, None, None, None)
    return job.names


def test_a_pruning_that_replaces_another_names_it_and_keeps_it_and_the_same_one_again_replaces_nothing(
    job_of, tmp_path, capsys
):
    flags = "--no-eval --repeats 0 --percent"
    names = cut_into(job_of(f"{flags} 0.3"), tmp_path / "out")
    first = {
        path: path.read_bytes() for path in (names.cfg, names.checkpoint, names.darknet_cfg, names.darknet_weights)
    }
    capsys.readouterr()
    cut_into(job_of(f"{flags} 0.3"), tmp_path / "out")
    assert ": replaces" not in capsys.readouterr().out and not list((tmp_path / "out").rglob("*-before*"))
    cut_into(job_of(f"{flags} 0.6"), tmp_path / "out")
    out = capsys.readouterr().out
    assert (
        f"{names.weights}: replaces that of run test_prune of {tmp_path / 'net.pth'} (cfg {names.cfg}, data "
        f"{tmp_path / 'tiny.data'}), which is kept"
        in out
    )
    for path, content in first.items():
        kept = path.with_name(f"{path.stem}-before{path.suffix}")
        assert kept.read_bytes() == content and str(kept) in out and path.read_bytes() != content


def test_a_tuned_pruning_that_is_replaced_keeps_its_start_and_says_where_the_tuned_net_is(
    job_of, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = "--no-eval --repeats 0 --percent 0.3"
    names = cut_into(job_of(flags), tmp_path / "out")
    start = names.checkpoint.read_bytes()
    content = read_checkpoint(names.checkpoint)
    tuned = {
        **content,
        "run": "tune",
        "data": "d.data",
        "model": {key: value + 1 for key, value in content["model"].items()},
    }
    names.checkpoint.with_name(f"{names.checkpoint.stem}-init.pth").write_bytes(start)
    for path in (names.checkpoint, names.weights, Path("logs/tune/best.pth")):
        save_checkpoint(path, tuned)
    capsys.readouterr()
    cut_into(job_of(flags), tmp_path / "out")
    assert (
        f"{names.checkpoint}: replaces that of run tune (cfg {names.cfg}, data d.data), which is in logs/tune/best.pth"
        in capsys.readouterr().out
    )
    assert names.checkpoint.with_name(f"{names.checkpoint.stem}-init-before.pth").read_bytes() == start


@pytest.mark.parametrize("dense, compact, words", [
    ((10, 9.9, 10.1), (5, 4.9, 5.1), "thin layers"),
    ((10, 5, 60), (30, 5, 60), "vary too much"),  # a busy machine
    ((10, 9.9, 10.1), (2, 1.9, 2.1), ""),
])
def test_why_a_net_is_no_faster_is_said_where_its_times_tell(dense, compact, words, capsys):
    costs = LayerCost(0, 400), LayerCost(0, 100)
    warn_about_speed(costs, [Latency(*times, "made up") for times in (dense, compact)])
    printed = capsys.readouterr().out
    assert words in printed and bool(words) == bool(printed)
