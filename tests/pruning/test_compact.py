"""Masked and compact net, verified and scored."""

from dataclasses import replace

import pytest
import torch

from conftest import without_labels
from utils.compare import probe_image
from utils.pruning import compact as compact_module
from utils.pruning import report
from utils.pruning.compact import compact_and_verify, masked_model, prune_and_eval, recalibrate_and_eval
from utils.pruning.plan import plan_cut
from utils.shapes import total_cost


def test_an_inexact_fold_is_reported_by_layer_and_in_map_whatever_is_recalibrated_after(job_of):
    compacts = []
    for flags in ("", "--recalibrate 1"):
        job = job_of(f"--percent 0.5 --fold bias --repeats 0 {flags}")
        plan = plan_cut(job)
        before, masked = prune_and_eval(job, plan)
        compact = compact_and_verify(job, plan)
        after = recalibrate_and_eval(job, compact, masked)
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


@pytest.mark.parametrize("flag, after, kept", [("", 0.3, True), ("", 0.2, False), ("--recalibrate 1", 0.2, True)])
def test_new_statistics_stay_where_they_score_more_or_were_asked_for(job_of, monkeypatch, flag, after, kept):
    job = job_of(f"--target-flops 0.6 --score gamma --repeats 0 {flag}")
    plan = plan_cut(job)
    compact, masked = compact_and_verify(job, plan), replace(job.before, map50=0.25)
    before = {key: value.clone() for key, value in compact.model.state_dict().items()}
    monkeypatch.setattr(compact_module, "eval_model", lambda *given: replace(job.before, map50=after))
    found = recalibrate_and_eval(job, compact, masked)
    changed = {key for key, value in compact.model.state_dict().items() if not torch.equal(value, before[key])}
    assert found.map50 == (after if kept else 0.25) and bool(changed) == kept
    assert all(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in changed)


def test_a_pruning_that_does_not_score_runs_without_labels(job_of, tiny_data):
    without_labels(tiny_data, "valid")
    without_labels(tiny_data, "train")
    job = job_of("--no-eval --percent 0.4 --recalibrate 1")
    plan = plan_cut(job)
    compact = compact_and_verify(job, plan)
    assert recalibrate_and_eval(job, compact, None) is None
    assert 0 < plan.share < 0.6 and prune_and_eval(job, plan) == (None, None)


def test_what_carriers_take_is_said_where_it_is_much(job_of, capsys):
    macs, said = {}, {}
    for fold in ("exact", "bias"):
        job = job_of(f"--percent 0.8 --fold {fold}")
        compact = compact_and_verify(job, plan_cut(job))
        macs[fold], said[fold] = total_cost(compact.model.module_defs, *job.size).macs, capsys.readouterr().out
    assert f"take {1 - macs['bias'] / macs['exact']:.0%} of its FLOPs" in said["exact"]
    assert "its channels are carriers" not in said["bias"]
