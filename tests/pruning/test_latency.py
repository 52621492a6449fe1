"""The latency knapsack against brute force, and its tables against an injected clock: nothing here is timed."""

import itertools
import math

import numpy as np
import pytest

from utils.deploy.layer_time import SWEEP, ConvSpec, LayerClock, WidthTable, conv_specs, stairs
from utils.parse_config import parse_model_config
from utils.pruning.latency import Choice, Knapsack, importance, narrowest, seconds, solve, widest


def chain(seed, axes=4, width=6):
    """Convolutions one after the other, each an axis; times rise with both widths."""
    rng, own = np.random.default_rng(seed), np.arange(1, width + 1)
    reads, gives = np.eye(axes, k=-1, dtype=int), np.eye(axes, dtype=int)
    fixed = np.zeros((axes, 2), dtype=int)
    fixed[0, 0] = 3
    tables = [WidthTable(inputs, own, rng.random((len(inputs), width)).cumsum(0).cumsum(1), 1)
              for inputs in [np.array([3]), *[own] * (axes - 1)]]
    values = [np.concatenate([[0], np.sort(rng.random(width))[::-1].cumsum()]) for _ in range(axes)]
    return Knapsack(tables, reads, gives, fixed, [own] * axes, values)


def with_block(value, seed=0, width=5):
    """Convolution 0 gives the stream (axis 0), 1 and 2 are a residual block on it whose inner axis 1 nothing else
    reads, 3 reads the stream and gives axis 2; the block itself is worth `value`, its inner axis little."""
    rng, own = np.random.default_rng(seed), np.arange(1, width + 1)
    reads = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    gives = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    fixed = np.array([[3, 0], [0, 0], [0, 0], [0, 0]])
    tables = [WidthTable(inputs, own, rng.random((len(inputs), width)).cumsum(0).cumsum(1), 1)
              for inputs in (np.array([3]), own, own, own)]
    values = [np.concatenate([[0], np.sort(rng.random(width))[::-1].cumsum()]) * factor for factor in (1, 1e-3, 1)]
    return Knapsack(tables, reads, gives, fixed, [own] * 3, values, [[1, 2]], [[1]], np.array([value]))


def brute_force(knapsack, budget):
    """The choice of most importance of all within the budget."""
    kept = itertools.product([False, True], repeat=len(knapsack.blocks))
    every = (Choice(np.array(widths), np.array(stays, dtype=bool))
             for stays in kept for widths in itertools.product(*knapsack.choices))
    return max((one for one in every if seconds(knapsack, one) <= budget), key=lambda one: importance(knapsack, one))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_knapsack_keeps_its_budget_and_nearly_all_that_brute_force_keeps(share):
    kept = []
    for seed in range(12):
        knapsack = chain(seed)
        budget = share * seconds(knapsack, widest(knapsack))
        found = solve(knapsack, budget)
        assert seconds(knapsack, found) <= budget
        kept.append(importance(knapsack, found) / importance(knapsack, brute_force(knapsack, budget)))
    assert min(kept) > 0.9 and np.median(kept) > 0.99


def test_a_budget_below_the_narrowest_net_has_no_answer_and_one_above_the_dense_net_cuts_nothing():
    knapsack = chain(0)
    assert solve(knapsack, 0.99 * seconds(knapsack, narrowest(knapsack))) is None
    whole = solve(knapsack, seconds(knapsack, widest(knapsack)))
    assert np.array_equal(whole.widths, widest(knapsack).widths)


@pytest.mark.parametrize("seed", range(6))
def test_a_block_goes_where_it_is_worth_little_and_stays_where_it_is_worth_much(seed):
    for value, stays in ((1e-6, False), (100.0, True)):
        knapsack = with_block(value, seed)
        budget = 0.35 * seconds(knapsack, widest(knapsack))
        found, best = solve(knapsack, budget), brute_force(knapsack, budget)
        assert found.stays[0] == best.stays[0] == stays and seconds(knapsack, found) <= budget
        assert importance(knapsack, found) >= 0.9 * importance(knapsack, best)


@pytest.mark.parametrize("unit", [1, 8, 16, 32])
def test_the_unit_of_a_runtime_is_found_by_the_stairs_of_its_times(unit):
    widths = np.array(SWEEP)
    assert stairs(widths, 2 + 3.0 * np.ceil(widths / unit) * unit) == unit


def test_a_table_gives_back_what_was_measured_and_rounds_widths_up_to_the_unit():
    spec = ConvSpec(32, 64, 3, (1, 1), 1, 1, 1, 8, 8, "leaky")
    table = WidthTable.of(spec, (True, True), 8, LayerClock(lambda own: own.inputs * own.outputs))
    at = lambda inputs, outputs: table.at(np.array([inputs]), np.array([outputs]))[0]
    assert at(32, 64) == 32 * 64 and at(17, 33) == pytest.approx(24 * 40) and at(24, 40) == at(17, 33)
    assert at(0, 64) == 0 == at(32, 0)


def test_times_are_remembered_in_a_file_and_a_damaged_one_is_measured_anew(tmp_path):
    spec, calls = ConvSpec(8, 8, 1, (1, 1), 0, 1, 1, 4, 4, "linear"), []
    measure = lambda own: calls.append(own) or 0.5
    for _ in range(2):
        assert LayerClock(measure, tmp_path / "times.json").seconds([spec]) == [0.5]
    assert len(calls) == 1
    (tmp_path / "times.json").write_text('{"half')
    assert LayerClock(measure, tmp_path / "times.json").seconds([spec]) == [0.5] and len(calls) == 2


def test_specs_of_a_net_have_the_macs_that_are_counted_for_it(tiny_cfg):
    from utils.shapes import layer_costs

    defs = parse_model_config(tiny_cfg)
    costs = layer_costs(defs, 64, 64)
    for layer_i, spec in conv_specs(defs, (64, 64)).items():
        positions = math.prod((side + 2 * spec.padding - spec.size) // step + 1
                              for side, step in zip((spec.rows, spec.columns), spec.stride))
        assert spec.inputs // spec.groups * spec.outputs * spec.size ** 2 * positions == costs[layer_i].macs
