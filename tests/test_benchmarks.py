"""The mechanism of `python -m benchmarks` on stand-ins that take no time: who runs when, what is reported of whom,
whose modules are found."""

import json
import subprocess
import sys

import pytest

from benchmarks import contest, items, output
from benchmarks.contest import Contestant, Item, Outcome, Settings
from conftest import ROOT
from utils.compare import quartiles

STAND_INS = '''
import os, pathlib

def timer(seconds, log=None, name=""):
    values = iter(seconds)
    def run():
        if log:
            with open(log, "a") as file:
                file.write(name)
        return next(values)
    return run, {"threads": os.environ["OMP_NUM_THREADS"], "folder": str(pathlib.Path.cwd())}

def real():
    return lambda: None

def broken():
    raise FileNotFoundError("no such\\n net")

def breaks(after):
    rounds = iter(range(after))
    def run():
        next(rounds)
        return 1.0
    return run

def dies():
    os._exit(3)

def talks():
    print("to the screen")
    return lambda: print("again") or 1.0

def whose():
    import models, utils.utils
    return (lambda: 1.0), {"model": models.NAME, "utils": utils.utils.NAME}
'''


@pytest.fixture
def stand_ins(tmp_path):
    path = tmp_path / "stand_ins.py"
    path.write_text(STAND_INS)
    return path


def run(tmp_path, contestants, repeats=3, warmup=0, **options):
    """Outcomes of an item; with its own repeats, so that limits count."""
    item = Item("stand-ins", "Stand-ins", contestants, repeats=repeats, warmup=warmup, **options)
    return contest.run_item(item, Settings(threads=1, settle=0), tmp_path), item


def timers(stand_ins, **seconds):
    """A contestant a keyword, its times given."""
    log = stand_ins.with_name("log")
    return [
        Contestant(name, stand_ins, "timer", {"seconds": own, "log": str(log), "name": name})
        for name, own in seconds.items()
    ]


def test_contestants_take_turns(tmp_path, stand_ins):
    outcomes, _ = run(tmp_path, timers(stand_ins, A=[1] * 5, B=[1] * 5, C=[1] * 5), repeats=3, warmup=2)
    assert (tmp_path / "log").read_text() == "ABC" * 5
    assert [len(outcome.seconds) for outcome in outcomes] == [3, 3, 3], "warm-up does not count"


def test_each_has_a_process_with_the_threads_asked_for(tmp_path, stand_ins):
    outcomes, _ = run(tmp_path, timers(stand_ins, A=[1], B=[1]), repeats=1)
    assert [outcome.facts["threads"] for outcome in outcomes] == ["1", "1"]
    assert outcomes[0].facts["folder"] != outcomes[1].facts["folder"], "files of one do not meet those of another"


def test_time_is_measured_where_a_contestant_does_not_measure_itself(tmp_path, stand_ins):
    outcomes, _ = run(tmp_path, [Contestant("real", stand_ins, "real")])
    assert len(outcomes[0].seconds) == 3 and all(value > 0 for value in outcomes[0].seconds.values())
    assert outcomes[0].peak_mb > 1 and outcomes[0].setup_s > 0


def test_a_contestant_that_fails_is_reported_and_the_others_go_on(tmp_path, stand_ins):
    good = timers(stand_ins, A=[1] * 3)[0]
    bad = [
        Contestant("broken", stand_ins, "broken"),
        Contestant("dies", stand_ins, "dies"),
        Contestant("breaks", stand_ins, "breaks", {"after": 1}),
        Contestant("no function", stand_ins, "nothing"),
        Contestant("missing", stand_ins, "real", needs=("no_such_package",)),
    ]
    outcomes, item = run(tmp_path, [*bad, good])
    errors = [outcome.error for outcome in outcomes]
    assert errors[0] == "FileNotFoundError: no such net"
    assert errors[1].startswith("its process ended with status 3")
    assert errors[2].startswith("StopIteration") and len(outcomes[2].seconds) == 1
    assert errors[3].startswith("AttributeError")
    assert errors[4] == "not installed: pip install no_such_package"
    assert outcomes[5].error == "" and len(outcomes[5].seconds) == 3
    text = output.screen(contest.item_summary(item, outcomes))
    assert "not installed: pip install no_such_package" in text and "no such net" in text


