"""8-bit files: what is refused, what is said, and that what is written works."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import ROOT, trained
from models import Darknet
from nets import TINY, YOLO, cfg_text, convolution, place, predictions
from utils.data.datasets import ListDataset
from utils.deploy import processor, quantisation
from utils.deploy.formats import FORMATS, Order, describe, export_int8
from utils.deploy.quantisation import (
    Limits,
    LosesTooMuch,
    Pictures,
    QuantisationError,
    alternate_seconds,
    require_score,
    require_speed,
)
from utils.deploy.runtimes import int8_files, open_exported
from utils.deploy.sensitivity import layer_errors, quantised_map, quantised_weight

SIZE = (64, 64)
ANYTHING = Limits(max_drop=1.0, allow_slower=True)
RUNTIMES = ("onnxruntime", "openvino")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime", "nncf"), "openvino": ("openvino", "nncf")}


def need(name):
    for package in PACKAGES[name]:
        pytest.importorskip(package)


def pictures(tiny_data):
    images = ListDataset(tiny_data.parent / "pictures" / "list.txt", SIZE, 1)
    return Pictures(images, images, 6)


def scores(map50, map_=0.5):
    return SimpleNamespace(map50=map50, map=map_)


def test_a_file_that_loses_or_is_slower_is_refused_and_says_by_how_much_and_what_to_do(tmp_path):
    path = tmp_path / "net.onnx"
    require_score(path, [scores(0.92), scores(0.915)], Limits())
    with pytest.raises(LosesTooMuch, match=r"net.onnx: int8 loses 0.1600 AP@.5, --max-drop is 0.01 .*; 3 \(0.2\); "
                                           r"it was not written") as raised:
        require_score(path, [scores(0.92), scores(0.76)], Limits(), lambda: "; 3 (0.2)")
    assert raised.value.scores[1].map50 == 0.76
    with pytest.raises(LosesTooMuch, match=r"loses 0.1000 AP@\[.5:.95\]"):
        require_score(path, [scores(0.92), scores(0.92, 0.4)], Limits())
    with pytest.raises(LosesTooMuch, match="loses nan"):
        require_score(path, [scores(0.92), scores(float("nan"))], Limits())
    require_score(path, [scores(0.92), scores(0.76)], Limits(max_drop=0.2))
    with pytest.raises(QuantisationError, match="slower than float32 here .*10.0 -> 20.0 ms.* --allow-slower writes"):
        require_speed(path, [0.01, 0.02], Limits())
    require_speed(path, [0.01, 0.02], Limits(allow_slower=True))
    require_speed(path, [0.01, 0.01], Limits())


def test_what_may_be_lost_counts_from_the_net_before_it_was_pruned(tmp_path):
    pruned, small = scores(0.915, 0.4), scores(0.911, 0.395)
    require_score(tmp_path, [pruned, small], Limits(0.01, dense=scores(0.92)))
    with pytest.raises(LosesTooMuch, match=r"loses 0.0140 AP@.5 against the dense net's 0.9250, --max-drop is 0.01"):
        require_score(tmp_path, [pruned, small], Limits(0.01, dense=scores(0.925)))
    with pytest.raises(LosesTooMuch, match=r"loses 0.0200 AP@\[.5:.95\], "):  # that of the pruned net, by 8 bits alone
        require_score(tmp_path, [pruned, scores(0.915, 0.38)], Limits(0.01, dense=scores(0.92)))


def naive_int8(source, target, arrays):
    """What ONNX Runtime's tool does without a word: all of the file, decoding included, in 8 bits."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        rest = iter(arrays)

        def get_next(self):
            image = next(self.rest, None)
            return None if image is None else {"images": image}

    quantize_static(str(source), str(target), Reader())
    made = onnx.load(target)
    onnx.helper.set_model_props(made, {prop.key: prop.value for prop in onnx.load(source).metadata_props})
    onnx.save(made, target)


def test_the_naive_file_of_the_published_net_is_refused_and_ours_is_not(shared, tmp_path, monkeypatch):
    need("onnx")
    net = Darknet(ROOT / "config" / "hands-slim.cfg").eval()
    net.load_darknet_weights(ROOT / "weights" / "hands-slim.weights")
    train, valid = (
        ListDataset(shared / "data" / "egohands" / f"{part}.txt", (256, 256), 1) for part in ("train", "valid")
    )
    few = Pictures(
        torch.utils.data.Subset(train, range(0, 1800, 30)), torch.utils.data.Subset(valid, range(0, 400, 5)), 24
    )
    order = Order(("hand",), (256, 256), "int8", None)
    fixed = replace(describe(net, "onnx", order), free_size=False, precision="float32")
    FORMATS["onnx"].write(net, tmp_path / "net.onnx", fixed)
    arrays = [image.numpy() for image in few.inputs(3)]
    naive_int8(tmp_path / "net.onnx", tmp_path / "naive.onnx", arrays)
    reference = open_exported(tmp_path / "net.onnx")
    naive = open_exported(tmp_path / "naive.onnx")
    with pytest.raises(LosesTooMuch, match="naive.onnx: int8 loses 0.[1-9]"):
        require_score(naive.path, [few.score(reference), few.score(naive)], Limits())
    ours = tmp_path / "ours.onnx"
    made = quantisation.quantise(net, reference, ours, few, Limits(0.02, True), ours)
    assert made.calibrated == 24 and len(made.in_float) <= 3 and open_exported(ours).bytes() < 0.6 * reference.bytes()


