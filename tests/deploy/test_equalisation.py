"""What 8-bit numbers cost a net whose channels are of unlike size, or constant, and what scaling them saves."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import trained, worst
from models import Darknet
from nets import FOREIGN, MIXED, ODD, SAM, TINY, TINY_YOLO, cfg_text, place
from utils.batch_norm import recalibrate
from utils.deploy import quantisation
from utils.deploy.equalisation import costly_layers, equalised
from utils.deploy.formats import FORMATS, Order, describe
from utils.deploy.quantisation import Limits, Pictures
from utils.deploy.runtimes import open_exported
from utils.deploy.scales import channels_of
from utils.deploy.sensitivity import one_layer_quantised
from utils.pruning.channel_graph import channel_graph
from utils.pruning.surgery import compact_net

SIZE = (64, 64)


def soft_pictures(count, seed=0):
    """(count, 3, 64, 64) in which neighbours are alike, as in photographs."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")


def pruned(text, tmp_path, constant, seed=0):
    """A net whose every second channel was removed after it had emitted `constant`, statistics those of its pictures;
    and how many carriers it has."""
    path = tmp_path / "net.cfg"
    path.write_text(text)
    net = trained(path, seed, zero_share=0.0, dtype=torch.float32)
    graph = channel_graph(net.module_defs)
    keep = torch.ones(len(graph.frozen), dtype=torch.bool)
    for layer_i in graph.prunable:
        keep[graph.outputs[layer_i].unique()[1::2]] = False
    for layer_i, _, norm in net.convolutions():
        if norm is not None:
            gone = ~keep[graph.outputs[layer_i]]
            norm.weight.data[gone], norm.bias.data[gone] = 0, constant
    recalibrate(net, [((255 * soft_pictures(16, 1)).to(torch.uint8), None)])
    surgery = compact_net(net.module_defs, net.state_dict(), graph, keep)
    slim = Darknet(surgery.module_defs).eval()
    slim.load_state_dict(surgery.state)
    return slim, sum(surgery.carriers.values())


def without_carriers(net):
    """A copy whose constant channels are silent, statistics taken anew."""
    plain = Darknet(net.module_defs).eval()
    plain.load_state_dict(net.state_dict())
    for _, conv, norm in plain.convolutions():
        if norm is not None:
            norm.bias.data[(conv.weight == 0).flatten(1).all(1)] = 0
    recalibrate(plain, [((255 * soft_pictures(16, 1)).to(torch.uint8), None)])
    return plain


@torch.inference_mode()
def error_in_8_bits(net, in_float=()):
    """Of the raw maps, every convolution but those `in_float` in 8 bits: against what differs between pictures, means
    of channels corrected as the quantiser does it."""
    net, images = net.optimize(), soft_pictures(6, 2)
    expected = [raw.clone() for raw in net.raw_maps(images)]
    with ExitStack() as stack:
        for layer_i, conv, _ in net.convolutions():
            if layer_i not in in_float:
                stack.enter_context(one_layer_quantised(conv))
        found = net.raw_maps(images)
    off = [(a - b) - (a - b).mean((0, 2, 3), keepdim=True) for a, b in zip(expected, found)]
    signal = [a - a.mean(0) for a in expected]
    return sum((a.square().mean() / b.square().mean()).sqrt().item() for a, b in zip(off, signal)) / len(off)


@pytest.mark.parametrize("act", ["leaky", "mish", "swish"])
def test_large_constants_cost_8_bits_no_more_than_the_same_net_loses_without_them(tmp_path, act):
    as_is, made_ready, silent = 1.0, 1.0, 1.0  # products over nets
    for seed in range(4):
        net, carriers = pruned(cfg_text(TINY, act=act), tmp_path, 3.0, seed)
        assert carriers >= 3
        even = equalised(net, soft_pictures(6))
        assert worst(net, even, SIZE) < 1e-5
        as_is *= error_in_8_bits(net)
        made_ready *= error_in_8_bits(even, costly_layers(even, soft_pictures(6)))
        silent *= error_in_8_bits(without_carriers(net))
    assert made_ready <= 1.1**4 * silent and as_is > 1.5**4 * silent, "they would, left as they are"


