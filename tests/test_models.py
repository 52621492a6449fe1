"""Networks: every layer type against an independent reference, heads against the formulas, shapes and errors."""

import math

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, randomise

from models import Darknet
from utils.parse_config import CfgError, parse_model_config
from utils.shapes import layer_costs, largest_stride, total_cost

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


@pytest.mark.parametrize("name, size", [("yolov3-hand.cfg", 416), ("yolov3-tiny-hand.cfg", 416), ("yolov3-hand-w25.cfg", 256)])
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
    cfg.write_text("\n[".join(blocks[:keep + 1]).replace("relu6", "leaky") + "\n[convolutional]\nfilters=7\nsize=1\nactivation=linear\n")
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
    cfg.write_text("[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=4\nsize=1\nactivation=linear\n"
                   "[convolutional]\nfilters=4\nsize=1\nactivation=logistic\n[sam]\nfrom=-2\n[avgpool]\n[scale_channels]\nfrom=-2\n")
    model = Darknet(cfg).eval()
    x = torch.rand(2, 3, 32, 32)
    seen = []
    model.module_list[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.raw_maps(x)
    a, b = model.module_list[0](x), model.module_list[1](model.module_list[0](x))
    assert torch.allclose(seen[0], a * b * (a * b).mean((2, 3), keepdim=True))


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
        expected = [(sigmoid(t[0]) * scale - (scale - 1) / 2 + column) * 8, (sigmoid(t[1]) * scale - (scale - 1) / 2 + row) * 8,
                    w * head.anchors[a, 0].item(), h * head.anchors[a, 1].item(), sigmoid(t[4]), sigmoid(t[5])]
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
    assert {"module_list.0.conv_0.weight", "module_list.0.batch_norm_0.running_mean", "module_list.7.conv_7.bias"} <= keys
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
    ("layers=-1, 4", "layers=-1, 0", "expected one size"),
    ("from=-3", "from=-4", "expected equal shapes"),
    ("filters=24\nsize=3", "filters=24\ngroups=5\nsize=3", "expected a divisor of both")])
def test_nets_that_cannot_be_built_say_where_and_why(tiny_cfg, old, new, words):
    tiny_cfg.write_text(tiny_cfg.read_text().replace(old, new))
    with pytest.raises(CfgError) as error:
        Darknet(tiny_cfg)
    assert words in str(error.value) and str(error.value).startswith(f"{tiny_cfg}:")
