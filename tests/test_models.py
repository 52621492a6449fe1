"""Networks: every layer type against an independent reference, heads against the formulas, shapes and errors."""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch

from conftest import ROOT, randomise
from models import Darknet, LocalAvgPool, MaxPool, Reorg3d, Shortcut
from nets import FOREIGN, YOLO, cfg_text, convolution, place
from utils import shapes
from utils.layers import ACTIVATIONS, activation
from utils.parse_config import parse_model_config
from utils.text import CfgError
from utils.shapes import largest_stride, layer_costs, layer_shapes, total_cost

EXOTIC = """
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
activation=relu6
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
padding=2
groups=4
activation=swish
[maxpool]
size=5
stride=1
[maxpool]
size=2
stride=1
[convolutional]
batch_normalize=1
filters=16
size=2
stride=2
activation=mish
[route]
layers=-1
groups=2
group_id=1
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
groups=8
activation=relu
[shortcut]
from=-2
activation=leaky
[dropout]
probability=.3
[avgpool]
[convolutional]
filters=8
size=1
activation=logistic
[scale_channels]
from=-3
[upsample]
stride=2
[route]
layers=-1, 4
[reorg]
stride=2
[convolutional]
filters=12
size=1
stride=1
activation=linear
[region]
anchors=1,2, 3,4
classes=1
num=2
softmax=1
"""


def opencv_raw(cfg, weights, blob, model):
    """Outputs of the convolutions before the heads, by OpenCV's own Darknet reader."""
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setInput(blob)
    return net.forward([f"conv_{i - 1}" for i in model.head_layers()])


def assert_equals_opencv(cfg, weights, blob):
    model = Darknet(cfg).eval()
    model.load_darknet_weights(weights)
    with torch.no_grad():
        raws = model.raw_maps(torch.from_numpy(blob))
    for ours, theirs in zip(raws, opencv_raw(cfg, weights, blob, model)):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-4 * np.abs(theirs).max()


def photographs(shared, width, height, count=2):
    paths = sorted((shared / "darknet_pairs" / "images").glob("*.jpg"))[:count]
    images = [cv2.resize(cv2.imread(str(path))[:, :, ::-1], (width, height)) for path in paths]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.mark.parametrize("size", [(416, 416), (320, 256)], ids=str)
def test_nets_that_others_trained_equal_opencv_on_photographs(shared, size):
    for cfg in sorted((shared / "darknet_pairs").glob("*/*.cfg")):
        assert_equals_opencv(cfg, next(cfg.parent.glob("*.weights")), photographs(shared, *size))


def random_weights(cfg, path, seed=0):
    torch.manual_seed(seed)
    model = Darknet(cfg)
    randomise(model, 0.0)
    model.save_darknet_weights(path)


@pytest.mark.parametrize(
    "name, size", [("yolov3-hand.cfg", 416), ("yolov3-tiny-hand.cfg", 416), ("yolov3-hand-w25.cfg", 256)]
)
def test_our_random_weights_equal_opencv(tmp_path, name, size):
    random_weights(ROOT / "config" / name, tmp_path / "r.weights")
    blob = np.random.default_rng(0).random((2 if "w25" in name else 1, 3, size, size), np.float32)
    assert_equals_opencv(ROOT / "config" / name, tmp_path / "r.weights", blob)


def test_full_size_net_equals_opencv_on_a_photograph(shared, tmp_path):
    random_weights(ROOT / "config" / "yolov3-hand.cfg", tmp_path / "r.weights")
    assert_equals_opencv(ROOT / "config" / "yolov3-hand.cfg", tmp_path / "r.weights", photographs(shared, 320, 256, 2))


