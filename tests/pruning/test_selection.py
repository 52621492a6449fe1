"""What goes: scores, the least a layer keeps, aligned widths, whole blocks, and searches for a target."""

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MIXED, ODD, ROOT, SAM, randomise, trained, worst
from models import Darknet
from utils import cli
from utils.batch_norm import gammas_by_layer, recalibrate
from utils.parse_config import parse_model_config
from utils.pruning import analysis, importance, iterative, selection
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.blocks import remove_blocks, residual_blocks, silenced_state, weakest_blocks
from utils.pruning.channel_graph import channel_graph
from utils.pruning.importance import block_scores, cells, group_scores, member_count, reduce_members, saved_macs
from utils.pruning.selection import candidates, in_blocks, make_room, obtain_filters_mask
from utils.pruning.surgery import compact_net, masked_state, narrow_defs, staying_groups
from utils.shapes import total_cost


@pytest.fixture
def mixed(tmp_path):
    (tmp_path / "m.cfg").write_text(MIXED.format(act="leaky"))
    return trained(tmp_path / "m.cfg", zero_share=0.0)


def keep_all_but(graph, group):
    keep = torch.ones(len(graph.frozen), dtype=torch.bool)
    keep[group] = False
    return keep


# ---- cost

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


# ---- scores

def test_cells_partition_what_can_be_cut(mixed, tiny_cfg):
    for model in (mixed, Darknet(tiny_cfg), Darknet(ROOT / "config" / "yolov3-hand-w25.cfg")):
        graph = channel_graph(model.module_defs)
        free = candidates(graph, member_count(graph))
        found = torch.cat(cells(graph))
        assert found.sort().values.tolist() == free.nonzero().flatten().tolist()
        for cell in cells(graph):
            for i in graph.normalised:
                inside = torch.isin(cell, graph.outputs[i])
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
    model.module_list[5][1].weight.data.mul_(100)
    assert torch.allclose(group_scores("gamma-norm", model, graph)[free], torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="expected one of gamma"):
        group_scores("beta", model, graph)


def test_scores_are_their_formulas(tiny_cfg):
    """On layer 6, a plain 1x1 convolution over 24 channels, where a group is a channel."""
    model = trained(tiny_cfg, zero_share=0.0)
    graph = channel_graph(model.module_defs)
    own, gamma, kernel = (
        graph.outputs[6],
        model.module_list[6][1].weight.abs(),
        model.module_list[6][0].weight.flatten(1),
    )
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


# ---- the least a layer keeps, and aligned widths

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


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 4, 8]), st.floats(0, 1.1))
def test_blocks_leave_multiples_and_still_prefer_the_better(seed, divisor, threshold):
    graph = GRAPHS[seed % len(GRAPHS)]
    scores = torch.from_numpy(np.random.default_rng(seed).random(len(graph.frozen)))
    ranked = in_blocks(graph, scores, divisor)
    cut = obtain_filters_mask(graph, ranked, member_count(graph), threshold, divisor=divisor)
    for cell in cells(graph):
        kept = cut.keep[cell]
        assert int(kept.sum()) % divisor == 0 or kept.all()
        if kept.any() and not kept.all():
            assert scores[cell[kept]].min() >= scores[cell[~kept]].max()


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


# ---- depth

def test_residual_blocks_of_yolov3_and_none_of_tiny():
    assert len(residual_blocks(parse_model_config(ROOT / "config" / "yolov3-hand.cfg"))) == 23
    assert not residual_blocks(parse_model_config(ROOT / "config" / "yolov3-tiny-hand.cfg"))


def test_a_block_may_hold_dropout_and_nothing_else_may_read_its_branch(tmp_path):
    (tmp_path / "m.cfg").write_text(ODD.replace("{joined}", SAM).format(act="leaky"))
    model = trained(tmp_path / "m.cfg")
    block, = residual_blocks(model.module_defs)
    assert (block.stream, block.last, block.shortcut) == (0, 3, 5)
    defs, state = remove_blocks(model.module_defs, model.state_dict(), [block])
    silent, shallow = (Darknet(net).double().eval() for net in (model.module_defs, defs))
    silent.load_state_dict(silenced_state(model.state_dict(), [block]))
    shallow.load_state_dict(state)
    assert worst(silent, shallow, (64, 64)) < 1e-9
    read = [section.copy() for section in model.module_defs]
    read[1 + 7]["from"] = "-2,-4"  # the three-way shortcut now reads layer 3, inside the branch
    assert not residual_blocks(read)


