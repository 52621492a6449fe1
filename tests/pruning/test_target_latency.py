"""--target-latency from the command line to the compact net, on a made-up clock: nothing here is timed."""

import importlib.util
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import ROOT, conv_law, fake_score, trained
from utils.checkpoint import save_checkpoint, weights_content
from utils.cli import Target
from utils.deploy import onnx_runtimes
from utils.deploy.layer_time import LayerClock, conv_specs, convolution_seconds
from utils.pruning import job as job_module
from utils.pruning import latency_search
from utils.pruning import plan as plan_module
from utils.pruning import report
from utils.pruning.blocks import residual_blocks
from utils.pruning.compact import compact_and_verify
from utils.pruning.latency_choices import Solution
from utils.pruning.latency_search import LatencySearch, OutOfReach
from utils.pruning.pace import Pace
from utils.pruning.plan import plan_cut, remove_layers, warn_before
from utils.shapes import total_cost


def slim_of(job):
    """(job without its slow blocks, plan, verified compact net)."""
    job = remove_layers(job)
    plan = plan_cut(job)
    return job, plan, compact_and_verify(job, plan)


@pytest.mark.parametrize("flag", ["0.5", "1.2ms"])
@pytest.mark.parametrize("score", ["gamma", "taylor", "random"])
def test_the_compact_net_takes_at_most_what_was_asked_for_and_what_was_predicted(job_of, clock, flag, score):
    whole = clock(conv_law())
    job, plan, compact = slim_of(job_of(f"--target-latency {flag} --score {score}"))
    dense, slim = whole(job.dense, job.size), whole(compact.model, job.size)
    most = 1.2e-3 if flag.endswith("ms") else 0.5 * dense
    assert 0.8 * most < slim <= most * (1 + 1e-9)
    assert plan.predicted * dense == pytest.approx(slim, rel=0.1)


def test_every_net_that_is_measured_corrects_what_is_expected_of_the_next():
    pace = Pace(None, None, Target(0.5, True), 1, [(1.0, 1.0), (0.2, 0.4)])
    assert pace.share(0.6) == pytest.approx(0.7) and pace.budget(pace.share(0.37)) == pytest.approx(0.37)
    pace.points.append((0.5, 0.52))
    assert pace.share(0.5) == pytest.approx(0.52) and 0.4 < pace.budget(0.5) < 0.5
    pace.points.append((0.3, 0.6))  # noise: smaller, and slower
    shares = [pace.share(seconds / 100) for seconds in range(20, 101)]
    assert shares == sorted(shares) and pace.floor == 0.4


@pytest.mark.parametrize("narrowest", [0.4, 0.6])
def test_where_no_net_tried_keeps_to_the_time_the_narrowest_is_measured_as_well(monkeypatch, narrowest):
    made = lambda width: Solution(None, torch.arange(9) < width, np.array([width / 9]), width)
    monkeypatch.setattr(latency_search, "choose", lambda offer, budget, staying: made(max(1, int(9 * budget))))
    pace = Pace(None, None, Target(0.5, True), 1, [(1.0, 1.0), (0.1, 0.2)], dense=[1.0])
    measured = []

    def slow(width, seconds):  # every net takes longer than its tables say
        measured.append(width)
        pace.points.append((seconds, 0.55 if width > 1 else narrowest))
        return pace.points[-1][1]
    monkeypatch.setattr(pace, "measure", slow)
    search = LatencySearch(pace, None, None, lambda keep: int(keep.sum()))
    if narrowest > 0.5:
        with pytest.raises(OutOfReach, match="measured to take 0.500 .*; the narrowest net takes 0.600"):
            search.meet()
    else:
        assert search.meet()[0].importance == 1
    assert measured[-1] == 1 and len(measured) > 1


def test_widths_fill_the_blocks_that_the_runtime_computes_in_carriers_included(job_of, clock):
    clock(conv_law(unit=4))
    job, plan, compact = slim_of(job_of("--target-latency 0.6"))
    widths = {i: len(kept) for i, kept in compact.surgery.kept.items()}
    narrower = {i: width for i, width in widths.items() if width < len(job.graph.outputs[i])}
    assert narrower and compact.surgery.carriers and all(width % 4 == 0 for width in narrower.values())


def test_a_residual_block_goes_as_a_whole_where_its_overhead_outweighs_it(job_of, clock):
    clock(conv_law(overhead=1e-3))
    job, _, compact = slim_of(job_of("--target-latency 0.85"))
    assert len(job.blocks) == 1 and not residual_blocks(compact.model.module_defs)
    clock(conv_law(overhead=0.0))
    job, _, compact = slim_of(job_of("--target-latency 0.9"))
    assert not job.blocks and residual_blocks(compact.model.module_defs)


def test_blocks_may_go_by_their_score_and_by_their_time(job_of, clock, tmp_path):
    cfg = ROOT / "config" / "yolov3-hand-w25.cfg"
    save_checkpoint(tmp_path / "deep.pth", weights_content(trained(cfg, zero_share=0.0).float(), str(cfg), "test"))
    clock(conv_law(overhead=1e-3))
    flags = f"--cfg {cfg} --weights {tmp_path / 'deep.pth'} --img_size 64 --target-latency 0.7 --layers 1"
    job, _, compact = slim_of(job_of(flags))
    assert 1 < len(job.blocks) == len({block.shortcut for block in job.blocks})
    assert len(residual_blocks(compact.model.module_defs)) == 23 - len(job.blocks)