@pytest.mark.parametrize("keep", [7, 10])
def test_exotic_layers_equal_opencv(tmp_path, keep):
    """Prefixes of a net with every layer type that OpenCV reads; its outputs compared layer by layer at the cut."""
    blocks = EXOTIC.strip().split("\n[")
    cfg = tmp_path / "exotic.cfg"
    cfg.write_text(
        "\n[".join(blocks[: keep + 1]).replace("relu6", "leaky")
        + "\n[convolutional]\nfilters=7\nsize=1\nactivation=linear\n"
    )
    torch.manual_seed(1)
    model = Darknet(cfg).eval()
    randomise(model, 0.0)
    model.save_darknet_weights(tmp_path / "e.weights")
    blob = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(tmp_path / "e.weights"))
    net.setInput(blob)
    theirs = net.forward()
    outputs = []
    model.module_list[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        model.raw_maps(torch.from_numpy(blob))
    assert np.abs(outputs[0].numpy() - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_reorg_follows_darknets_loops():
    from models import Reorg

    B, C, H, W, s = 2, 8, 4, 6, 2
    x = torch.randn(B, C, H, W)
    flat, out = x.flatten().tolist(), [0.0] * x.numel()
    oc = C // (s * s)
    for b in range(B):  # reorg_cpu of darknet's blas.c, forward = 0
        for k in range(C):
            for j in range(H):
                for i in range(W):
                    c2, offset = k % oc, k // oc
                    w2, h2 = i * s + offset % s, j * s + offset // s
                    out[i + W * (j + H * (k + C * b))] = flat[w2 + W * s * (h2 + H * s * (c2 + oc * b))]
    assert torch.equal(Reorg(s)(x).flatten(), torch.tensor(out))


@pytest.mark.parametrize("size, stride, side", [(2, 2, 13), (2, 2, 26), (2, 1, 13), (5, 1, 10), (9, 1, 10), (3, 2, 11)])
def test_maxpool_equals_a_plain_loop(size, stride, side):
    from models import MaxPool

    x = torch.randn(1, 2, side, side)
    padding, out = size - 1, MaxPool(size, stride, size - 1)(x)
    count = (side + padding - size) // stride + 1
    assert out.shape[2:] == (count, count)
    for row in range(count):
        for column in range(count):
            top, left = row * stride - padding // 2, column * stride - padding // 2
            window = x[:, :, max(top, 0):top + size, max(left, 0):left + size]
            assert torch.equal(out[:, :, row, column], window.amax((2, 3)))


def test_sam_and_scale_channels_multiply(tmp_path):
    cfg = tmp_path / "s.cfg"
    cfg.write_text(
        "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=4\nsize=1\nactivation=linear\n"
        "[convolutional]\nfilters=4\nsize=1\nactivation=logistic\n"
        "[sam]\nfrom=-2\n[avgpool]\n[scale_channels]\nfrom=-2\n"
    )
    model = Darknet(cfg).eval()
    x = torch.rand(2, 3, 32, 32)
    seen = []
    model.module_list[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.raw_maps(x)
    a, b = model.module_list[0](x), model.module_list[1](model.module_list[0](x))
    assert torch.allclose(seen[0], a * b * (a * b).mean((2, 3), keepdim=True))


FORMULAS = {  # as Darknet's activations.c writes them, for one number
    "linear": lambda x: x, "logistic": lambda x: 1 / (1 + math.exp(-x)), "loggy": lambda x: 2 / (1 + math.exp(-x)) - 1,
    "relu": lambda x: x * (x > 0), "relu6": lambda x: min(max(x, 0), 6),
    "elu": lambda x: x if x >= 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507 * x if x >= 0 else 1.0507 * 1.6732 * (math.exp(x) - 1),
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x ** 3)),
    "relie": lambda x: x if x > 0 else 0.01 * x,
    "ramp": lambda x: x * (x > 0) + 0.1 * x, "leaky": lambda x: x if x > 0 else 0.1 * x,
    "revleaky": lambda x: x if x > 0 else 0.1 * x,
    "tanh": lambda x: 2 / (1 + math.exp(-2 * x)) - 1, "mish": lambda x: x * math.tanh(math.log(math.exp(x) + 1)),
    "swish": lambda x: x / (1 + math.exp(-x)), "hard_mish": lambda x: x if x > 0 else x * x / 2 + x if x > -2 else 0,
    "plse": lambda x: 0.01 * (x + 4) if x < -4 else 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5,
    "stair": lambda x: math.floor(x / 2) if math.floor(x) % 2 == 0 else x - math.floor(x) + math.floor(x / 2),
    "hardtan": lambda x: min(max(x, -1), 1),
    "lhtan": lambda x: 0.001 * x if x < 0 else 0.001 * (x - 1) + 1 if x > 1 else x}
FORMULAS["silu"] = FORMULAS["swish"]
FORMULAS |= dict.fromkeys(("h_sigmoid", "hard_sigmoid"), lambda x: min(max(x + 3, 0), 6) / 6)
FORMULAS |= dict.fromkeys(("h_swish", "hswish", "hard_swish"), lambda x: x * min(max(x + 3, 0), 6) / 6)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_follow_their_formulas_and_the_table_says_which_are_homogeneous(name):
    x = torch.linspace(-9.1, 8.9, 361, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](value) for value in x.tolist()], dtype=torch.float64)
    function, module = ACTIVATIONS[name].function, activation(name)
    before = x.clone()
    assert torch.allclose(function(x), expected, atol=1e-5) and torch.equal(x, before)
    assert torch.equal(module(x.clone()), function(x))
    assert ACTIVATIONS[name].homogeneous == torch.allclose(function(7.3 * x), 7.3 * function(x))


