"""The cut of a command line: each flag is compared with what it is defined as, or with the cut that it must change."""

import re
from dataclasses import replace

import pytest
import torch
from conftest import fake_score, without_labels

from utils.data.datasets import DataError
from utils.pruning import job as job_module
from utils.pruning import plan as plan_module
from utils.pruning.importance import SCORES, group_scores, taylor
from utils.pruning.plan import Ranking, plan_cut, score_groups, share_of, warn_before
from utils.shapes import total_cost


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


@pytest.mark.parametrize("words, score", [
    ("", "gamma"), ("--percent 0.5", "gamma"), ("--max-drop 1", "gamma"), ("--target-flops 0.5 --max-drop 1", "gamma"),
    ("--target-flops 0.5 --score gamma", "gamma"), ("--target-flops 0.5 --score l2", "l2")])
def test_an_open_score_is_gamma_and_a_typed_one_what_was_typed(job_of, monkeypatch, words, score):
    fake_score(monkeypatch, lambda parameters: 0.0)
    assert plan_cut(job_of(words)).score == score


@pytest.mark.parametrize("sign, aim", [(1, "--target-flops 0.5"), (-1, "--target-flops 0.5"),
                                       (1, "--target-params 0.4")])
def test_a_cut_to_a_size_is_made_by_what_scores_more_before_tuning(job_of, monkeypatch, capsys, sign, aim):
    """Scores that rise with the parameters left, or fall: of cuts by both importances the better one is taken."""
    whole = sum(p.numel() for p in job_of().model.parameters())
    fake_score(monkeypatch, lambda parameters: 0.5 - 0.4 * sign * parameters / whole)
    plans = {kind: plan_cut(job_of(f"{aim} --score {kind}")) for kind in ("gamma", "gamma-norm")}
    sizes = {kind: plan_module.cost_of(job_of(aim), plan.cut).parameters for kind, plan in plans.items()}
    assert sizes["gamma"] != sizes["gamma-norm"]
    plan = plan_cut(job_of(aim))
    assert plan.score == max(sizes, key=lambda kind: sign * sizes[kind])
    assert torch.equal(plan.cut.keep, plans[plan.score].cut.keep)
    out = capsys.readouterr().out
    assert all(f"by {kind} leaves {size:,} parameters and mAP" in out for kind, size in sizes.items())


@pytest.mark.parametrize("sparse, score", [(True, "gamma"), (False, "gamma-norm")])
def test_without_scores_gamma_decides_where_its_cut_is_free(job_of, sparse, score):
    job = job_of("--target-flops 0.5 --no-eval")
    if sparse:
        gone = ~plan_cut(job_of("--target-flops 0.5 --no-eval --score gamma")).cut.keep
        for i in job.graph.normalised:
            own = gone[job.graph.outputs[i]]
            job.model.module_list[i][1].weight.data[own] *= 1e-4 * torch.rand(int(own.sum()), dtype=torch.float32)
    assert plan_cut(job).score == score


def test_what_is_left_alone_is_printed_with_the_reason(job_of, capsys):
    job = job_of("--strategy skip")
    warn_before(job, plan_cut(job))
    out = capsys.readouterr().out
    assert job.graph.reasons and all(
        f"  layer {i} is left alone: {reason}" in out for i, reason in job.graph.reasons.items()
    )


def test_a_layer_that_loses_nearly_all_because_its_gammas_are_small_beside_others_is_named(job_of, capsys):
    for score, starved in (("gamma", True), ("gamma-norm", False)):
        job = job_of(f"--percent 0.5 --score {score}")
        groups = {i: set(job.graph.outputs[i].tolist()) for i in job.graph.prunable}
        alone = [i for i in groups if all(groups[i].isdisjoint(groups[j]) for j in groups if j != i)]
        layer_i = max(alone, key=lambda i: len(groups[i]))
        assert len(groups[layer_i]) > 10  # one channel of them is less than a tenth
        with torch.no_grad():
            job.model.module_list[layer_i][1].weight.mul_(1e-3)
        warn_before(job, plan_cut(job))
        assert (f"warning: layers {layer_i} keep less than 10%" in capsys.readouterr().out) == starved


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
    ranking = Ranking.of(job, plan.score)
    milder = max(level for level in ranking.scores.unique().tolist() if level < plan.cut.threshold)
    before = plan_module.cost_of(job, plan_module.cut_at(job, ranking, milder))
    assert (before.parameters if aims.target_params else 2 * before.macs) > aim.of(whole)


@pytest.mark.parametrize("divisor", [1, 4])
def test_a_net_whose_gammas_are_all_equal_is_cut_to_its_target_and_no_further(job_of, divisor):
    job = job_of(f"--target-flops 0.6 --divisor {divisor}")
    with torch.no_grad():
        for _, _, norm in job.model.convolutions():
            if norm is not None:
                norm.weight.fill_(1.0)
    dense, left = total_cost(job.dense.module_defs, *job.size), plan_module.cost_of(job, plan_cut(job).cut)
    assert 0.45 < left.macs / dense.macs <= 0.6
    # by --percent, the reference's rule: equal gammas reach the threshold, and stay
    by_percent = replace(job, options=job_of("--percent 0.5").options)
    assert plan_cut(by_percent).cut.keep.all()


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


def test_taylor_scores_ask_for_training_labels_and_recalibration_does_not(job_of, tiny_data):
    place = without_labels(tiny_data, "train")
    with pytest.raises(DataError, match=re.escape(str(place))):
        score_groups(job_of("--score taylor"))
    assert len(list(job_of().train_batches(1))) == 1


def test_max_drop_refuses_a_net_that_has_nothing_to_lose(job_of, monkeypatch):
    fake_score(monkeypatch, lambda parameters: 0.895)
    with pytest.raises(job_module.PruneError, match="any cut passes"):
        plan_cut(job_of("--max-drop 0.01"))
    assert plan_cut(job_of("--max-drop 1")).share > 0


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
