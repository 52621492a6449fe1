"""test_prune.py's flags reach the cut: each is compared with what it is defined as, or with the cut that it must
change."""

import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.tradeoff import TorchPruning
from conftest import ROOT, trained, without_labels
from models import Darknet
from utils.batch_norm import gammas_by_layer
from utils.checkpoint import read_checkpoint, save_checkpoint, weights_content
from utils.compare import probe_image
from utils.data.datasets import DataError
from utils.pruning import analysis, iterative, report
from utils.pruning import job as job_module
from utils.pruning import plan as plan_module
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.compact import compact_and_verify, masked_model, prune_and_eval, recalibrate_and_eval
from utils.pruning.importance import SCORES, group_scores, taylor
from utils.pruning.plan import Ranking, plan_cut, score_groups, share_of, warn_before
from utils.shapes import total_cost


@pytest.fixture
def job_of(tiny_cfg, tiny_data, tmp_path):
    """flags -> Job of a small net whose gammas are all different."""
    model = trained(tiny_cfg, zero_share=0.0).float()
    save_checkpoint(tmp_path / "net.pth", weights_content(model, str(tiny_cfg), "test"))

    def make(flags=""):
        words = ["--cfg", tiny_cfg, "--weights", tmp_path / "net.pth", "--data", tiny_data, "--n_cpu", 0]
        return job_module.load(options_of([*words, *flags.split()]), Darknet)
    return make


def options_of(words):
    """What a command line of test_prune.py asks for."""
    return prune_options(parse_prune_args("", list(map(str, words))))


def kept(job):
    """layer -> channels kept by the plan."""
    plan = plan_cut(job)
    return {i: int(plan.masks[i].sum()) for i in job.graph.prunable}


@pytest.mark.parametrize("kind", [kind for kind in SCORES if kind != "taylor"])
def test_score_is_the_one_that_was_named(job_of, kind):
    job = job_of(f"--score {kind}")
    scores = score_groups(job)
    assert torch.equal(scores, group_scores(kind, job.model, job.graph))
    assert kind == "gamma" or not torch.equal(scores, score_groups(job_of()))


def test_score_taylor_is_of_the_training_loss(job_of):
    job = job_of("--score taylor")
    expected = taylor(job.model, job.graph, job.train_batches(plan_module.TAYLOR_BATCHES), plan_module.batch_loss)
    assert (
        torch.equal(score_groups(job), group_scores("taylor", job.model, job.graph, first_order=expected))
        and (expected > 0).any()
    )


@pytest.mark.parametrize("norm", ["mean", "l2"])
def test_group_norm_reduces_tied_channels(job_of, norm):
    job = job_of(f"--group-norm {norm}")
    assert torch.equal(score_groups(job), group_scores("gamma", job.model, job.graph, norm))
    assert not torch.equal(score_groups(job), score_groups(job_of()))


def test_layer_keep_leaves_its_share_everywhere(job_of):
    plain, held = kept(job_of("--percent 0.8")), kept(job_of("--percent 0.8 --layer-keep 0.5"))
    widths = {i: len(job_of().graph.outputs[i]) for i in plain}
    assert min(plain[i] / widths[i] for i in plain) < 0.5 <= min(held[i] / widths[i] for i in held)


def test_divisor_aligns_every_width_of_the_compact_net(job_of):
    job = job_of("--percent 0.5 --divisor 4")
    surgery = job_module.compact_of(job, plan_cut(job).cut)[1]
    widths = [len(surgery.kept[i]) for i in job.graph.prunable]
    assert all(width % 4 == 0 for width in widths) and sum(widths) < sum(
        len(job.graph.outputs[i]) for i in job.graph.prunable
    )
    plain = job_of("--percent 0.5")
    assert any(len(job_module.compact_of(plain, plan_cut(plain).cut)[1].kept[i]) % 4 for i in plain.graph.prunable)


@pytest.mark.parametrize("percent", [0.5, 0.8])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_layer_keep_holds_beside_divisor_and_its_carriers(job_of, share, percent):
    job = job_of(f"--percent {percent} --layer-keep {share} --divisor 4")
    plan = plan_cut(job)
    kept = job_module.compact_of(job, plan.cut)[1].kept
    for i in job.graph.prunable:  # the channels that do something, carriers apart
        assert plan.masks[i].sum() >= share * len(plan.masks[i]), i
        assert len(kept[i]) % 4 == 0


