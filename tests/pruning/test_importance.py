"""Importances against their formulas, and axes against what is interchangeable."""

import math

import pytest
import torch

from conftest import ROOT, trained
from models import Darknet
from nets import TINY, place
from utils.batch_norm import gammas_by_layer
from utils.parse_config import parse_model_config
from utils.pruning import importance
from utils.pruning.channel_graph import channel_graph
from utils.pruning.importance import axes, group_scores, member_count, reduce_members, saved_macs
from utils.pruning.selection import candidates
from utils.pruning.surgery import narrow_defs
from utils.shapes import total_cost


def keep_all_but(graph, group):
    keep = torch.ones(len(graph.frozen), dtype=torch.bool)
    keep[group] = False
    return keep


def test_saved_macs_are_what_the_narrower_cfg_saves(mixed, tiny_cfg):
    """Against the cost of the cfg with that group alone removed; a weight shared by a removed row and column is counted
    twice."""
    for model in (mixed, trained(tiny_cfg)):
        defs, graph = model.module_defs, channel_graph(model.module_defs)
        saved, dense = saved_macs(defs, graph, (64, 64)), total_cost(defs, 64, 64).macs
        for group in candidates(graph, member_count(graph)).nonzero().flatten().tolist():
            try:
                exact = dense - total_cost(narrow_defs(defs, graph, keep_all_but(graph, group)), 64, 64).macs
            except ValueError:
                continue  # a grouped convolution cannot lose this one alone
            assert exact <= saved[group] <= 1.3 * exact


def test_cells_partition_what_can_be_cut(mixed, tiny_cfg):
    for model in (mixed, Darknet(tiny_cfg), Darknet(ROOT / "config" / "yolov3-hand-w25.cfg")):
        graph = channel_graph(model.module_defs)
        free = candidates(graph, member_count(graph))
        found = torch.cat(axes(graph))
        assert found.sort().values.tolist() == free.nonzero().flatten().tolist()
        for axis in axes(graph):
            for i in graph.normalised:
                inside = torch.isin(axis, graph.outputs[i])
                assert inside.all() or not inside.any()


@pytest.mark.parametrize("norm, expected", [("max", 4.0), ("mean", 2.5), ("l2", math.sqrt(17 / 2))])
def test_members_are_reduced_by_norm(tiny_cfg, norm, expected):
    graph = channel_graph(parse_model_config(tiny_cfg))
    values = {i: torch.ones(len(graph.outputs[i])) for i in graph.normalised}
    group = graph.outputs[1][0]  # present in layers 1 and 3
    values[3][0] = 4.0
    assert reduce_members(graph, values, norm)[group].item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", importance.SCORES)
def test_every_score_ranks_all_groups_and_puts_dead_ones_at_zero(tiny_cfg, kind):
    model = trained(tiny_cfg, zero_share=0.4)
    graph = channel_graph(model.module_defs)
    first = torch.ones(len(graph.frozen), dtype=torch.float64)
    score = group_scores(kind, model, graph, first_order=first)
    free = candidates(graph, member_count(graph))
    dead = reduce_members(graph, gammas_by_layer(model)) == 0
    assert torch.isfinite(score).all() and torch.equal(score[free] == 0, dead[free]) and dead[free].any()


def test_normalisation_makes_layers_of_any_scale_alike(tiny_cfg):
    model = Darknet(tiny_cfg)  # all gammas 1
    graph = channel_graph(model.module_defs)
    free = candidates(graph, member_count(graph))
    model.module_list[place(TINY, "deep")][1].weight.data.mul_(100)
    assert torch.allclose(group_scores("gamma-norm", model, graph)[free], torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="expected one of gamma"):
        group_scores("beta", model, graph)


def test_scores_are_their_formulas(tiny_cfg):
    """On `neck`, a plain 1x1 convolution over 24 channels, where a group is a channel."""
    model = trained(tiny_cfg, zero_share=0.0)
    graph, neck = channel_graph(model.module_defs), place(TINY, "neck")
    conv, norm = model.module_list[neck][0], model.module_list[neck][1]
    own, gamma, kernel = graph.outputs[neck], norm.weight.abs(), conv.weight.flatten(1)
    for kind, expected in {
        "gamma": gamma,
        "gamma-norm": gamma / gamma.mean(),
        "l1": kernel.abs().mean(1),
        "l2": kernel.square().mean(1).sqrt(),
    }.items():
        assert torch.allclose(group_scores(kind, model, graph)[own], expected.detach()), kind
    free = candidates(graph, member_count(graph))
    chance = [group_scores("random", model, graph, seed=seed)[free] for seed in (0, 0, 1)]
    assert (
        torch.equal(chance[0], chance[1])
        and not torch.equal(chance[0], chance[2])
        and len(set(chance[0].tolist())) == len(chance[0])
    )


def test_taylor_is_the_root_mean_square_of_its_batches(tiny_cfg):
    model = trained(tiny_cfg)
    graph = channel_graph(model.module_defs)
    batches = [(torch.rand(1, 3, 64, 64, dtype=torch.float64), None) for _ in range(3)]
    loss = lambda model, images, targets: sum(raw.square().mean() for raw in model.raw_maps(images))
    each = torch.stack([importance.taylor(model, graph, [batch], loss) for batch in batches])
    assert torch.allclose(importance.taylor(model, graph, batches, loss), each.square().mean(0).sqrt())
    with pytest.raises(ValueError, match="no training batch"):
        importance.taylor(model, graph, [], loss)


def test_taylor_passes_over_layers_that_no_head_depends_on(tmp_path):
    normed = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=1\nactivation=leaky\n"
    cfg = tmp_path / "unread.cfg"
    cfg.write_text(
        "[net]\nwidth=32\nheight=32\n"
        + normed
        + normed
        + "[route]\nlayers=0\n[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"
        "[yolo]\nmask=0\nanchors=9,9\nclasses=1\nnum=1\n"
    )
    model = Darknet(cfg)
    graph = channel_graph(model.module_defs, "group")
    score = importance.taylor(
        model,
        graph,
        [(torch.rand(1, 3, 32, 32), None)],
        lambda net, images, targets: net.raw_maps(images)[0].square().sum(),
    )
    assert (score[graph.outputs[0]] > 0).all() and (score[graph.outputs[1]] == 0).all()


def test_taylor_is_the_derivative_along_the_removal(tiny_cfg):
    """Against a finite difference: all gammas of a group scaled by 1 - h."""
    model = trained(tiny_cfg)
    graph = channel_graph(model.module_defs)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    loss = lambda model, images, targets: sum(raw.square().mean() for raw in model.raw_maps(images))
    score = importance.taylor(model, graph, [(image, None)], loss)
    assert all(p.grad is None for p in model.parameters())
    h = 1e-5  # rounding below, kinks of the activation above
    for group in (graph.outputs[1][2], graph.outputs[5][0], graph.outputs[6][3]):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        values = []
        for factor in (1 - h, 1 + h):
            for i in graph.normalised:
                key = f"module_list.{i}.batch_norm_{i}.weight"
                scale = torch.where(graph.outputs[i] == group, factor, 1.0)
                model.state_dict()[key].copy_(state[key] * scale)
            with torch.no_grad():
                values.append(loss(model, image, None).item())
        model.load_state_dict(state)
        assert score[group].item() == pytest.approx(abs(values[1] - values[0]) / (2 * h), rel=5e-3)