@pytest.mark.parametrize("name", PACKAGES)
def test_an_8_bit_file_is_small_close_and_says_what_it_is(tiny_cfg, tiny_data, tmp_path, name):
    need(name)
    net = trained(tiny_cfg, dtype=torch.float32)
    path = tmp_path / f"net-int8{FORMATS[name].suffix}"
    words = export_int8(net, name, path, Order(("hand",), SIZE, "int8", None), pictures(tiny_data), ANYTHING)
    assert words.startswith(f"{path}: ") and "6 images calibrated it" in words
    file = open_exported(path)
    assert file.metadata.precision == "int8" and file.metadata.names == ("hand",)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = net(images), file.predict(images)
    assert found.shape == expected.shape and not torch.equal(found, expected)
    assert (found - expected)[..., :2].abs().mean() < 1  # centres, in pixels


def test_an_8_bit_onnx_file_computes_the_same_in_every_runtime_that_loads_it(tiny_cfg, tiny_data, tmp_path):
    need("onnx")
    pytest.importorskip("openvino")
    path = tmp_path / "net-int8.onnx"
    net = trained(tiny_cfg, dtype=torch.float32)
    export_int8(net, "onnx", path, Order(("hand",), SIZE, "int8", None), pictures(tiny_data), ANYTHING)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    float32, *runtimes = net(images), *(open_exported(path, name).predict(images) for name in RUNTIMES)
    off = [(found - float32)[..., 4].abs().mean() for found in runtimes]
    apart = (runtimes[0] - runtimes[1])[..., 4].abs().mean()
    assert min(off) > 0 and apart < 0.1 * min(off), f"{RUNTIMES}: {off} off float32, {apart} apart"


def test_an_8_bit_onnx_file_with_a_depthwise_layer_runs_in_every_runtime(tiny_data, tmp_path, capfd):
    need("onnx")
    pytest.importorskip("openvino")
    import onnx

    layers = {"stem": convolution(8, 3, stride=2), "linear": convolution(16, act="linear"),
              "depthwise": convolution(16, 3, groups=16), "raw": predictions(12), "head": YOLO}
    (tmp_path / "net.cfg").write_text(cfg_text(layers))
    net, path = trained(tmp_path / "net.cfg", dtype=torch.float32), tmp_path / "net-int8.onnx"
    export_int8(net, "onnx", path, Order(("hand",), SIZE, "int8", None), pictures(tiny_data), ANYTHING)
    found = [open_exported(path, name).predict(torch.rand(2, 3, 64, 64)) for name in RUNTIMES]
    assert all(torch.isfinite(rows).all() for rows in found) and not capfd.readouterr().err
    graph = onnx.load(path).graph
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    maps = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert maps and all(constants[node.input[1]] in ([], [1]) for node in maps), "a map with several ranges"


@pytest.mark.parametrize("name, slower", [("openvino", False), ("openvino", True), ("onnx", True)])
def test_auto_finds_an_8_bit_file_of_the_net_unless_it_is_slower(
    tiny_cfg, tiny_data, tmp_path, monkeypatch, name, slower
):
    need(name)
    monkeypatch.setattr(quantisation, "alternate_seconds", lambda *_: [0.1, 0.2 if slower else 0.01])
    net, path = trained(tiny_cfg, dtype=torch.float32), tmp_path / f"net{FORMATS[name].suffix}"
    export_int8(net, name, path, Order(None, SIZE, "int8", None), pictures(tiny_data), ANYTHING)
    assert [file.path for file in int8_files(net, SIZE, [tmp_path])] == ([] if slower else [path])
    assert open_exported(path).metadata.precision == "int8"


def test_a_refused_file_leaves_nothing_behind(tiny_cfg, tiny_data, tmp_path, monkeypatch):
    need("openvino")
    monkeypatch.setattr(quantisation, "alternate_seconds", lambda *_: [0.01, 0.1])
    out = tmp_path / "out"
    with pytest.raises(QuantisationError, match=rf"{out}/net.xml: int8 is slower"):
        export_int8(
            trained(tiny_cfg, dtype=torch.float32),
            "openvino",
            out / "net.xml",
            Order(None, SIZE, "int8", None),
            pictures(tiny_data),
            Limits(max_drop=1.0),
        )
    assert not list(out.iterdir())