@pytest.mark.parametrize("score", ["gamma", "gamma-norm", "taylor", "l2", "random"])
def test_layers_takes_a_residual_block_out_by_the_score(job_of, capsys, score):
    whole = job_of()
    less = plan_module.remove_layers(job_of(f"--layers 1 --score {score}"))
    count = lambda job: sum(section["type"] == "shortcut" for section in job.model.module_defs[1:])
    assert count(less) == count(whole) - 1 and len(less.blocks) == 1
    assert f"residual block of layers 2 to 4 goes: score {score} " in capsys.readouterr().out
    with pytest.raises(ValueError, match="at most 1"):
        plan_module.remove_layers(job_of(f"--layers 2 --score {score}"))


def test_what_is_left_alone_is_printed_with_the_reason(job_of, capsys):
    job = job_of("--strategy skip")
    warn_before(job, plan_cut(job))
    out = capsys.readouterr().out
    assert job.graph.reasons and all(
        f"  layer {i} is left alone: {reason}" in out for i, reason in job.graph.reasons.items()
    )


@pytest.mark.parametrize(
    "flag, least",
    [
        ("--target-params 0.6", 0.5),
        ("--target-params 2.4K", 0.2),
        ("--target-flops 0.6", 0.5),
        ("--target-flops 0.002G", 0.4),
    ],
)
def test_size_targets_are_met_by_the_mildest_cut_that_does(job_of, flag, least):
    job = job_of(flag)
    dense, plan = total_cost(job.dense.module_defs, *job.size), plan_cut(job)
    aims, left = job.options.aims, plan_module.cost_of(job, plan.cut)
    aim = aims.target_params or aims.target_flops
    value, whole = (left.parameters, dense.parameters) if aims.target_params else (2 * left.macs, 2 * dense.macs)
    assert least * whole < value <= aim.of(whole) < whole
    milder = max(level for level in Ranking.of(job).scores.unique().tolist() if level < plan.cut.threshold)
    before = plan_module.cost_of(job, plan_module.cut_at(job, Ranking.of(job), milder))
    assert (before.parameters if aims.target_params else 2 * before.macs) > aim.of(whole)


def fake_score(monkeypatch, loss_of):
    """Scores fall by loss_of(parameters left); returns, for each net that was recalibrated, on how many training
    images."""
    calls = []
    original = plan_module.recalibrate

    def spy(model, batches):
        batches = list(batches)
        calls.append(sum(len(images) for images, _ in batches))
        return original(model, batches)

    monkeypatch.setattr(plan_module, "recalibrate", spy)
    for module in (job_module, plan_module):
        monkeypatch.setattr(module, "evaluate", lambda model, *args, **options: SimpleNamespace(
            map50=0.9 - loss_of(sum(p.numel() for p in model.parameters())), map=0.0, precision=0.0, recall=0.0))
    return calls


def test_max_drop_finds_the_strongest_cut_that_keeps_its_map_each_candidate_recalibrated(job_of, monkeypatch):
    job = job_of("--max-drop 0.01")
    dense = sum(p.numel() for p in job.dense.parameters())
    # 0.01 lost at nine tenths of the parameters
    calls = fake_score(monkeypatch, lambda parameters: 0.1 * (1 - parameters / dense))
    plan = plan_cut(job)
    left = plan_module.cost_of(job, plan.cut).parameters
    assert 0.9 * dense <= left < 0.97 * dense
    assert len(calls) >= 3 and set(calls) == {8} and job.options.candidate_batches == 20
    wider = plan_cut(replace(job, options=job_of("--max-drop 0.03").options))
    assert 0.7 * dense <= plan_module.cost_of(job, wider.cut).parameters < left
    assert share_of(Ranking.of(job), wider.cut) > plan.share > 0


@pytest.mark.parametrize("flag", ["0.5", "5ms"])
def test_target_latency_is_met_by_the_mildest_cut_that_does(job_of, monkeypatch, flag):
    """A clock on which the dense net takes 10 ms and a parameter is a parameter."""
    job = job_of(f"--target-latency {flag}")
    count = lambda model: sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(plan_module, "compare_latency", lambda models, size, repeats: [
        SimpleNamespace(median=0.01 * count(model) / count(models[0])) for model in models])
    left = plan_module.cost_of(job, plan_cut(job).cut).parameters
    assert 0.4 * count(job.dense) < left <= 0.5 * count(job.dense)


# ---- what is reported