def test_what_a_contestant_prints_does_not_disturb(tmp_path, stand_ins):
    outcomes, _ = run(tmp_path, [Contestant("talks", stand_ins, "talks")])
    assert list(outcomes[0].seconds.values()) == [1.0] * 3


def test_slow_contestants_drop_out_of_later_rounds(tmp_path, stand_ins):
    outcomes, _ = run(tmp_path, timers(stand_ins, A=[1] * 6, B=[9] * 6), repeats=6, limit_s=10)
    assert [len(outcome.seconds) for outcome in outcomes] == [6, 2]


def test_named_repeats_are_kept_by_all(tmp_path, stand_ins):
    item = Item("stand-ins", "", timers(stand_ins, A=[1] * 6, B=[9] * 6), repeats=2, limit_s=1)
    outcomes = contest.run_item(item, Settings(threads=1, repeats=5, warmup=1, settle=0), tmp_path)
    assert [len(outcome.seconds) for outcome in outcomes] == [5, 5]


def outcome_of(name, seconds):
    return Outcome(Contestant(name, "", "", work=6), dict(seconds))


def test_ratios_are_paired_within_rounds():
    """The machine slowed down tenfold in round 1: the medians' ratio would be 20, each round's is 2."""
    baseline = outcome_of("base", {0: 1.0, 1: 10.0, 2: 1.0})
    other = outcome_of("other", {1: 20.0, 2: 2.0})
    assert contest.paired_ratios(other, baseline) == [2.0, 2.0]
    row = contest.summary(other, baseline, "images")
    assert (row["ratio_low"], row["ratio"], row["ratio_high"]) == (2.0, 2.0, 2.0)
    assert row["median_s"] == 11.0 and row["images_per_s"] == 6 / 11 and row["n"] == 2