def test_a_convolution_without_its_keys_has_darknets_defaults(tmp_path):
    (tmp_path / "a.cfg").write_text(
        "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=4\n[maxpool]\n[maxpool]\nstride=2\n"
        "[upsample]\n[shortcut]\nfrom=0\n[convolutional]\nfilters=75\nactivation=linear\n[yolo]\nanchors=1,2,3,4,5,6\n"
    )
    model = Darknet(tmp_path / "a.cfg")
    conv, act = model.module_list[0]
    assert conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.bias is not None
    assert isinstance(act, torch.nn.Sigmoid) and isinstance(model.module_list[4].act, torch.nn.Identity)
    assert layer_shapes(model.module_defs)[:5] == [(4, 32, 32), (4, 32, 32), (4, 16, 16), (4, 32, 32), (4, 32, 32)]
    assert model.heads()[0].classes == 20 and len(model.heads()[0].anchors) == 3


@pytest.mark.parametrize("channels", [2, 4, 7])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_shortcut_of_a_larger_map_adds_darknets_cells(channels, step):
    """The loops of darknet's shortcut_cpu: width by width, stride = w1 / w2, the smaller channel count."""
    first, other = torch.randn(2, 4, 3, 5), torch.randn(2, channels, 3 * step, 5 * step)
    expected = first.clone()
    for b, k, j, i in itertools.product(range(2), range(min(channels, 4)), range(3), range(5)):
        expected[b, k, j, i] += other[b, k, j * step, i * step]
    assert torch.equal(Shortcut("linear")(first, other), expected)


@pytest.mark.parametrize("first, other", [((24, 24), (50, 50)), ((24, 24), (48, 24)), ((24, 24), (12, 12))])
def test_shortcut_of_any_other_size_is_an_error(first, other):
    section = {"type": "shortcut", "from": "-2", "activation": "linear"}
    with pytest.raises(CfgError, match="larger by a whole factor"):
        shapes._shortcut(section, [(8, *first), (8, *other)], "a.cfg:9: layer 3")