def test_blocks_of_inverted_residual_nets(shared):
    for name, count in (("yolo-fastest-1.1", 18), ("MobileNetV2-YOLOv3-Nano-coco", 10), ("yoloface-500k", 10)):
        path = next((shared / "darknet_pairs").glob(f"*/{name}.cfg"))
        assert len(residual_blocks(parse_model_config(path))) == count


@pytest.mark.parametrize("base, count", [("yolov3", 23), ("yolov3-spp", 23), ("yolov4", 23)])
def test_a_net_without_its_blocks_equals_the_one_in_which_they_add_nothing(families, base, count):
    model = trained(families[base], zero_share=0.0)
    blocks = residual_blocks(model.module_defs)
    assert len(blocks) == count  # mish(0) = 0, so those of yolov4 can go as well
    for chosen in (blocks[:1], blocks[-1:], blocks):
        defs, state = remove_blocks(model.module_defs, model.state_dict(), chosen)
        assert len(defs) == len(model.module_defs) - sum(block.shortcut - block.stream for block in chosen)
        silent, shallow = Darknet(model.module_defs).double().eval(), Darknet(defs).double().eval()
        silent.load_state_dict(silenced_state(model.state_dict(), chosen))
        shallow.load_state_dict(state)
        assert worst(silent, shallow) < 1e-9


def test_blocks_are_scored_as_channels_are():
    model = trained(ROOT / "config" / "yolov3-hand-w25.cfg", zero_share=0.0)
    graph, blocks = channel_graph(model.module_defs), residual_blocks(model.module_defs)
    gamma = torch.stack([model.module_list[block.last][1].weight.detach().abs().mean() for block in blocks])
    kernel = torch.stack([model.module_list[block.last][0].weight.detach().abs().mean() for block in blocks])
    streams = torch.tensor([0] + [1] * 2 + [2] * 8 + [3] * 8 + [4] * 4)
    means = torch.stack([gamma[streams == i].mean() for i in range(5)])
    for kind, expected in {
        "gamma": gamma,
        "gamma-norm": gamma / means[streams],
        "l1": kernel,
    }.items():
        assert torch.allclose(block_scores(kind, model, graph, blocks), expected), kind


def test_taylor_of_a_block_is_the_derivative_along_its_removal(tiny_cfg):
    model = trained(tiny_cfg)
    block, = residual_blocks(model.module_defs)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    loss = lambda model, images, targets: sum(raw.square().mean() for raw in model.raw_maps(images))
    score, = importance.taylor_of_blocks(model, [block], [(image, None)], loss)
    bn, values = model.module_list[block.last][1], []
    gamma, beta, h = bn.weight.detach().clone(), bn.bias.detach().clone(), 1e-5
    with torch.no_grad():
        for factor in (1 - h, 1 + h):
            bn.weight.copy_(gamma * factor)
            bn.bias.copy_(beta * factor)
            values.append(loss(model, image, None).item())
    assert score.item() == pytest.approx(abs(values[1] - values[0]) / (2 * h), rel=1e-4)


def test_the_weakest_blocks_go_in_the_order_of_the_cfg():
    blocks = residual_blocks(parse_model_config(ROOT / "config" / "yolov3-hand-w25.cfg"))
    scores = torch.ones(23)
    scores[9], scores[4] = 0.1, 0.4
    assert weakest_blocks(blocks, scores, 2) == [(blocks[4], pytest.approx(0.4)), (blocks[9], pytest.approx(0.1))]
    with pytest.raises(ValueError, match="at most 23"):
        weakest_blocks(blocks, scores, 24)


# ---- search

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


