"""Thresholds, what every layer keeps, aligned widths, and the search for a target."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, trained, worst
from models import Darknet
from utils.parse_config import parse_model_config
from utils.pruning import selection
from utils.pruning.channel_graph import channel_graph
from utils.pruning.importance import axes, group_scores, member_count
from utils.pruning.selection import candidates, in_blocks, make_room, obtain_filters_mask, without_ties
from utils.pruning.surgery import compact_net, masked_state, narrow_defs, staying_groups


def kept_by_layer(graph, keep):
    return {i: int(keep[graph.outputs[i]].sum()) for i in graph.prunable}


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9), st.floats(0, 3))
def test_layer_keep_holds_in_every_layer(seed, share, threshold):
    graph = GRAPHS[seed % len(GRAPHS)]
    scores = torch.from_numpy(np.random.default_rng(seed).random(len(graph.frozen)))
    cut = obtain_filters_mask(graph, scores, member_count(graph), threshold, layer_keep=share)
    for i, kept in kept_by_layer(graph, cut.keep).items():
        assert kept >= math.ceil(share * len(graph.outputs[i].unique()))


def test_a_share_of_a_hundred_channels_is_that_many():
    members = torch.ones(100, dtype=torch.int64)
    assert [selection.channels_of(k / 100, members) for k in range(100)] == list(range(100))
    assert selection.channels_of(0.999, members) == 99
    scores = torch.arange(100).double()
    assert [selection.global_threshold(scores, members, k / 100) for k in range(100)] == list(range(100))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_ties_are_told_apart_and_nothing_else_changes_its_place(seed, values):
    graph = GRAPHS[seed % len(GRAPHS)]
    scores = torch.from_numpy(np.random.default_rng(seed).integers(0, values, len(graph.frozen))).float().double() / 7
    found = without_ties(graph, scores)
    assert (found >= scores).all() and (found <= scores * (1 + 1e-9)).all() and not found[scores == 0].any()
    for axis in axes(graph):
        assert len(found[axis][scores[axis] > 0].unique()) == int((scores[axis] > 0).sum())


def test_equal_scores_lose_the_same_share_of_every_layer():
    graph, members = GRAPHS[0], member_count(GRAPHS[0])
    ranked = without_ties(graph, torch.ones(len(graph.frozen), dtype=torch.float64))
    cut = obtain_filters_mask(graph, ranked, members, ranked[candidates(graph, members)].median().item())
    for i, kept in kept_by_layer(graph, cut.keep).items():
        assert kept / len(graph.outputs[i].unique()) == pytest.approx(0.5, abs=0.15)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 4, 8]), st.floats(0, 1.1))
def test_blocks_leave_multiples_and_still_prefer_the_better(seed, divisor, threshold):
    graph = GRAPHS[seed % len(GRAPHS)]
    scores = torch.from_numpy(np.random.default_rng(seed).random(len(graph.frozen)))
    ranked = in_blocks(graph, scores, divisor)
    cut = obtain_filters_mask(graph, ranked, member_count(graph), threshold, divisor=divisor)
    for axis in axes(graph):
        kept = cut.keep[axis]
        assert int(kept.sum()) % divisor == 0 or kept.all()
        if kept.any() and not kept.all():
            assert scores[axis[kept]].min() >= scores[axis[~kept]].max()


GRAPHS = [
    channel_graph(parse_model_config(ROOT / "config" / name))
    for name in ("yolov3-hand-w25.cfg", "yolov3-tiny-hand.cfg")
]


@pytest.mark.parametrize("percent", [0.3, 0.6, 0.8])
def test_widths_stay_aligned_with_carriers_and_after_a_second_pruning(percent):
    """Carriers included: what the compact cfg says, not what the ranking meant."""
    model = trained(ROOT / "config" / "yolov3-hand-w25.cfg", zero_share=0.0)
    for _ in range(2):
        graph, state = channel_graph(model.module_defs), model.state_dict()
        scores = group_scores("gamma", model, graph)
        ranked, free = in_blocks(graph, scores, 8), candidates(graph, member_count(graph))
        keep = obtain_filters_mask(
            graph, ranked, member_count(graph), ranked[free].quantile(percent).item(), divisor=8
        ).keep
        for _ in range(6):
            keep = make_room(graph, keep, staying_groups(model.module_defs, state, graph, keep), scores, 8)
        surgery = compact_net(model.module_defs, state, graph, keep)
        assert surgery.carriers
        for i in graph.prunable:
            width = int(surgery.module_defs[1 + i]["filters"])
            assert width % 8 == 0 or width == len(graph.outputs[i])
        masked, compact = Darknet(model.module_defs).double().eval(), Darknet(surgery.module_defs).double().eval()
        masks = {i: keep[graph.outputs[i]] for i in graph.normalised}
        masked.load_state_dict(masked_state(state, masks))
        compact.load_state_dict(surgery.state)
        assert worst(masked, compact) < 1e-9
        model = compact


def test_predicted_widths_are_those_of_the_net_that_is_made(mixed, tiny_cfg):
    for model in (mixed, trained(tiny_cfg)):
        graph = channel_graph(model.module_defs)
        scores = group_scores("gamma", model, graph)
        for threshold in scores[scores > 0].quantile(torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)).tolist():
            keep = obtain_filters_mask(graph, scores, member_count(graph), threshold).keep
            staying = staying_groups(model.module_defs, model.state_dict(), graph, keep)
            assert (
                narrow_defs(model.module_defs, graph, staying)
                == compact_net(model.module_defs, model.state_dict(), graph, keep).module_defs
            )


@settings(deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=50, unique=True), st.integers(-1, 101))
def test_bisection_finds_the_edge(values, edge):
    levels = sorted(values)
    assert selection.mildest(levels, lambda level: level >= edge) == next((v for v in levels if v >= edge), None)
    assert selection.strongest(levels, lambda level: level <= edge) == next(
        (v for v in reversed(levels) if v <= edge), None
    )


def test_thresholds_are_all_cuts_or_an_even_sample():
    scores, free = torch.tensor([3.0, 1.0, 2.0, 2.0, 9.0]), torch.tensor([True, True, True, True, False])
    assert selection.thresholds(scores, free) == [1.0, 2.0, 3.0, 7.0]
    assert selection.thresholds(scores, free, start=2.0) == [2.0, 3.0, 7.0] and selection.thresholds(
        scores, free, start=7.0
    ) == [7.0]
    assert len(selection.thresholds(torch.arange(1000.0), torch.ones(1000, dtype=torch.bool), 10)) == 11


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.integers(2, 9))
def test_a_curve_starts_with_what_is_dead_and_ends_with_all(dead, alive, count):
    scores = torch.cat([torch.zeros(dead), 1 + torch.arange(alive, dtype=torch.float)])
    levels = selection.curve_levels(scores, torch.ones(len(scores), dtype=torch.bool), count)
    cut = [(scores < level).sum().item() for level in levels]
    assert (
        len(levels) <= count
        and (alive < 2 * count or len(levels) == count)
        and cut == sorted(set(cut))
        and cut[-1] == dead + alive
    )
    assert cut[0] == dead or not dead or len(levels) == 1
    assert cut[0] > 0