def test_an_inexact_fold_is_reported_by_layer_and_in_map_whatever_is_recalibrated_after(job_of):
    compacts = []
    for flags in ("", "--recalibrate 1"):
        job = job_of(f"--percent 0.5 --fold bias --repeats 0 {flags}")
        plan = plan_cut(job)
        before, masked = prune_and_eval(job, plan)
        compact = compact_and_verify(job, plan)
        after = recalibrate_and_eval(job, compact)
        compacts.append((compact, compact.folded or after))
    (plain, scored), (renewed, folded) = compacts
    assert plain.by_layer == renewed.by_layer and scored.map50 == folded.map50
    assert report.fold_row("bias", masked, folded)[-1] == f"{folded.map50 - masked.map50:+.4f}"
    images = probe_image(job.model, job.size)
    outputs = []  # of layer 1, the first padded convolution over removed channels
    for net in (masked_model(job, plan), plain.model):
        with torch.no_grad():
            outputs.append(net.module_list[1](net.module_list[0](images)))
    kept = plan.masks[1].nonzero().flatten()
    own = [plain.surgery.kept[1].tolist().index(i) for i in kept.tolist()]
    off = (outputs[0][:, kept] - outputs[1][:, own]).abs().max() / outputs[0].abs().max()
    assert plain.by_layer[0] < 1e-6 < 1e-3 < off and plain.by_layer[1] == pytest.approx(off.item(), rel=1e-3)


def test_a_curve_has_the_cost_time_and_recalibrated_score_of_each_cut(job_of, monkeypatch):
    job, nets = job_of("--curve 3 --repeats 3"), []
    cost_of = lambda model: total_cost(model.module_defs, *job.size)
    calls = fake_score(monkeypatch, lambda parameters: parameters / 1e6)
    monkeypatch.setattr(analysis, "recalibrate", plan_module.recalibrate)
    monkeypatch.setattr(
        analysis,
        "evaluate",
        lambda model, *args, **options: nets.append(model) or SimpleNamespace(map50=len(nets) / 10, map=0.1),
    )
    monkeypatch.setattr(analysis, "latencies_beside", lambda dense, models, size, repeats: (
        0.01, [0.01 * cost_of(model).macs / cost_of(dense).macs for model in models], "made up"))
    points = analysis.tradeoff(job, 3)
    assert len(points) == 4 and calls == [8, 8, 8]
    assert [point.map50 for point in points[1:]] == [0.1, 0.2, 0.3]
    for point, model in zip(points, [job.dense, *nets]):
        cost = cost_of(model)
        assert (point.parameters, point.macs, point.row()["flops"]) == (cost.parameters, cost.macs, 2 * cost.macs)
        assert point.latency == pytest.approx(0.01 * cost.macs / cost_of(job.dense).macs)
    assert [point.share for point in points] == sorted(point.share for point in points) and points[
        -1
    ].parameters < 0.2 * points[0].parameters
    analysis.tradeoff(job_of("--curve 1 --recalibrate 0 --repeats 0"), 1)
    assert calls[3:] == [0]


def test_sensitivity_silences_the_weakest_share_of_each_layer_alone(job_of, monkeypatch):
    job, nets = job_of(), []
    monkeypatch.setattr(
        analysis, "evaluate", lambda model, *args, **options: nets.append(model) or SimpleNamespace(map50=1 / len(nets))
    )
    rows = analysis.sensitivity(job, 4)
    dense, *masked = nets
    assert [row.dense for row in rows] == [1.0] * len(rows) and rows[0].row()["0.5"] == round(1 / 3, 4)
    assert sorted(i for row in rows for i in row.layers) == job.graph.prunable
    gammas, scores, nets = gammas_by_layer(dense), score_groups(job), iter(masked)
    for row in rows:
        for share in analysis.SHARES:
            own = gammas_by_layer(next(nets))
            for i in job.graph.normalised:
                gone = (own[i] == 0) & (gammas[i] != 0)
                expected = min(int(share * row.channels), row.channels - 1) if i in row.layers else 0
                assert gone.sum() == expected
                if expected:
                    group = scores[job.graph.outputs[i]]
                    assert group[gone].max() <= group[~gone].min()


@pytest.mark.parametrize("importance", ["BNScaleImportance", "GroupMagnitudeImportance"])
def test_the_contestant_of_the_tradeoff_cuts_to_the_size_that_was_asked_for(job_of, importance):
    pytest.importorskip("torch_pruning")
    job = job_of()
    dense = total_cost(job.dense.module_defs, *job.size).macs
    before = {key: value.clone() for key, value in job.dense.state_dict().items()}
    contestant = TorchPruning(job, importance)
    for share in (0.6, 0.3):
        defs, state = contestant(share * dense)
        net = Darknet(defs)
        net.load_state_dict(state)  # widths in the cfg are those of the tensors
        cost = total_cost(defs, *job.size)
        assert 0.7 * share * dense < cost.macs <= share * dense and cost.parameters == sum(
            p.numel() for p in net.parameters()
        )
        assert [defs[1 + i]["filters"] for i in (7, 14)] == ["18", "18"]  # heads stay
    assert contestant(1) is None
    assert all(torch.equal(value, before[key]) for key, value in job.dense.state_dict().items())