def test_quartiles_interpolate():
    assert quartiles([4.0]) == (4.0, 4.0, 4.0)
    assert quartiles([3.0, 1.0, 2.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_no_ratio_without_a_baseline():
    row = contest.summary(outcome_of("other", {0: 1.0}), outcome_of("base", {}))
    assert "ratio" not in row and row["median_s"] == 1.0


def test_speed_up_is_compared_with_the_flops():
    lines = items.forward_remarks(
        [outcome_of("dense, torch", {0: 8.0}), outcome_of("pruned, torch", {0: 4.0}), outcome_of("dense, other", {})],
        4.0,
    )
    assert any("torch: 2.00x faster, 50% of the FLOPs' reduction" in line for line in lines)
    assert not any("other" in line for line in lines)


def test_growth_is_an_exponent():
    assert "exponent 2.00, x4.00 a doubling" in items.growth_words("boxes", 1, 1.0, 4, 16.0)
    assert "exponent 0.50" in items.growth_words("boxes", 1, 1.0, 4, 2.0)


@pytest.mark.parametrize(
    "seconds, text", [(12.34, "12.3 s"), (1.5, "1.50 s"), (0.1234, "123 ms"), (0.00456, "4.56 ms"), (3.4e-5, "34.0 us")]
)
def test_durations_have_three_digits(seconds, text):
    assert output.duration(seconds) == text


def test_files_hold_the_numbers_and_the_conditions(tmp_path, stand_ins):
    outcomes, item = run(
        tmp_path, [*timers(stand_ins, A=[1, 2, 3], B=[2, 2, 2]), Contestant("broken", stand_ins, "broken")]
    )
    results = {
        "environment": output.conditions(1, ["--only", "stand ins"]),
        "items": [contest.item_summary(item, outcomes)],
    }
    output.write_results(results, tmp_path / "out", tmp_path / "other.json")
    stored = json.loads((tmp_path / "other.json").read_text())
    assert stored == json.loads((tmp_path / "out" / "results.json").read_text())
    assert (
        stored["environment"]["command"] == "python -m benchmarks --only 'stand ins'"
        and stored["environment"]["threads"] == 1
    )
    assert {"processor", "cores", "torch", "onnxruntime", "date"} <= stored["environment"].keys()
    first, second, third = stored["items"][0]["contestants"]
    assert first["seconds"] == [1, 2, 3] and first["median_s"] == 2 and first["low_s"] == 1.5
    assert second["ratio"] == 1.0 and stored["items"][0]["baseline"] == "A"
    assert third["error"] and third["n"] == 0 and "median_s" not in third
    assert (tmp_path / "out" / "stand-ins.png").stat().st_size > 1000
    assert "| B " in (tmp_path / "out" / "table.md").read_text()
    assert not list(tmp_path.glob("out/*.tmp"))


def test_a_peer_gets_its_own_modules(tmp_path, stand_ins):
    peer = tmp_path / "peer"
    (peer / "utils").mkdir(parents=True)
    (peer / "models.py").write_text("NAME = 'peer models'\n")
    (peer / "utils" / "utils.py").write_text("NAME = 'peer utils'\n")  # without __init__.py, as some have it
    outcomes, _ = run(
        tmp_path, [Contestant("peer", stand_ins, "whose", root=peer), Contestant("ours", stand_ins, "whose")]
    )
    assert outcomes[0].error == "" and outcomes[0].facts == {"model": "peer models", "utils": "peer utils"}
    assert "utils.utils" in outcomes[1].error, "ours has no such module"


PEER_MODELS = '''
import torch
from torch import nn

class Darknet(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def load_darknet_weights(self, path):
        pass

    def forward(self, images, targets=None):
        out = self.scale * images.mean() * torch.ones(len(images), 4, 6)
        return out if targets is None else (out.sum(), out)
'''
PEER_UTILS = '''
def non_max_suppression(prediction, conf_thres, nms_thres):
    return [rows[rows[:, 4] > 0.5] for rows in prediction[:1]] + [None]
'''


def test_the_contestants_of_a_peer_fit_the_classic_interface(tmp_path):
    import numpy as np

    peer = tmp_path / "peer"
    (peer / "utils").mkdir(parents=True)
    (peer / "models.py").write_text(PEER_MODELS)
    (peer / "utils" / "utils.py").write_text(PEER_UTILS)
    np.save(tmp_path / "ones.npy", np.ones((2, 3, 8, 8), np.float32))
    np.save(tmp_path / "out.npy", np.ones((2, 4, 6), np.float32))
    np.savez(tmp_path / "batches.npz", images0=np.ones((2, 3, 8, 8), np.uint8), targets0=np.zeros((1, 6), np.float32))
    options = {"cfg": "", "weights": "", "images": str(tmp_path / "ones.npy"), "expected": str(tmp_path / "out.npy")}
    ways = [
        Contestant("forward", "run_peer.py", "forward", options, root=peer),
        Contestant("nms", "run_peer.py", "nms", {"predictions": options["expected"]}, root=peer),
        Contestant(
            "training",
            "run_peer.py",
            "training",
            {"cfg": "", "batches": str(tmp_path / "batches.npz"), "steps": 1},
            root=peer,
        ),
    ]
    outcomes, _ = run(tmp_path, ways, repeats=1)
    assert [outcome.error for outcome in outcomes] == ["", "", ""]
    assert outcomes[0].facts == {"off_by": 0.0} and outcomes[1].facts == {"boxes left": 4}


@pytest.mark.parametrize("words, expected", [(["--only", "forwards"], "forward, nms, ap, loading, step, "
                                                                      "processes, prune, startup, growth"),
                                             (["--peer", "nowhere"], "expected a folder with models.py"),
                                             (["--dense", "a", "b"], "belong together")])
def test_wrong_words_are_one_line_and_exit_2(tmp_path, words, expected):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


def test_items_keep_their_order():
    from benchmarks.__main__ import chosen

    assert chosen(["nms", "forward"], list(items.ITEMS)) == ["forward", "nms"]
    assert chosen(None, list(items.ITEMS)) == list(items.ITEMS)


def test_training_by_several_processes_takes_part(tmp_path, tiny_cfg, tiny_data):
    options = {"cfg": str(tiny_cfg), "data": str(tiny_data), "size": 64, "batch": 4, "steps": 2, "threads": 1}
    ways = [Contestant(f"{count}", "run_processes.py", "shared_training", options | {"count": count, "loader": loader})
            for count, loader in ((1, False), (2, True))]
    outcomes, _ = run(tmp_path, ways, repeats=1)
    assert [(outcome.error, outcome.facts["processes"]) for outcome in outcomes] == [("", 1), ("", 2)]
