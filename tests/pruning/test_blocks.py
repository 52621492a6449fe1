"""Residual blocks: which there are, and a net without them."""

import pytest
import torch

from conftest import ROOT, trained, worst
from models import Darknet
from nets import ODD, SAM, cfg_text, place
from utils.parse_config import parse_model_config
from utils.pruning import importance
from utils.pruning.blocks import remove_blocks, residual_blocks, silenced_state, weakest_blocks
from utils.pruning.channel_graph import channel_graph
from utils.pruning.importance import block_scores, summed_over_blocks, summed_over_groups


def test_residual_blocks_of_yolov3_and_none_of_tiny():
    assert len(residual_blocks(parse_model_config(ROOT / "config" / "yolov3-hand.cfg"))) == 23
    assert not residual_blocks(parse_model_config(ROOT / "config" / "yolov3-tiny-hand.cfg"))


def test_a_block_may_hold_dropout_and_nothing_else_may_read_its_branch(tmp_path):
    (tmp_path / "m.cfg").write_text(cfg_text(ODD, joins=SAM))
    model = trained(tmp_path / "m.cfg")
    block, = residual_blocks(model.module_defs)
    assert (block.stream, block.last, block.shortcut) == tuple(place(ODD, name) for name in ("stem", "linear", "block"))
    defs, state = remove_blocks(model.module_defs, model.state_dict(), [block])
    silent, shallow = (Darknet(net).double().eval() for net in (model.module_defs, defs))
    silent.load_state_dict(silenced_state(model.state_dict(), [block]))
    shallow.load_state_dict(state)
    assert worst(silent, shallow, (64, 64)) < 1e-9
    read = [section.copy() for section in model.module_defs]
    read[1 + place(ODD, "three")]["from"] = str(place(ODD, "linear"))  # inside the branch
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


def test_what_a_block_and_a_group_take_with_them_is_summed_over_their_channels(tiny_cfg):
    model = trained(tiny_cfg)
    graph, (block,) = channel_graph(model.module_defs), residual_blocks(model.module_defs)
    gamma = model.module_list[block.last][1].weight.data
    gamma.zero_()[-2:] = 1
    assert summed_over_blocks("gamma", model, graph, [block]).tolist() == [2]
    members, scores = importance.member_count(graph), torch.rand(len(importance.member_count(graph)))
    assert torch.equal(summed_over_groups("gamma", graph, scores), scores.square() * members)
    assert torch.equal(summed_over_groups("taylor", graph, scores), scores.square())  # of all members at once


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
