"""test_prune.py's flags reach the cut: each is compared with what it is defined as, or with the cut that it must change."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import trained

from models import Darknet
from utils import prune_job, prune_plan, prune_scores
from utils.channel_cost import saved_macs
from utils.checkpoint import save_checkpoint, weights_content
from utils.prune_args import parse_prune_args
from utils.prune_scores import group_scores
from utils.prune_plan import Ranking, plan_cut, score_groups, share_of


@pytest.fixture
def job_of(tiny_cfg, tiny_data, tmp_path):
    """flags -> Job of a small net whose gammas are all different."""
    model = trained(tiny_cfg, zero_share=0.0).float()
    save_checkpoint(tmp_path / "net.pth", weights_content(model, str(tiny_cfg), "test"))

    def make(flags=""):
        return prune_job.load(parse_prune_args("", ["--cfg", str(tiny_cfg), "--weights", str(tmp_path / "net.pth"), "--data", str(tiny_data),
                                                  "--n_cpu", "0", *flags.split()]), Darknet)
    return make


def kept(job):
    """layer -> channels kept by the plan."""
    plan = plan_cut(job)
    return {i: int(plan.masks[i].sum()) for i in job.graph.prunable}


@pytest.mark.parametrize("kind", [kind for kind in prune_scores.SCORES if kind not in ("taylor", "gamma-cost")])
def test_score_is_the_one_that_was_named(job_of, kind):
    job = job_of(f"--score {kind}")
    scores = score_groups(job)
    assert torch.equal(scores, group_scores(kind, job.model, job.graph))
    assert kind == "gamma" or not torch.equal(scores, score_groups(job_of()))


def test_score_gamma_cost_takes_operations_or_the_measured_time(job_of, monkeypatch):
    job = job_of("--score gamma-cost")
    macs = saved_macs(job.model.module_defs, job.graph, job.size)
    assert torch.equal(score_groups(job), group_scores("gamma-cost", job.model, job.graph, cost=macs))
    per_mac = [1.0 + i for i in range(len(job.model.module_defs) - 1)]  # later layers take longer
    monkeypatch.setattr(prune_plan, "seconds_per_mac", lambda model, size: per_mac)
    timed = saved_macs(job.model.module_defs, job.graph, job.size, per_mac)
    scores = score_groups(job_of("--score gamma-cost --cost latency"))
    assert torch.equal(scores, group_scores("gamma-cost", job.model, job.graph, cost=timed)) and not torch.equal(timed, macs)


def test_score_taylor_is_of_the_training_loss(job_of):
    job = job_of("--score taylor")
    expected = prune_scores.taylor(job.model, job.graph, job.train_batches(prune_plan.TAYLOR_BATCHES), prune_plan.batch_loss)
    assert torch.equal(score_groups(job), group_scores("taylor", job.model, job.graph, first_order=expected)) and (expected > 0).any()


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
    surgery = prune_job.compact_of(job, plan_cut(job).cut)[1]
    widths = [len(surgery.kept[i]) for i in job.graph.prunable]
    assert all(width % 4 == 0 for width in widths) and sum(widths) < sum(len(job.graph.outputs[i]) for i in job.graph.prunable)
    plain = job_of("--percent 0.5")
    assert any(len(prune_job.compact_of(plain, plan_cut(plain).cut)[1].kept[i]) % 4 for i in plain.graph.prunable)


def test_layers_takes_a_residual_block_out(job_of, capsys):
    whole, less = job_of(), job_of("--layers 1")
    count = lambda job: sum(section["type"] == "shortcut" for section in job.model.module_defs[1:])
    assert count(less) == count(whole) - 1 and len(less.blocks) == 1
    assert "residual block of layers" in capsys.readouterr().out


def fake_score(monkeypatch, loss_of):
    """Scores fall by loss_of(parameters left); returns how many nets were recalibrated."""
    calls = []
    original = prune_plan.recalibrate
    monkeypatch.setattr(prune_plan, "recalibrate", lambda model, batches: calls.append(model) or original(model, batches))
    for module in (prune_job, prune_plan):
        monkeypatch.setattr(module, "evaluate", lambda model, *args, **options: SimpleNamespace(
            map50=0.9 - loss_of(sum(p.numel() for p in model.parameters())), map=0.0, precision=0.0, recall=0.0))
    return calls


def test_max_drop_finds_the_strongest_cut_that_keeps_its_map_each_candidate_recalibrated(job_of, monkeypatch):
    job = job_of("--max-drop 0.01")
    dense = sum(p.numel() for p in job.dense.parameters())
    calls = fake_score(monkeypatch, lambda parameters: 0.1 * (1 - parameters / dense))  # 0.01 lost at nine tenths of the parameters
    plan = plan_cut(job)
    left = prune_plan.cost_of(job, plan.cut).parameters
    assert 0.9 * dense <= left < 0.97 * dense
    assert len(calls) >= 3
    wider = plan_cut(replace(job, args=job_of("--max-drop 0.03").args))
    assert 0.7 * dense <= prune_plan.cost_of(job, wider.cut).parameters < left
    assert share_of(Ranking.of(job), wider.cut) > plan.share > 0


@pytest.mark.parametrize("flag", ["0.5", "5ms"])
def test_target_latency_is_met_by_the_mildest_cut_that_does(job_of, monkeypatch, flag):
    """A clock on which the dense net takes 10 ms and a parameter is a parameter."""
    job = job_of(f"--target-latency {flag}")
    count = lambda model: sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(prune_plan, "compare_latency", lambda models, size, repeats: [
        SimpleNamespace(median=0.01 * count(model) / count(models[0])) for model in models])
    left = prune_plan.cost_of(job, plan_cut(job).cut).parameters
    assert 0.4 * count(job.dense) < left <= 0.5 * count(job.dense)