def test_a_time_that_no_cut_takes_is_an_error_that_names_the_floor_and_what_it_is_made_of(job_of, clock):
    clock(conv_law(overhead=1e-3))
    with pytest.raises(job_module.PruneError) as error:
        remove_layers(job_of("--target-latency 0.3 --layer-keep 0.5"))
    floor = float(re.search(r"narrowest net, without its residual blocks, takes (0\.[0-9]+) of", str(error.value))[1])
    assert 0.3 < floor < 1 and "most of it in layer 13 1.2" in str(error.value)
    assert "lower --layer-keep" in str(error.value) and "--layers" not in str(error.value)
    remove_layers(job_of(f"--target-latency {floor + 0.01:.2f} --layer-keep 0.5"))


def test_layer_keep_and_divisor_hold_in_a_cut_by_time(job_of, clock):
    clock(conv_law())
    job, plan, compact = slim_of(job_of("--target-latency 0.6 --layer-keep 0.4 --divisor 4"))
    assert plan.share > 0
    for i in job.graph.prunable:
        assert plan.masks[i].sum() >= 0.4 * len(plan.masks[i]) and len(compact.surgery.kept[i]) % 4 == 0


def test_a_time_and_a_size_are_both_met_and_a_gamma_of_0_always_goes(job_of, clock):
    whole = clock(conv_law())
    job = job_of("--target-latency 0.6 --target-params 0.3")
    dead = job.graph.prunable[0]
    job.model.module_list[dead][1].weight.data[0] = 0
    job, plan, compact = slim_of(job)
    cost, dense = total_cost(compact.model.module_defs, *job.size), total_cost(job.dense.module_defs, *job.size)
    assert cost.parameters <= 0.3 * dense.parameters and not plan.masks[dead][0]
    assert whole(compact.model, job.size) <= 0.6 * whole(job.dense, job.size)


def test_max_drop_beside_a_time_finds_a_faster_net_that_keeps_its_map(job_of, clock, monkeypatch):
    whole = clock(conv_law())
    job = remove_layers(job_of("--target-latency 0.9 --max-drop 0.05"))
    count = sum(p.numel() for p in job.dense.parameters())
    fake_score(monkeypatch, lambda parameters: 0.1 * (1 - parameters / count))
    left = plan_module.cost_of(job, plan_cut(job).cut).parameters
    assert 0.5 * count <= left < 0.75 * count
    assert whole(job_module.compact_of(job, plan_cut(job).cut)[0], job.size) < 0.8 * whole(job.dense, job.size)


def test_what_was_predicted_stands_beside_what_was_measured(job_of, clock, capsys):
    clock(conv_law())
    job, plan, _ = slim_of(job_of("--target-latency 0.5 --latency-backend torch"))
    warn_before(job, plan)
    out = capsys.readouterr().out
    assert "probe: expected" in out and "this search: most importance of score gamma, cuts" in out
    times = [SimpleNamespace(median=seconds) for seconds in (0.02, 0.0101)]
    plan.predicted = 0.5
    assert report.prediction_words(job, plan, times) == "torch: predicted 10.00 ms, measured 10.10 ms (+1.0 %)\n"


def test_a_runtime_that_is_not_installed_names_the_pip_command(job_of, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else found(name))
    with pytest.raises(ValueError, match="^--latency-backend openvino needs .*: pip install openvino$"):
        job_of("--target-latency 0.5 --latency-backend openvino")
    assert job_of("--target-latency 0.5").watch.runtime == "onnxruntime" and job_of().watch.runtime == "torch"


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_a_runtime_times_convolutions_and_whole_nets(job_of, runtime):
    if onnx_runtimes.missing_packages(runtime):
        pytest.skip(f"{runtime} is not installed")
    job = job_of(f"--latency-backend {runtime}")
    spec = next(iter(conv_specs(job.dense.module_defs, job.size).values()))
    assert 0 <= convolution_seconds(spec, runtime, torch.device("cpu")) < math.inf
    assert all(latency.median > 0 for latency in job.watch.beside(job.dense, 2))


def test_a_gpu_may_train_for_a_runtime_on_the_cpu_and_is_timed_itself_in_torch(job_of, monkeypatch):
    gpu, options = torch.device("cuda"), lambda words: job_of(words).options
    assert job_module.runtime_of(options("--target-latency 0.5 --latency-backend onnxruntime"), gpu) == "onnxruntime"
    assert job_module.runtime_of(options("--target-latency 0.5"), gpu) == "torch"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    paths = {(runtime, device): LayerClock.of(runtime, torch.device(device)).path.name
             for runtime in ("torch", "onnxruntime") for device in ("cpu", "cuda")}
    assert paths["torch", "cuda"].startswith("A-GPU-torch") and paths["torch", "cpu"] != paths["torch", "cuda"]
    assert paths["onnxruntime", "cpu"] == paths["onnxruntime", "cuda"]
