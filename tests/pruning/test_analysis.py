"""Trade-off curves and sensitivities."""

from types import SimpleNamespace

import pytest

from conftest import fake_score
from utils.batch_norm import gammas_by_layer
from utils.pruning import analysis
from utils.pruning import plan as plan_module
from utils.pruning.plan import score_groups
from utils.shapes import total_cost


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
    monkeypatch.setattr(analysis, "latencies_beside", lambda beside, models: (
        0.01, [0.01 * cost_of(model).macs / cost_of(job.dense).macs for model in models], "made up"))
    points = analysis.tradeoff(job, 3, "gamma")
    assert len(points) == 4 and calls == [8, 8, 8]
    assert [point.map50 for point in points[1:]] == [0.1, 0.2, 0.3]
    for point, model in zip(points, [job.dense, *nets]):
        cost = cost_of(model)
        assert (point.parameters, point.macs, point.row()["flops"]) == (cost.parameters, cost.macs, 2 * cost.macs)
        assert point.latency == pytest.approx(0.01 * cost.macs / cost_of(job.dense).macs)
    assert [point.share for point in points] == sorted(point.share for point in points) and points[
        -1
    ].parameters < 0.2 * points[0].parameters
    analysis.tradeoff(job_of("--curve 1 --recalibrate 0 --repeats 0"), 1, "gamma")
    assert calls[3:] == [0]


def test_sensitivity_silences_the_weakest_share_of_each_layer_alone(job_of, monkeypatch):
    job, nets = job_of(), []
    monkeypatch.setattr(
        analysis, "evaluate", lambda model, *args, **options: nets.append(model) or SimpleNamespace(map50=1 / len(nets))
    )
    rows = analysis.sensitivity(job, 4, "gamma")
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


def test_a_curve_of_a_net_with_dots_in_its_name_keeps_its_name(tmp_path):
    analysis.save_curves({"gamma": [analysis.Point(0.5, 10, 20, None, 0.5, 0.2)]}, tmp_path / "yolo-1.1-pruned-curve")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "yolo-1.1-pruned-curve.csv",
        "yolo-1.1-pruned-curve.png",
    ]