def test_a_curve_of_a_net_with_dots_in_its_name_keeps_its_name(tmp_path):
    analysis.save_curves({"gamma": [analysis.Point(0.5, 10, 20, None, 0.5, 0.2)]}, tmp_path / "yolo-1.1-pruned-curve")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "yolo-1.1-pruned-curve.csv",
        "yolo-1.1-pruned-curve.png",
    ]


def test_steps_share_what_holds_for_all_of_them_and_know_another_command(tmp_path):
    words = "--steps 3 --percent 0.488 --layer-keep 0.125 --layers 2 --img_size 64 --skip-bad --device cpu".split()
    options = prune_options(parse_prune_args("", words))
    assert iterative.step_shares(options) == ["--layer-keep", "0.500000", "--percent", "0.200000"]
    assert iterative.without(words, iterative.OF_THE_WHOLE) == "--img_size 64 --skip-bad --device cpu".split()
    assert "--img_size 64 --device cpu --skip-bad" in " ".join(map(str, iterative.training_flags(options)))
    assert iterative.run_name(Path("a/cut")) != iterative.run_name(Path("b/cut"))
    iterative.remember(tmp_path / "x" / "steps.json", {"tune": "--epochs 1"})
    iterative.remember(tmp_path / "x" / "steps.json", {"tune": "--epochs 1"})
    with pytest.raises(ValueError, match="epochs 1.*epochs 2.*another --out"):
        iterative.remember(tmp_path / "x" / "steps.json", {"tune": "--epochs 2"})
    (tmp_path / "w.pth").write_bytes(b"one")
    before = iterative.sha256(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"two")  # other weights under the same name are another start
    assert iterative.sha256(tmp_path / "w.pth") != before
    with pytest.raises(SystemExit):  # a shortened flag would escape `without`
        parse_prune_args("", ["--step", "3"])


SIZE, TIME = cli.size_target, cli.time_target


@pytest.mark.parametrize("kind, text, value, ratio", [
    (SIZE, "0.2", 0.2, True), (SIZE, "1.2M", 1.2e6, False), (SIZE, "350K", 3.5e5, False), (SIZE, "0.8G", 8e8, False),
    (SIZE, "2500000", 2.5e6, False), (SIZE, "220k", 2.2e5, False), (SIZE, "1.2m", 1.2e6, False),
    (SIZE, "0.8g", 8e8, False), (TIME, "12MS", 0.012, False),
    (TIME, "0.5", 0.5, True), (TIME, "12ms", 0.012, False), (TIME, "2s", 2.0, False)])
def test_targets_are_ratios_or_amounts(kind, text, value, ratio):
    target = kind(text)
    assert target.value == pytest.approx(value) and target.is_ratio == ratio
    assert target.of(100) == pytest.approx(100 * value if ratio else value)


@pytest.mark.parametrize(
    "kind, text",
    [
        (SIZE, ""),
        (SIZE, "-1"),
        (SIZE, "0"),
        (SIZE, "12"),
        (SIZE, "12ms"),
        (SIZE, "12 parsecs"),
        (SIZE, "9" * 400 + "k"),
        (SIZE, "\u0663k"),
        (SIZE, "1.2.3"),
        (SIZE, "1e9x"),
        (TIME, "2500"),
        (TIME, "1.2M"),
        (TIME, "0ms"),
        (TIME, "2"),
    ],
)
def test_other_targets_are_refused(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a ratio"):
        kind(text)


# ---- recalibration

def test_recalibration_takes_plain_averages_over_the_batches(tiny_cfg):
    torch.manual_seed(0)
    model = Darknet(tiny_cfg)
    randomise(model)
    batches = [(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), None) for _ in range(3)]
    weights = model.module_list[0][0].weight.clone()
    recalibrate(model, batches)
    with torch.no_grad():
        outputs = [model.module_list[0][0](images / 255) for images, _ in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in outputs]).mean(0)
    bn = model.module_list[0][1]
    assert torch.allclose(bn.running_mean, mean, atol=1e-5) and torch.allclose(bn.running_var, var, rtol=1e-4)
    assert not model.training and bn.momentum == 0.1 and torch.equal(weights, model.module_list[0][0].weight)
    before = bn.running_mean.clone()
    recalibrate(model, [])
    assert torch.equal(bn.running_mean, before)