@pytest.mark.parametrize("layers", [MIXED, ODD, FOREIGN], ids=["mixed", "odd", "foreign"])
@pytest.mark.parametrize("act", ["leaky", "mish"])
def test_an_equalised_net_is_the_same_net_whatever_its_layers(tmp_path, layers, act):
    net, _ = pruned(cfg_text(layers, act=act, joins=SAM), tmp_path, 3.0)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    even = equalised(net, soft_pictures(2))
    assert worst(net, even, SIZE) < 1e-4
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def unevenly_scaled(net, seed):
    """An equal of a net of leaky convolutions in a row, each channel between two of them up to 64 times as large or as
    small."""
    net = net.optimize()
    convs = [conv for _, conv, _ in net.convolutions()]
    rng = torch.Generator().manual_seed(seed)
    for conv, reader in zip(convs, convs[1:]):
        factors = 2.0 ** torch.randint(-6, 7, (conv.out_channels,), generator=rng)
        conv.weight.data *= factors[:, None, None, None]
        conv.bias.data *= factors
        reader.weight.data /= factors[:, None, None]
    return net


ROW = "".join(f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize=3\nstride={stride}\npad=1\n"
              "activation=leaky\n" for filters, stride in ((8, 2), (16, 2), (16, 1), (24, 2), (16, 1)))
HEAD = ("[convolutional]\nfilters=18\nsize=1\nstride=1\npad=1\nactivation=linear\n"
        "[yolo]\nmask=0,1,2\nanchors=8,8,16,16,32,32\nclasses=1\nnum=3\n")


def test_a_net_of_unevenly_scaled_channels_loses_no_more_than_before_it_was_scaled(tmp_path):
    (tmp_path / "net.cfg").write_text("[net]\nwidth=64\nheight=64\nchannels=3\n" + ROW + HEAD)
    uneven, even, before = 1.0, 1.0, 1.0  # products over nets
    for seed in range(4):
        net = trained(tmp_path / "net.cfg", seed, zero_share=0.0, dtype=torch.float32)
        scaled = unevenly_scaled(net, seed)
        again = equalised(scaled, soft_pictures(6))
        assert worst(net, scaled, SIZE) < 1e-4 and worst(net, again, SIZE) < 1e-4
        before *= error_in_8_bits(net)
        uneven *= error_in_8_bits(scaled)
        even *= error_in_8_bits(again)
    assert even <= 1.1**4 * before and uneven > 3.0**4 * before, "it would, left as it is"


def test_a_net_without_constants_has_no_costly_layer(tmp_path):
    (tmp_path / "net.cfg").write_text(TINY_YOLO)
    net = trained(tmp_path / "net.cfg", zero_share=0.0, dtype=torch.float32)
    even = equalised(net, soft_pictures(2))
    assert worst(net, even, SIZE) < 1e-5 and costly_layers(even, soft_pictures(2)) == []


def test_what_a_shortcut_adds_keeps_one_scale(tiny_cfg):
    defs = Darknet(tiny_cfg).module_defs
    nothing = {i: torch.zeros(int(section.get("filters", 0)), dtype=torch.bool)
               for i, section in enumerate(defs[1:]) if section["type"] == "convolutional"}
    added = [place(TINY, name) for name in ("half", "expand")]
    one = {**nothing, added[0]: torch.arange(16) == 5}
    both = {**one, added[1]: torch.arange(16) == 5}
    for constant, free in ((one, False), (both, True)):
        found = channels_of(defs, SIZE, constant)
        roots = {found.root(found.makers[layer_i, 5]) for layer_i in added}
        assert len(roots) == 1 and (roots.pop() not in found.fixed) == free


def test_layers_that_a_constant_would_coarsen_stay_in_float_in_the_file(tmp_path):
    for package in ("openvino", "nncf"):
        pytest.importorskip(package)
    net, _ = pruned(TINY_YOLO, tmp_path, 20.0)
    images = [((255 * image).to(torch.uint8), None) for image in soft_pictures(8)]
    pictures = Pictures(images, images, 8)
    even = equalised(net, pictures.sample(3))
    costly = costly_layers(even, pictures.sample(3))
    assert costly
    metadata = replace(describe(net, "openvino", Order(None, SIZE, "int8", None)), precision="float32", free_size=False)
    FORMATS["openvino"].write(even, tmp_path / "net.xml", metadata)
    reference = open_exported(tmp_path / "net.xml")
    score = lambda self, file: type("Score", (), {"map50": 0.5, "map": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "score", score)
        path = tmp_path / "small.xml"
        made = quantisation.quantise(even, reference, path, pictures, Limits(1.0, True), path)
    assert list(made.in_float) == costly
    text = path.read_text()
    for layer_i in costly:  # neither its kernel nor its input is in 8 bits
        assert f"module_list.{layer_i}.conv_{layer_i}" in text
        assert f"conv_{layer_i}/aten::_convolution/Convolution/fq_weights" not in text
    assert "fq_weights" in text
