"""Pruning: the graph, the threshold, and exact removal at every position, on tiny nets and on every cfg family."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import FAMILIES, ROOT, trained, worst
from models import Darknet
from nets import ADD, FOREIGN, MIXED, ODD, PARTIAL, RESNET, SAM, TINY, cfg_text, place
from utils.layers import ACTIVATIONS
from utils.parse_config import parse_model_config
from utils.pruning.blocks import residual_blocks
from utils.pruning.channel_graph import channel_graph, prunable_layers
from utils.pruning.importance import group_scores, member_count
from utils.pruning.selection import candidates, global_threshold, obtain_bn_mask, obtain_filters_mask, percent_limit
from utils.pruning.surgery import compact_net, masked_state
from utils.shapes import total_cost

SKIP_OF_YOLOV3 = [
    0,
    2,
    6,
    9,
    13,
    16,
    19,
    22,
    25,
    28,
    31,
    34,
    38,
    41,
    44,
    47,
    50,
    53,
    56,
    59,
    63,
    66,
    69,
    72,
    *range(75, 81),
    *range(87, 93),
    *range(99, 105),
]

def cut_of(model, percent, strategy="group"):
    graph = channel_graph(model.module_defs, strategy)
    scores, members = group_scores("gamma", model, graph), member_count(graph)
    free = candidates(graph, members)
    return graph, obtain_filters_mask(graph, scores, members, global_threshold(scores[free], members[free], percent))


def masked_and_compact(model, percent, strategy="group", fold="exact"):
    graph, cut = cut_of(model, percent, strategy)
    surgery = compact_net(model.module_defs, model.state_dict(), graph, cut.keep, fold)
    dtype = next(model.parameters()).dtype
    masked, compact = Darknet(model.module_defs).to(dtype).eval(), Darknet(surgery.module_defs).to(dtype).eval()
    masked.load_state_dict(masked_state(model.state_dict(), cut.masks(graph)))
    compact.load_state_dict(surgery.state)
    return masked, compact, surgery


# ---- the graph

def test_skip_is_the_reference_rule_on_yolov3():
    assert prunable_layers(parse_model_config(ROOT / "config" / "yolov3-hand.cfg"), "skip") == SKIP_OF_YOLOV3


@pytest.mark.parametrize(
    "base, count", [("yolov3", 72), ("yolov3-tiny", 11), ("yolov3-spp", 73), ("yolov4", 107), ("yolov4-tiny", 19)]
)
def test_group_covers_every_batch_norm_layer(families, base, count):
    graph = channel_graph(parse_model_config(families[base]))
    assert len(graph.prunable) == count and graph.prunable == graph.normalised
    assert all("batch norm" in reason for reason in graph.reasons.values())


def test_external_families_are_covered_too(shared):
    for path in (shared / "darknet_pairs").glob("*/*.cfg"):
        graph = channel_graph(parse_model_config(path))
        assert graph.prunable == graph.normalised


def test_shortcut_ties_and_route_concatenates(tiny_cfg):
    graph = channel_graph(parse_model_config(tiny_cfg))
    assert torch.equal(graph.outputs[1], graph.outputs[3])  # the two terms of the shortcut
    assert torch.equal(graph.outputs[12], torch.cat([graph.outputs[11], graph.outputs[4]]))
    assert not set(graph.outputs[0].tolist()) & set(graph.outputs[1].tolist())


def test_what_feeds_a_reorg_is_left_alone_with_the_reason(tmp_path):
    (tmp_path / "m.cfg").write_text(cfg_text(MIXED))
    graph = channel_graph(parse_model_config(tmp_path / "m.cfg"))
    assert "reorg" in graph.reasons[16] and 16 not in graph.prunable


PARTLY = """[net]
width=32
height=32
[convolutional]
batch_normalize=1
filters=4
size=1
[convolutional]
filters=2
size=1
[route]
layers=1,0
[convolutional]
batch_normalize=1
filters=6
size=1
[shortcut]
from=-2
[convolutional]
filters=18
size=1
[yolo]
mask=0,1,2
anchors=1,2,3,4,5,6
classes=1
"""


def test_a_layer_that_can_be_cut_in_part_is_listed_with_the_reason(tmp_path):
    (tmp_path / "m.cfg").write_text(PARTLY)
    graph = channel_graph(parse_model_config(tmp_path / "m.cfg"))
    assert graph.prunable == [0, 3] and 0 not in graph.reasons
    assert (
        graph.reasons[3]
        == "2 of 6 channels: it is tied to a channel that cannot be cut: it has no batch norm, so no gamma"
    )


def test_groups_of_a_grouped_route_keep_equal_counts(families):
    model = trained(families["yolov4-tiny"])
    _, _, surgery = masked_and_compact(model, 0.6)
    for layer_i, section in enumerate(surgery.module_defs[1:]):
        if section["type"] == "route" and section.get("groups"):
            kept = surgery.kept[layer_i - 1]
            half = len(model.module_list[layer_i - 1][1].weight) // 2
            assert torch.equal(kept[kept < half], kept[kept >= half] - half)


# ---- scores, threshold, limit

def test_threshold_cuts_the_share_asked_for_a_group_once_per_member(families):
    model = trained(families["yolov3"], zero_share=0.0)
    graph, cut = cut_of(model, 0.5)
    masks = cut.masks(graph)
    gone = sum(int((~masks[i]).sum()) for i in graph.prunable)
    assert abs(gone / sum(len(masks[i]) for i in graph.prunable) - 0.5) < 0.01


@given(st.lists(st.floats(0, 4, width=32), min_size=1, max_size=60), st.floats(0, 0.999))
def test_threshold_is_the_sorted_score_at_the_share(values, percent):
    scores = torch.tensor(values, dtype=torch.float64)
    expected = sorted(values)[int(len(values) * percent)]
    assert global_threshold(scores, torch.ones(len(values), dtype=torch.long), percent) == expected


def test_ties_and_the_limit_do_not_fail(tiny_cfg):
    model = Darknet(tiny_cfg)  # all gammas 1
    graph = channel_graph(model.module_defs)
    scores, members = group_scores("gamma", model, graph), member_count(graph)
    assert percent_limit(graph, scores, members) == (1.0, 0.0)
    assert cut_of(model, 0.9)[1].keep.all()


def test_an_exact_zero_is_cut_whatever_the_threshold_and_a_layer_keeps_one():
    assert obtain_bn_mask(torch.tensor([0.0, 0.1, -0.2]), 0.0).tolist() == [False, True, True]


def test_above_the_limit_every_layer_keeps_its_best_channel(tiny_cfg):
    model = trained(tiny_cfg)
    neck = place(TINY, "neck")
    model.module_list[neck][1].weight.data[:] = 0
    model.module_list[neck][1].weight.data[5] = 1e-6
    graph, cut = cut_of(model, 0.9)
    assert neck in cut.rescued and cut.masks(graph)[neck].nonzero().flatten().tolist() == [5]
    masked, compact, _ = masked_and_compact(model, 0.9)
    assert worst(masked, compact) < 1e-12


@pytest.mark.parametrize("percent", [-0.1, 1.0])
def test_percent_out_of_range_is_refused(percent):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        global_threshold(torch.ones(3), torch.ones(3, dtype=torch.long), percent)


def test_the_floor_of_the_reference_rule_is_that_of_its_cfg():
    """One channel in every layer that skip may prune still leaves 6.40 M parameters and 3.37 GMACs; group goes far
    below."""
    defs = parse_model_config(ROOT / "config" / "yolov3-hand.cfg")
    floors = {}
    for strategy in ("skip", "group"):
        graph = channel_graph(defs, strategy)
        least = [section.copy() for section in defs]
        for i in graph.prunable:
            least[1 + i]["filters"] = "1"
        floors[strategy] = total_cost(least)
    assert floors["skip"].parameters == pytest.approx(6.40e6, rel=2e-3) and floors["skip"].macs == pytest.approx(
        3.37e9, rel=2e-3
    )
    assert floors["group"].parameters < 10_000


# ---- exact removal

@pytest.mark.parametrize("strategy", ["group", "skip"])
@pytest.mark.parametrize("base", FAMILIES)
def test_compact_equals_masked_everywhere_and_again_after_a_second_pruning(families, base, strategy):
    model = trained(families[base])
    masked, compact, surgery = masked_and_compact(model, 0.6, strategy)
    assert worst(masked, compact) < 1e-9
    assert total_cost(surgery.module_defs).parameters == sum(p.numel() for p in compact.parameters())
    again, smaller, _ = masked_and_compact(compact, 0.3, strategy)
    assert worst(again, smaller) < 1e-9
    assert (
        sum(p.numel() for p in smaller.parameters())
        < sum(p.numel() for p in compact.parameters())
        < sum(p.numel() for p in model.parameters())
    )


@pytest.mark.parametrize("base", FAMILIES)
def test_compact_equals_masked_in_float32(families, base):
    masked, compact, _ = masked_and_compact(trained(families[base], dtype=torch.float32), 0.6)
    assert worst(masked, compact) < 1e-4


# {name: (layers, what stands in their braces)}
NETS = {"mixed": (MIXED, {}), "resnet": (RESNET, {}), "foreign": (FOREIGN, {}), "odd, sam": (ODD, {"joins": SAM}),
        "odd, added": (ODD, {"joins": ADD})}


def text_of(net, act):
    layers, words = NETS[net]
    return cfg_text(layers, act=act, **words)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("act", ["leaky", "relu", "relu6", "mish", "swish", "logistic", "linear"])
def test_every_layer_type_and_activation_is_exact_twice_and_in_float32(tmp_path, net, act):
    (tmp_path / "m.cfg").write_text(text_of(net, act))
    model = trained(tmp_path / "m.cfg")
    masked, compact, surgery = masked_and_compact(model, 0.5)
    assert worst(masked, compact, (64, 96)) < 1e-9
    assert "carrier" in surgery.carried.values()
    again, smaller, _ = masked_and_compact(compact, 0.3)
    assert (
        worst(again, smaller, (64, 96)) < 1e-9
        and total_cost(smaller.module_defs).parameters < total_cost(compact.module_defs).parameters
    )
    masked, compact, _ = masked_and_compact(model.float(), 0.5)
    assert worst(masked, compact, (64, 96)) < 1e-4


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_every_activation_is_exact(tmp_path, act):
    (tmp_path / "m.cfg").write_text(text_of("odd, added", act))
    masked, compact, surgery = masked_and_compact(trained(tmp_path / "m.cfg"), 0.5)
    assert worst(masked, compact, (64, 64), 1) < 1e-9 and "carrier" in surgery.carried.values()


def test_a_shortcut_of_unequal_widths_ties_what_it_adds_and_no_more(tmp_path):
    (tmp_path / "m.cfg").write_text(cfg_text(PARTIAL, side=32))
    graph = channel_graph(parse_model_config(tmp_path / "m.cfg"))
    out = {name: graph.outputs[place(PARTIAL, name)] for name in PARTIAL if name not in ("raw", "head")}
    assert torch.equal(out["six"][:4], out["four"]) and torch.equal(out["four"], out["nine"][:4])
    assert len(set(out["six"][4:]) | set(out["four"]) | set(out["nine"][4:])) == 2 + 4 + 5  # the others are free
    assert torch.equal(out["first"], out["four"]) and torch.equal(out["second"], out["nine"])
    assert graph.prunable == [place(PARTIAL, name) for name in ("six", "four", "nine", "eight")]


def test_a_carrier_among_the_channels_that_no_shortcut_adds_speaks(tmp_path):
    """All that is cut of `nine` lies beyond what is added, and a padded convolution reads it."""
    (tmp_path / "m.cfg").write_text(cfg_text(PARTIAL, side=32))
    model = trained(tmp_path / "m.cfg", zero_share=0.0)
    nine = place(PARTIAL, "nine")
    model.module_list[nine][1].weight.data[5:8] = 0
    masked, compact, surgery = masked_and_compact(model, 0.0)
    assert surgery.carriers == {nine: 1} and worst(masked, compact, (32, 32)) < 1e-12


def test_removing_blocks_leaves_shortcuts_of_unequal_widths_alone(tmp_path):
    (tmp_path / "m.cfg").write_text(cfg_text(PARTIAL, side=32))
    assert residual_blocks(parse_model_config(tmp_path / "m.cfg")) == []


def test_a_reorg3d_hands_every_channel_on_in_each_of_its_places(tmp_path):
    (tmp_path / "m.cfg").write_text(cfg_text(FOREIGN))
    graph = channel_graph(parse_model_config(tmp_path / "m.cfg"))
    ten, spread = place(FOREIGN, "ten"), place(FOREIGN, "spread")
    assert torch.equal(graph.outputs[spread], graph.outputs[ten].tile(4)) and ten in graph.prunable


@settings(max_examples=40, deadline=None)
@given(
    net=st.sampled_from(sorted(NETS)),
    seed=st.integers(0, 10**6),
    percent=st.floats(0, 0.95),
    zero_share=st.floats(0, 0.9),
    act=st.sampled_from(["leaky", "mish", "relu"]),
)
def test_any_cut_of_the_mixed_nets_is_exact(tmp_path_factory, net, seed, percent, zero_share, act):
    cfg = tmp_path_factory.mktemp("mixed") / "m.cfg"
    cfg.write_text(text_of(net, act))
    masked, compact, _ = masked_and_compact(trained(cfg, seed, zero_share), percent)
    assert worst(masked, compact, (64, 64), 1) < 1e-9


def test_odd_ties_are_those_of_their_layers(tmp_path):
    (tmp_path / "m.cfg").write_text(text_of("odd, sam", "leaky"))
    graph = channel_graph(parse_model_config(tmp_path / "m.cfg"))
    out = {name: graph.outputs[place(ODD, name)] for name in ODD}
    for other in ("linear", "narrow"):  # all three inputs of the shortcuts
        assert torch.equal(out["stem"], out[other])
    assert torch.equal(out["wider"], out["depthwise"])
    # two outputs per input, side by side
    assert torch.equal(out["doubled"], out["three"].repeat_interleave(2))
    assert torch.equal(out["wide"], out["doubled"])  # sam multiplies place by place
    assert torch.equal(out["wide"][:8], out["wide"][8:])  # and so the halves of each input of the grouped route
    free = {place(ODD, name) for name in ("plain", "thin", "raw", "fine")}
    assert free == set(graph.reasons) - set(graph.prunable)


def test_nets_that_others_trained_are_pruned_exactly_twice_and_in_float32(shared):
    for path in (shared / "darknet_pairs").glob("*/*.cfg"):
        model = Darknet(path).double().eval()
        model.load_darknet_weights(next(path.parent.glob("*.weights")))
        for strategy in ("group", "skip"):
            masked, compact, _ = masked_and_compact(model, 0.5, strategy)
            assert worst(masked, compact, (160, 192), 1) < 1e-9
            again, smaller, _ = masked_and_compact(compact, 0.3, strategy)
            assert worst(again, smaller, (160, 192), 1) < 1e-9
        masked, compact, _ = masked_and_compact(model.float(), 0.5)
        assert worst(masked, compact, (160, 192), 1) < 1e-4


def test_without_carriers_the_border_is_wrong_and_the_inside_right(tmp_path):
    """What the reference does: the constant folded into the bias of a padded 3x3 convolution."""
    (tmp_path / "b.cfg").write_text(
        "[net]\nwidth=32\nheight=32\nchannels=3\n"
        "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=1\nactivation=leaky\n"
        "[convolutional]\nfilters=6\nsize=3\npad=1\nactivation=linear\n[yolo]\nmask=0\nanchors=9,9\nclasses=1\nnum=1\n"
    )
    model = trained(tmp_path / "b.cfg")
    image = torch.rand(1, 3, 32, 32).double()
    results = {}
    for fold in ("exact", "bias"):
        masked, compact, surgery = masked_and_compact(model, 0.5, fold=fold)
        with torch.no_grad():
            results[fold] = (masked.raw_maps(image)[0] - compact.raw_maps(image)[0]).abs()
    assert results["exact"].max() < 1e-12
    inside, border = results["bias"][..., 1:-1, 1:-1].max(), results["bias"].max()
    assert inside < 1e-12 and border > 0.01


def test_arguments_stay_untouched(tiny_cfg):
    model = trained(tiny_cfg)
    defs, state = [dict(s) for s in model.module_defs], {k: v.clone() for k, v in model.state_dict().items()}
    masked_and_compact(model, 0.6)
    assert model.module_defs == defs and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_carriers_stay_silent_under_training(tiny_cfg):
    """Fine-tuning cannot wake a carrier: its gamma and kernel get no gradient."""
    _, compact, surgery = masked_and_compact(trained(tiny_cfg, dtype=torch.float32), 0.6)
    assert surgery.carriers
    compact.train()
    sum(raw.square().mean() for raw in compact.raw_maps(torch.rand(2, 3, 64, 64))).backward()
    for layer_i in surgery.carriers:
        conv, bn = compact.module_list[layer_i][0], compact.module_list[layer_i][1]
        silent = (bn.weight == 0) & (conv.weight.abs().sum((1, 2, 3)) == 0)
        assert silent.any() and not bn.weight.grad[silent].any() and not conv.weight.grad[silent].any()