def forward_of(text, tmp_path, x, seed=0):
    """Output of the last layer of a cfg with random weights, and its model."""
    (tmp_path / "a.cfg").write_text(text)
    torch.manual_seed(seed)
    model = Darknet(tmp_path / "a.cfg").to(x.dtype).eval()
    randomise(model, 0.0)
    seen = []
    model.module_list[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model.raw_maps(x)
    return seen[0].numpy(), model


PLAIN = "[net]\nwidth=32\nheight=32\nchannels=3\n"


@pytest.mark.parametrize("widths", [(8, 12), (12, 8), (8, 8)], ids=str)
@pytest.mark.parametrize("act", ["linear", "leaky"])
def test_shortcuts_of_unequal_widths_equal_opencv(tmp_path, widths, act):
    conv = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\npad=1\nactivation=leaky\n"
    x = torch.rand(2, 3, 32, 32)
    shortcut = f"[shortcut]\nfrom=-2\nactivation={act}\n"
    text = PLAIN + conv.format(widths[0]) + conv.format(widths[1]) + shortcut + conv.format(5)
    ours, model = forward_of(text, tmp_path, x)
    model.save_darknet_weights(tmp_path / "a.weights")
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "a.cfg"), str(tmp_path / "a.weights"))
    net.setInput(x.numpy())
    theirs = net.forward()
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_a_shortcut_adds_the_common_channels_and_passes_the_others_of_its_own_input(tmp_path):
    first, narrow, wide = (torch.randn(2, channels, 3, 4, dtype=torch.float64) for channels in (5, 2, 9))
    total = first.numpy().copy()
    for channel in range(5):
        total[:, channel] += wide[:, channel].numpy() + (narrow[:, channel].numpy() if channel < 2 else 0)
    assert np.allclose(Shortcut("linear")(first, wide, narrow).numpy(), total, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "keys",
    [
        "dilation=2\npad=1",
        "dilation=3\npad=1\nstride=2",
        "stride_x=2\nstride_y=1\npad=1",
        "stride=2\nstride_x=3\npadding=2",
        "groups=3\ndilation=2\npad=1",
        "size=1\ndilation=4",
    ],
)
def test_dilation_and_strides_equal_a_plain_loop(tmp_path, keys):
    """Darknet's im2col: pixels dilation apart, padding times the dilation; a size of 1 knows no dilation."""
    x = torch.randn(2, 3, 11, 10, dtype=torch.float64)
    text = f"[convolutional]\nfilters=6\nactivation=linear\n{keys}\n" + ("" if "size" in keys else "size=3\n")
    ours, model = forward_of(PLAIN + text, tmp_path, x)
    said = {key: int(value) for key, value in (line.split("=") for line in text.split("\n")[3:] if line)}
    size, groups = said["size"], said.get("groups", 1)
    step, dilation = said.get("stride", 1), said.get("dilation", 1) if size > 1 else 1
    down, right = said.get("stride_y", step), said.get("stride_x", step)
    pad = (size // 2 if said.get("pad") else said.get("padding", 0)) * dilation
    weight, bias = (parameter.detach().numpy() for parameter in model.module_list[0][0].parameters())
    reach = dilation * (size - 1) + 1
    for f, row, column in np.ndindex(6, (11 + 2 * pad - reach) // down + 1, (10 + 2 * pad - reach) // right + 1):
        total = np.full(2, bias[f])
        for c, i, j in np.ndindex(3 // groups, size, size):
            y, z = row * down - pad + i * dilation, column * right - pad + j * dilation
            if 0 <= y < 11 and 0 <= z < 10:
                total += weight[f, c, i, j] * x[:, f // (6 // groups) * (3 // groups) + c, y, z].numpy()
        assert np.allclose(ours[:, f, row, column], total, atol=1e-12)
    assert ours.shape[2:] == (row + 1, column + 1)


def test_dilation_that_darknet_itself_gets_wrong_is_refused(tmp_path):
    (tmp_path / "a.cfg").write_text(PLAIN + "[convolutional]\nfilters=6\nsize=3\ndilation=2\n")
    with pytest.raises(
        CfgError, match="found dilation=2 with size=3 and 0 pixels of padding, expected an odd size and"
    ):
        Darknet(tmp_path / "a.cfg")


@pytest.mark.parametrize("size, stride", [(3, (1, 1)), (2, (2, 2)), (5, (1, 1)), (3, (2, 1)), (2, (1, 3))])
@pytest.mark.parametrize("kind, mean", [(MaxPool, False), (LocalAvgPool, True)])
def test_pools_of_unequal_strides_and_means_equal_a_plain_loop(size, stride, kind, mean):
    x, padding = torch.randn(1, 2, 10, 13, dtype=torch.float64), size - 1
    out = kind(size, stride, padding)(x)
    rows, columns = ((side + padding - size) // step + 1 for side, step in zip((10, 13), stride))
    assert out.shape[2:] == (rows, columns)
    for row, column in np.ndindex(rows, columns):
        top, left = row * stride[0] - padding // 2, column * stride[1] - padding // 2
        window = x[:, :, max(top, 0):top + size, max(left, 0):left + size]  # what lies in the map: Darknet counts that
        assert torch.allclose(out[:, :, row, column], window.mean((2, 3)) if mean else window.amax((2, 3)))


def test_reorg3d_follows_alexeyabs_loops():
    B, C, H, W, s = 2, 5, 4, 6, 2
    x = torch.randn(B, C, H, W)
    flat, out = x.flatten().tolist(), [0.0] * x.numel()
    w, h, c = W // s, H // s, C * s * s  # of the output
    for b, k, j, i in np.ndindex(B, c, h, w):  # reorg_cpu called with the output's sizes, forward = 0
        c2, offset = k % C, k // C
        there = i * s + offset % s + w * s * (j * s + offset // s + h * s * (c2 + C * b))
        out[i + w * (j + h * (k + c * b))] = flat[there]
    assert torch.equal(Reorg3d(s)(x).flatten(), torch.tensor(out))


def test_scaled_upsampling_multiplies(tmp_path):
    x = torch.rand(1, 3, 4, 5)
    ours, model = forward_of(PLAIN + "[convolutional]\nfilters=2\n[upsample]\nstride=3\nscale=0.25\n", tmp_path, x)
    with torch.no_grad():
        assert np.allclose(ours, 0.25 * model.module_list[0](x).numpy().repeat(3, 2).repeat(3, 3))


def test_squeeze_and_excitation_equals_its_definition(tmp_path):
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    ours, model = forward_of(PLAIN + "[convolutional]\nfilters=8\nactivation=h_swish\n[se]\nreduction=2\n", tmp_path, x)
    one, two = (model.module_list[i][0] for i in (2, 3))
    with torch.no_grad():
        a = model.module_list[0](x).numpy()
    hidden = np.maximum(a.mean((2, 3)) @ one.weight.detach().numpy()[:, :, 0, 0].T + one.bias.detach().numpy(), 0)
    gate = hidden @ two.weight.detach().numpy()[:, :, 0, 0].T + two.bias.detach().numpy()
    assert np.allclose(ours, a * (np.clip(gate + 3, 0, 6) / 6)[:, :, None, None])


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_a_gaussian_head_lowers_scores_by_its_uncertainty(tmp_path, scale):
    (tmp_path / "a.cfg").write_text(PLAIN + "[convolutional]\nfilters=22\nactivation=linear\n"
                                    "[Gaussian_yolo]\nmask=2,1\nanchors=9,9, 10,14, 23,27\nnum=3\nclasses=2\n"
                                    f"scale_x_y={scale}\n")
    head = Darknet(tmp_path / "a.cfg").heads()[0]
    raw = torch.randn(2, 22, 2, 3)
    found = head.decode(raw, 3 * 8, 2 * 8)
    sigmoid = FORMULAS["logistic"]
    for n, (a, row, column) in enumerate(np.ndindex(2, 2, 3)):
        # x, its uncertainty, y, its uncertainty, ..., objectness, classes (gaussian_yolo_layer.c)
        t = raw[1, a * 11:(a + 1) * 11, row, column].tolist()
        certain = 1 - sum(sigmoid(t[i]) for i in (1, 3, 5, 7)) / 4
        anchor = [(23, 27), (10, 14)][a]
        x, y = (sigmoid(t[i]) * scale - (scale - 1) / 2 for i in (0, 2))
        expected = [(x + column) * 8, (y + row) * 8, math.exp(t[4]) * anchor[0], math.exp(t[6]) * anchor[1],
                    sigmoid(t[8]) * certain, sigmoid(t[9]), sigmoid(t[10])]
        assert found[1, n].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_an_untrained_gaussian_head_is_sure_of_nothing_but_its_places(tmp_path):
    (tmp_path / "a.cfg").write_text(cfg_text(FOREIGN))
    bias = Darknet(tmp_path / "a.cfg").module_list[place(FOREIGN, "raw")][0].bias.view(2, 10)
    assert bias[:, [1, 3, 5, 7, 8]].eq(-4.6).all() and not bias[:, [0, 2, 4, 6, 9]].any()


@pytest.mark.parametrize("options, act", [("", "linear"), ("new_coords=1\nscale_x_y=2.0\n", "logistic")])
def test_an_untrained_head_finds_an_object_in_one_cell_of_a_hundred(options, act, tmp_path):
    layers = {"stem": convolution(8, 3, stride=2), "raw": convolution(12, 1, normalised=0, act=act),
              "head": YOLO + options}
    (tmp_path / "net.cfg").write_text(cfg_text(layers))
    with torch.no_grad():
        objectness = Darknet(tmp_path / "net.cfg").eval()(torch.rand(2, 3, 64, 64))[..., 4]
    assert 0.005 < objectness.mean() < 0.02


def test_darknet_weights_of_foreign_layers_come_back(tmp_path):
    (tmp_path / "a.cfg").write_text(cfg_text(FOREIGN, act="mish"))
    torch.manual_seed(0)
    model, twin = Darknet(tmp_path / "a.cfg"), Darknet(tmp_path / "a.cfg")
    randomise(model)
    model.save_darknet_weights(tmp_path / "a.weights")
    assert twin.load_darknet_weights(tmp_path / "a.weights").kind == "full"
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters()))


@pytest.mark.parametrize("scale, new", [(1.0, 0), (1.05, 0), (2.0, 1)])
def test_decode_follows_the_formula_cell_by_cell(tmp_path, tiny_cfg, scale, new):
    text = tiny_cfg.read_text().replace("num=6", f"num=6\nscale_x_y={scale}\nnew_coords={new}")
    tiny_cfg.write_text(text)
    model = Darknet(tiny_cfg).eval()
    head = model.heads()[0]
    raw = torch.rand(2, 18, 3, 5)
    boxes = head.decode(raw, 5 * 8, 3 * 8)
    sigmoid = (lambda v: v) if new else (lambda v: 1 / (1 + math.exp(-v)))
    for n, (a, row, column) in enumerate((a, r, c) for a in range(3) for r in range(3) for c in range(5)):
        t = raw[1, a * 6:(a + 1) * 6, row, column].tolist()
        w, h = [(2 * v) ** 2 if new else math.exp(v) for v in t[2:4]]
        expected = [
            (sigmoid(t[0]) * scale - (scale - 1) / 2 + column) * 8,
            (sigmoid(t[1]) * scale - (scale - 1) / 2 + row) * 8,
            w * head.anchors[a, 0].item(),
            h * head.anchors[a, 1].item(),
            sigmoid(t[4]),
            sigmoid(t[5]),
        ]
        assert boxes[1, n].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_region_head_uses_anchors_in_cells_and_softmax(tmp_path):
    cfg = tmp_path / "exotic.cfg"
    cfg.write_text(EXOTIC.replace("classes=1", "classes=3").replace("filters=12", "filters=16"))
    head = Darknet(cfg).heads()[0]
    raw = torch.randn(1, 16, 2, 3)
    row = head.decode(raw, 3 * 16, 2 * 16)[0, 6 + 5].tolist()  # anchor 1, row 1, column 2
    t = raw[0, 8:, 1, 2].tolist()
    expected = [(1 / (1 + math.exp(-t[0])) + 2) * 16, (1 / (1 + math.exp(-t[1])) + 1) * 16, math.exp(t[2]) * 3 * 16,
                math.exp(t[3]) * 4 * 16, 1 / (1 + math.exp(-t[4]))]
    total = sum(math.exp(v) for v in t[5:])
    assert row == pytest.approx(expected + [math.exp(v) / total for v in t[5:]], rel=1e-5)


def test_train_mode_gives_raw_maps_and_eval_mode_boxes_in_cfg_order(tiny_cfg):
    model = Darknet(tiny_cfg)
    images = torch.rand(2, 3, 64, 96)
    raws = model.train()(images)
    assert [tuple(raw.shape) for raw in raws] == [(2, 18, 8, 12), (2, 18, 16, 24)]
    assert model.eval()(images).shape == (2, 3 * (8 * 12 + 16 * 24), 6)


def test_state_dict_keys_are_those_of_the_peers(tiny_cfg):
    keys = set(Darknet(tiny_cfg).state_dict())
    assert {
        "module_list.0.conv_0.weight",
        "module_list.0.batch_norm_0.running_mean",
        "module_list.7.conv_7.bias",
    } <= keys
    assert all(key.split(".")[2].startswith(("conv_", "batch_norm_")) for key in keys)


def test_module_defs_are_copied_not_edited(tiny_cfg):
    defs = parse_model_config(tiny_cfg)
    before = [dict(section) for section in defs]
    model = Darknet(defs)
    model.module_defs[1]["filters"] = "99"
    assert defs == before


def test_optimized_net_gives_the_same_and_leaves_the_original(tiny_cfg):
    torch.manual_seed(0)
    model = Darknet(tiny_cfg).eval()
    randomise(model)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        assert torch.allclose(model.optimize()(images), before, atol=1e-3, rtol=1e-4)
        assert torch.equal(model(images), before)
    assert not any("batch_norm" in key for key in model.optimize().state_dict())


def test_batched_equals_single(tiny_cfg):
    model = Darknet(tiny_cfg).eval()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(images), torch.cat([model(image[None]) for image in images]), atol=1e-4)


@pytest.mark.parametrize("name, parameters, macs", [("yolov3-hand.cfg", 61_523_734, 32.65e9)])
def test_costs_are_those_published_and_those_of_the_modules(name, parameters, macs):
    defs = parse_model_config(ROOT / "config" / name)
    cost = total_cost(defs)
    assert cost.parameters == parameters == sum(p.numel() for p in Darknet(defs).parameters())
    assert cost.macs == pytest.approx(macs, rel=1e-3)


def test_macs_equal_those_counted_by_hooks(tmp_path):
    cfg = tmp_path / "exotic.cfg"
    cfg.write_text(EXOTIC)
    model, counted = Darknet(cfg).eval(), {}
    for layer_i, conv, _ in model.convolutions():
        conv.register_forward_hook(lambda m, x, y, i=layer_i: counted.__setitem__(
            i, y[0].numel() * m.weight[0].numel()))
    model(torch.rand(1, 3, 64, 64))
    assert counted == {i: cost.macs for i, cost in enumerate(layer_costs(model.module_defs)) if cost.macs}


def test_a_net_that_is_loaded_next_draws_no_random_numbers(tiny_cfg):
    net, image = Darknet(tiny_cfg).eval(), torch.rand(1, 3, 64, 64)
    before = torch.get_rng_state()
    twin = Darknet(tiny_cfg, initialise=False).eval()
    assert torch.equal(before, torch.get_rng_state())
    twin.load_state_dict(net.state_dict())
    assert torch.equal(net(image), twin(image))


def test_largest_stride():
    assert largest_stride(parse_model_config(ROOT / "config" / "yolov3-hand.cfg")) == 32


def test_the_largest_stride_is_that_of_the_deepest_map_even_where_a_head_is_finer(tmp_path):
    conv = "[convolutional]\nfilters=6\nsize=3\npad=1\nstride={}\nactivation=linear\n"
    cfg, head = tmp_path / "a.cfg", "[yolo]\nmask=0\nanchors=9,9\nclasses=1\nnum=1\n"
    cfg.write_text("[net]\n" + conv.format(2) * 3 + "[upsample]\nstride=2\n" + conv.format(1) + head)
    assert largest_stride(parse_model_config(cfg)) == 8
    cfg.write_text("[net]\n[upsample]\nstride=2\n" + conv.format(1) + head)
    assert largest_stride(parse_model_config(cfg)) == 1


@pytest.mark.parametrize("old, new, words", [
    ("filters=18", "filters=21", "expected 18 = 3 anchors x"),
    ("layers=11,4", "layers=11,0", "expected one size"),
    ("filters=24\nsize=3", "filters=24\ngroups=5\nsize=3", "expected a divisor of both")])
def test_nets_that_cannot_be_built_say_where_and_why(tiny_cfg, old, new, words):
    tiny_cfg.write_text(tiny_cfg.read_text().replace(old, new))
    with pytest.raises(CfgError) as error:
        Darknet(tiny_cfg)
    assert words in str(error.value) and str(error.value).startswith(f"{tiny_cfg}:")