def test_no_layer_stays_in_float_unless_validation_asks_for_it_and_then_as_few_as_do():
    asked, tried = [], []

    def errors():
        asked.append(True)
        return dict.fromkeys("abcdefghij")

    def scored(in_float):
        tried.append(len(in_float))
        return scores(0.9), scores(0.8 + 0.02 * len(in_float))

    def choose(drop):
        tried.clear()
        return quantisation._fewest_in_float(scored, quantisation._choices([], errors), Limits(drop))

    assert choose(0.11)[0] == [] and tried == [0] and not asked, "no layer is measured where none is in question"
    assert choose(0.05)[0] == list("abc") and tried == [0, 1, 2, 3]
    found, best = choose(-1.0)
    assert found == list("abcdefghij") and tried == [0, 1, 2, 3, 5, 8, 10]
    assert best[1].map50 == 1.0, "the best that was tried"


def test_the_layer_whose_weights_lose_most_is_named_worst(tiny_cfg):
    net = trained(tiny_cfg, zero_share=0, dtype=torch.float32)
    images = torch.rand(2, 3, 64, 64)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    errors = layer_errors(net, images)
    assert set(errors) == {i for i, _, _ in net.convolutions()} and list(errors.values()) == sorted(
        errors.values(), reverse=True
    )
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    half = place(TINY, "half")
    weight = net.module_list[half][0].weight.data
    weight[:, 0, 0, 0] = 200 * weight.abs().max()  # one large number per channel: the others fall into a step or two
    assert list(layer_errors(net, images))[0] == half


def test_8_bit_numbers_have_256_steps_and_an_exact_zero():
    weight = torch.randn(4, 3, 3, 3)
    assert (quantised_weight(weight) - weight).abs().max() <= weight.abs().amax() / 254 + 1e-6
    x = torch.cat([torch.zeros(1), torch.rand(5000) * 3 - 0.7])
    found = quantised_map(x)
    assert found[0] == 0 and len(found.unique()) <= 256 and (found - x).abs().max() <= 3.1 / 255


def test_constant_channels_stay_constant_in_8_bits(tiny_cfg, tiny_data, tmp_path):
    """A carrier channel (utils.pruning.surgery: kernel 0, bias 1) holds 1 everywhere; its consumers' sums rest on
    it."""
    need("openvino")
    net = trained(tiny_cfg, zero_share=0, dtype=torch.float32)
    conv, norm = net.module_list[place(TINY, "expand")][:2]
    conv.weight.data[5] = 0
    norm.weight.data[5], norm.bias.data[5], norm.running_mean[5] = 0, 1, 0
    path = tmp_path / "net.xml"
    export_int8(net, "openvino", path, Order(None, SIZE, "int8", None), pictures(tiny_data), ANYTHING)
    from utils.deploy.openvino_core import openvino_core

    model = openvino_core().read_model(path)
    activation = next(node for node in model.get_ops() if "module_list.3.leaky_3" in node.get_friendly_name())
    model.add_outputs(activation.output(0))
    maps = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        torch.rand(1, 3, 64, 64).numpy()
    )[1]
    value = 2.0 ** round(np.log2(maps[0, 5, 0, 0]))  # 1, or what utils.deploy.equalisation made of it
    assert abs(maps[0, 5] - value).max() <= maps.max() / 255 and np.ptp(maps[0, 5]) == 0, (
        "one value, within half a step"
    )


@pytest.mark.parametrize(
    "text, int8, bf16",
    [
        ("flags\t\t: fpu avx2 avx512_vnni amx_int8 avx512_bf16\n", ["avx512_vnni", "amx_int8"], ["avx512_bf16"]),
        ("flags : fpu avx2\n", [], []),
        ("Features\t: fp asimd asimddp i8mm\n", ["asimddp", "i8mm"], []),
        ("", [], []),
    ],
)
def test_the_processor_is_asked_what_it_computes_with(text, int8, bf16, monkeypatch):
    assert (
        processor.instructions(processor.INT8_FLAGS, text) == int8
        and processor.instructions(processor.BF16_FLAGS, text) == bf16
    )
    monkeypatch.setattr(processor, "instructions", lambda wanted: int8 if wanted == processor.INT8_FLAGS else bf16)
    monkeypatch.setattr(processor.platform, "system", lambda: "Linux")
    assert ("will not pay here" in processor.int8_words()) == (not int8)
    if not bf16:
        with pytest.raises(
            ValueError, match="found a processor without bfloat16 .*take --backend openvino$".replace(" .*", ".*")
        ):
            processor.require_bf16()


def test_files_are_timed_in_turn():
    calls = []
    runs = [lambda x: calls.append("a"), lambda x: calls.append("b")]
    assert len(alternate_seconds(runs, torch.zeros(1, 3, 4, 4), runs=2, warmup=1)) == 2
    assert calls == list("ababab")


def test_the_images_that_calibrate_are_spread_evenly():
    images = [(torch.full((3, 2, 2), i, dtype=torch.uint8), None) for i in range(10)]
    assert [round(float(x.max() * 255)) for x in Pictures(images, None, 4).inputs(3)] == [0, 2, 5, 7]
    assert len(Pictures(images[:3], None, 9).inputs(3)) == 3