# ---- a score needs boxes

@pytest.mark.parametrize("flags", ["", "--max-drop 0.01", "--curve 2", "--sensitivity 2", "--target-params 0.5"])
def test_a_pruning_that_scores_stops_without_validation_labels_and_says_where_they_were_looked_for(
    job_of, tiny_data, flags
):
    place = without_labels(tiny_data, "valid")
    with pytest.raises(DataError, match=re.escape(str(place))) as error:
        job_of(flags)
    assert ("--no-eval prunes without a score" in str(error.value)) == (flags in ("", "--target-params 0.5"))


@pytest.mark.parametrize("part", ["train", "valid"])
def test_steps_stop_before_the_first_one_without_labels(tiny_cfg, tiny_data, tmp_path, part):
    place = without_labels(tiny_data, part)
    with pytest.raises(DataError, match=re.escape(str(place))):
        iterative.run_steps(
            options_of(["--cfg", tiny_cfg, "--data", tiny_data, "--steps", 2, "--out", tmp_path / "out"]), []
        )
    assert not (tmp_path / "out").exists()


def test_a_pruning_that_does_not_score_runs_without_labels(job_of, tiny_data):
    without_labels(tiny_data, "valid")
    without_labels(tiny_data, "train")
    job = job_of("--no-eval --percent 0.4 --recalibrate 1")
    plan = plan_cut(job)
    compact = compact_and_verify(job, plan)
    assert recalibrate_and_eval(job, compact) is None
    assert 0 < plan.share < 0.6 and prune_and_eval(job, plan) == (None, None)


def test_taylor_scores_ask_for_training_labels_and_recalibration_does_not(job_of, tiny_data):
    place = without_labels(tiny_data, "train")
    with pytest.raises(DataError, match=re.escape(str(place))):
        score_groups(job_of("--score taylor"))
    assert len(list(job_of().train_batches(1))) == 1


def test_sensitivity_on_images_without_a_box_says_how_many_reach_one(job_of, tiny_data):
    labels = tiny_data.parent / "pictures" / "labels"
    for i in range(3):
        (labels / f"{i}.txt").unlink()
    with pytest.raises(job_module.PruneError, match="the first lies in image 4"):
        job_of("--sensitivity 3")
    assert job_of("--sensitivity 4").loader


def test_max_drop_refuses_a_net_that_has_nothing_to_lose(job_of, monkeypatch):
    fake_score(monkeypatch, lambda parameters: 0.895)
    with pytest.raises(job_module.PruneError, match="any cut passes"):
        plan_cut(job_of("--max-drop 0.01"))
    assert plan_cut(job_of("--max-drop 1")).share > 0


def test_a_score_of_images_without_labels_is_an_error(tiny_cfg, tiny_data, tmp_path, monkeypatch):
    place = without_labels(tiny_data, "valid")
    Darknet(tiny_cfg).save_darknet_weights(tmp_path / "w.weights")
    monkeypatch.setattr(
        "sys.argv",
        [
            "test.py",
            "--cfg",
            str(tiny_cfg),
            "--data",
            str(tiny_data),
            "--weights",
            str(tmp_path / "w.weights"),
            "--n_cpu",
            "0",
        ],
    )
    with pytest.raises(DataError, match=re.escape(str(place))):
        runpy.run_path(str(ROOT / "test.py"))["main"]()


# ---- fixed names

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


# ---- advice that helps

@pytest.mark.parametrize(
    "flags, offered",
    [
        ("", ["--layers"]),
        ("--layer-keep 0.9", ["--layer-keep", "--layers"]),
        ("--divisor 8", ["--divisor", "--layers"]),
        ("--strategy skip", ["--strategy group", "--layers"]),
        ("--layers 1", []),
    ],
)
def test_a_target_out_of_reach_offers_only_flags_that_reach_further(job_of, flags, offered):
    job = plan_module.remove_layers(job_of(f"--no-eval --target-params 0.0001 {flags}"))
    with pytest.raises(job_module.PruneError, match="no cut gets there") as error:
        plan_cut(job)
    known = ("--layer-keep", "--divisor", "--strategy group", "--layers")
    assert [flag for flag in known if flag in str(error.value).split("GFLOPs")[1]] == offered
