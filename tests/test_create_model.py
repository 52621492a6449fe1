"""config/create_hand_model.py, utils/families.py, utils/data/anchors.py: the public networks layer for layer, widths,
heads and anchors."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.anchors import kmeans_anchors, letterboxed_sizes, mean_best_iou, used_anchors, with_anchors
from utils.data.data_config import parse_data_config
from utils.data.image_files import read_image_list
from utils.parse_config import format_model_config, head_anchors, head_indices, parse_model_config, write_model_config

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config"
SCRIPT = CONFIG / "create_hand_model.py"
_spec = importlib.util.spec_from_file_location("create_hand_model", SCRIPT)
create = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(create)

# base: layers, layer indices of the heads, bytes of the published .weights file (80 classes)
PUBLIC = {
    "yolov3": (107, [82, 94, 106], 248_007_048),
    "yolov3-tiny": (24, [16, 23], 35_434_956),
    "yolov3-spp": (114, [89, 101, 113], 252_209_544),
    "yolov4": (162, [139, 150, 161], 257_717_640),
    "yolov4-tiny": (38, [30, 37], 24_251_276),
}
HEADER_BYTES = 20  # three int32, one int64
COMMITTED = {
    "yolov3-hand.cfg": {"base": "yolov3"},
    "yolov3-tiny-hand.cfg": {"base": "yolov3-tiny"},
    "yolov3-spp-hand.cfg": {"base": "yolov3-spp"},
    "yolov3.cfg": {"base": "yolov3", "classes": 80},
}


def float_counts(defs):
    """Floats of every layer in a .weights file, worked out from the sections alone."""
    channels, floats = [], []
    for i, layer in enumerate(defs[1:]):
        width, count = channels[-1] if channels else 3, 0
        if layer["type"] == "convolutional":
            source, width, size = width, int(layer["filters"]), int(layer["size"])
            count = width * source * size * size + width * (4 if layer.get("batch_normalize") == "1" else 1)
        elif layer["type"] == "route":
            refs = [int(ref) for ref in layer["layers"].split(",")]
            width = sum(channels[i + ref if ref < 0 else ref] for ref in refs)
            assert width % int(layer.get("groups", 1)) == 0
            width //= int(layer.get("groups", 1))
        elif layer["type"] == "shortcut":
            assert channels[i + int(layer["from"])] == width
        channels.append(width)
        floats.append(count)
    return floats


def grid_strides(defs):
    """Input pixels per cell of every layer's map; concatenated and added maps must agree."""
    strides = []
    for i, layer in enumerate(defs[1:]):
        stride = strides[-1] if strides else 1
        if layer["type"] in ("convolutional", "maxpool"):
            stride *= int(layer["stride"])
        elif layer["type"] == "upsample":
            stride //= int(layer["stride"])
        elif layer["type"] in ("route", "shortcut"):
            refs = [int(ref) for ref in layer.get("layers", layer.get("from")).split(",")]
            sources = {strides[i + ref if ref < 0 else ref] for ref in refs}
            assert len(sources) == 1 and (layer["type"] == "route" or sources == {stride})
            stride = sources.pop()
        strides.append(stride)
    return strides


def write_image(path, width, height):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))


def write_label(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def planted_sizes(n=200):
    """Boxes around three sizes, in no order."""
    rng = np.random.default_rng(1)
    centres = np.array([[100.0, 40.0], [10.0, 12.0], [30.0, 60.0]])
    wh = centres[:, None] * rng.uniform(0.95, 1.05, (3, n, 2))
    return rng.permutation(wh.reshape(-1, 2)), centres[[1, 2, 0]]


@pytest.fixture
def dataset(tmp_path):
    """A list beside images/ and labels/: one square image, one wide one, one without a label file, one empty."""
    folder = tmp_path / "set"
    for name, width, height in (("a", 64, 64), ("b", 128, 64), ("none", 64, 64), ("empty", 64, 64)):
        write_image(folder / f"images/train/{name}.png", width, height)
    write_label(folder / "labels/train/a.txt", "0 .5 .5 .5 .25\n\n0 .5 .5 0 .25\n")  # the second has no width
    write_label(folder / "labels/train/b.txt", "".join(f"0 .5 .5 .{i} .5\n" for i in range(1, 10)))
    write_label(folder / "labels/train/empty.txt", "")
    listing = folder / "train.txt"
    listing.write_text("".join(f"images/train/{name}.png\n" for name in ("a", "b", "none", "empty")))
    return listing


@pytest.mark.parametrize("base", PUBLIC)
def test_base_has_the_layers_heads_and_floats_of_the_published_weights(base):
    n_layers, heads, n_bytes = PUBLIC[base]
    defs = create.build(base, classes=80)
    assert len(defs) - 1 == n_layers
    assert head_indices(defs) == heads
    assert HEADER_BYTES + 4 * sum(float_counts(defs)) == n_bytes


def test_backbones_end_where_the_published_backbone_files_do():
    assert sum(float_counts(create.build("yolov3"))[:75]) * 4 + HEADER_BYTES == 162_482_580  # darknet53.conv.74
    layers = [section["layers"] for section in create.build("yolov3") if section["type"] == "route"]
    assert layers == ["-4", "-1, 61", "-4", "-1, 36"]


@pytest.mark.parametrize("base", PUBLIC)
def test_heads_read_grids_of_the_strides_their_anchors_are_for(base):
    defs = create.build(base)
    strides = {i: grid_strides(defs)[i] for i in head_indices(defs)}
    areas = {i: np.prod(head_anchors(defs[1 + i]), axis=1).mean() for i in strides}
    by_stride, by_area = sorted(strides, key=strides.get), sorted(areas, key=areas.get)
    assert by_stride == by_area
    assert sorted(strides.values()) == ([16, 32] if "tiny" in base else [8, 16, 32])


def test_yolov4_details():
    yolos = [s for s in create.build("yolov4", 80) if s["type"] == "yolo"]
    assert [(y["mask"], y["scale_x_y"]) for y in yolos] == [("0,1,2", "1.2"), ("3,4,5", "1.1"), ("6,7,8", "1.05")]
    activations = [s["activation"] for s in create.build("yolov4", 80)[1:106] if s["type"] == "convolutional"]
    assert set(activations) == {"mish"} and len(activations) == 72
    tiny = create.build("yolov4-tiny", 80)
    assert [s["mask"] for s in tiny if s["type"] == "yolo"] == ["3,4,5", "1,2,3"]
    assert [s["group_id"] for s in tiny if s.get("groups") == "2"] == ["1", "1", "1"]


@pytest.mark.parametrize("width", [0.01, 0.25, 0.33, 1.5])
@pytest.mark.parametrize("base", PUBLIC)
def test_width_gives_multiples_of_8_and_leaves_the_heads(base, width):
    defs, full = create.build(base, 1, width), create.build(base)
    float_counts(defs)  # asserts that shortcuts and group splits fit
    for section, original in zip(defs, full):
        if section["type"] != "convolutional":
            continue
        filters, before = int(section["filters"]), int(original["filters"])
        if "batch_normalize" in section:
            assert filters % 8 == 0 and filters >= 8 and (filters == 8 or abs(filters - before * width) <= 4)
        else:
            assert filters == before == 18


@pytest.mark.parametrize("classes", [1, 3, 20])
@pytest.mark.parametrize("base", PUBLIC)
def test_heads_fit_the_class_count(base, classes):
    defs = create.build(base, classes, 0.25)
    for i in head_indices(defs):
        assert (defs[i]["filters"], defs[1 + i]["classes"]) == (str(3 * (5 + classes)), str(classes))


@pytest.mark.parametrize("base", PUBLIC)
def test_every_base_survives_a_round_trip(base, tmp_path):
    defs = create.build(base, 2, 0.5, (320, 256))
    write_model_config(tmp_path / "net.cfg", defs)
    assert parse_model_config(tmp_path / "net.cfg") == defs
    assert (defs[0]["width"], defs[0]["height"]) == ("320", "256")


def test_build_returns_sections_that_share_nothing():
    defs = create.build("yolov3")
    assert len({id(section) for section in defs}) == len(defs)
    defs[1]["filters"] = "7"
    assert create.build("yolov3")[1]["filters"] == "32"


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_cfg_is_what_the_script_writes(name):
    assert (CONFIG / name).read_text() == format_model_config(create.build(**COMMITTED[name]))
    options = COMMITTED[name]
    assert create.default_out(options["base"], options.get("classes", 1), 1.0) == CONFIG / name


def test_committed_quarter_width_cfg_is_what_the_script_writes_but_for_the_data_set():
    path = CONFIG / "yolov3-hand-w25.cfg"
    defs = create.build("yolov3", 1, 0.25, (256, 256))
    anchors = used_anchors(parse_model_config(path)).astype(int)
    anchors = np.array(sorted(anchors.tolist(), key=np.prod))
    assert path.read_text() == format_model_config(with_anchors(defs, anchors))
    assert (anchors < 256).all()
    assert create.default_out("yolov3", 1, 0.25) == path


def test_readme_states_the_parameters_of_the_committed_cfgs():
    text = (CONFIG / "README.md").read_text()
    for name in (*COMMITTED, "yolov3-hand-w25.cfg"):
        defs = parse_model_config(CONFIG / name)
        means = sum(2 * int(section["filters"]) for section in defs if section.get("batch_normalize") == "1")
        assert f"| `{name}` | {len(defs) - 1} | {sum(float_counts(defs)) - means:,} |" in text


@pytest.mark.parametrize("name", ["config/oxfordhand.data", "config/egohands.data", "data/oxford.yaml"])
def test_data_files_describe_one_class_hand(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = parse_data_config(name)
    assert data.names == ("hand",)
    folder = "data/egohands" if "ego" in name else "data"
    assert (data.train, data.valid) == ((Path(folder, "train.txt"),), (Path(folder, "valid.txt"),))


def test_kmeans_recovers_planted_clusters_ascending_by_area():
    wh, centres = planted_sizes()
    np.testing.assert_allclose(kmeans_anchors(wh, 3), centres, rtol=0.03)


def test_kmeans_is_deterministic_and_leaves_its_input():
    wh, _ = planted_sizes()
    before = wh.copy()
    np.testing.assert_array_equal(kmeans_anchors(wh, 5, seed=3), kmeans_anchors(wh, 5, seed=3))
    np.testing.assert_array_equal(wh, before)


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_beats_random_picks(seed):
    rng = np.random.default_rng(seed)
    wh = np.exp(rng.normal(3.0, 0.8, (400, 2)))
    anchors = kmeans_anchors(wh, 9)
    assert (np.diff(anchors.prod(axis=1)) >= 0).all()
    picks = [mean_best_iou(wh, wh[rng.choice(len(wh), 9, replace=False)]) for _ in range(50)]
    assert mean_best_iou(wh, anchors) > max(picks)


def test_kmeans_with_as_many_clusters_as_boxes_and_with_equal_boxes():
    wh = np.array([[4.0, 4.0], [8.0, 2.0], [1.0, 1.0]])
    assert mean_best_iou(wh, kmeans_anchors(wh, 3)) == pytest.approx(1.0)
    assert (kmeans_anchors(np.full((5, 2), 7.0), 3) == 7.0).all()


def test_mean_best_iou_by_hand():
    wh = np.array([[10, 10], [20, 10]])
    assert mean_best_iou(wh, np.array([[10, 10]])) == pytest.approx((1 + 0.5) / 2)
    assert mean_best_iou(wh, np.array([[10, 20], [20, 20]])) == pytest.approx(0.5)


@pytest.mark.parametrize("wh, k", [
    (np.ones((2, 2)), 3), (np.ones((2, 2)), 0), (np.zeros((0, 2)), 1), (np.ones((3, 3)), 1),
    (np.array([[1.0, 0.0]]), 1), (np.array([[1.0, np.nan]]), 1)])
def test_kmeans_rejects_too_few_or_impossible_boxes(wh, k):
    with pytest.raises(ValueError, match="found .*expected"):
        kmeans_anchors(wh, k)


def test_sizes_are_letterboxed_to_the_input(dataset):
    wh = letterboxed_sizes(dataset, (256, 256))
    assert wh.shape == (10, 2)
    np.testing.assert_allclose(wh[0], [128, 64])  # 64x64 grows to 256x256
    np.testing.assert_allclose(wh[1], [25.6, 64])  # 128x64 grows to 256x128
    np.testing.assert_allclose(letterboxed_sizes(dataset, (320, 64))[1], [12.8, 32])  # height binds
    np.testing.assert_allclose(letterboxed_sizes(dataset.parent / "images", (256, 256)), wh)  # a folder


def test_list_entries_are_found_from_the_working_directory_too(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    elsewhere = tmp_path / "list.txt"
    elsewhere.write_text("\ufeffimages/train/a.png\r\n\r\n", encoding="utf-8")
    assert read_image_list(elsewhere) == [Path("images/train/a.png")]
    assert len(letterboxed_sizes(elsewhere, (64, 64))) == 1


@pytest.mark.parametrize("base, masks", [("yolov3-tiny", ["3,4,5", "0,1,2"]), ("yolov4-tiny", ["2,3,4", "0,1,2"])])
def test_fitted_anchors_replace_the_used_ones(base, masks, dataset, tmp_path, capsys):
    out = tmp_path / "fitted.cfg"
    arguments = ["--base", base, "--size", "256", "--anchors-from", str(dataset), "--out", str(out)]
    assert create.main(arguments) == 0
    defs, first = parse_model_config(out), out.read_text()
    assert [section["mask"] for section in defs if section["type"] == "yolo"] == masks
    wh = letterboxed_sizes(dataset, (256, 256))
    gain = mean_best_iou(wh, used_anchors(defs)) - mean_best_iou(wh, used_anchors(create.build(base)))
    assert gain > 0.1
    printed = capsys.readouterr().out
    assert f"{mean_best_iou(wh, used_anchors(defs)):.3f}" in printed and "before" in printed
    assert create.main(arguments) == 0 and out.read_text() == first


def test_a_head_without_a_mask_uses_all_anchors_and_so_it_does_the_fitted_ones(tmp_path):
    defs = create.build("yolov3-tiny")
    first, second = (section for section in defs if section["type"] == "yolo")
    del first["mask"]
    anchors = np.arange(12).reshape(6, 2) + 1
    fresh = with_anchors(defs, anchors)
    masks = [section["mask"] for section in fresh if section["type"] == "yolo"]
    assert masks == ["0,1,2,3,4,5", second["mask"]]
    assert (used_anchors(fresh) == anchors).all()


def test_out_creates_nested_folders_and_adds_the_suffix(tmp_path):
    assert create.main(["--base", "yolov3-tiny", "--out", str(tmp_path / "a/b/net")]) == 0
    assert parse_model_config(tmp_path / "a/b/net.cfg") == create.build("yolov3-tiny")


def test_missing_list_is_one_line_on_stderr_and_exit_2(tmp_path):
    out = tmp_path / "net.cfg"
    done = subprocess.run([sys.executable, SCRIPT, "--anchors-from", tmp_path / "no.txt", "--out", out],
                          capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and "no.txt: no such image list or folder" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("label, message", [
    ("0 .5 .5 .1", r"a\.txt:1: found '0 .5 .5 .1', expected class cx cy w h"),
    ("0 .5 .5 .1 x", r"a\.txt:1: found"), ("0 .5 .5 .1 .1", "found 1 boxes, expected at least 6")])
def test_unusable_labels_are_one_line(label, message, tmp_path):
    write_image(tmp_path / "images/a.png", 32, 32)
    write_label(tmp_path / "labels/a.txt", label)
    arguments = ["--base", "yolov3-tiny", "--anchors-from", str(tmp_path / "images"), "--out", str(tmp_path / "n.cfg")]
    with pytest.raises(ValueError, match=message) as error:
        create.main(arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "n.cfg").exists()


def test_missing_image_is_named(tmp_path):
    write_label(tmp_path / "labels/a.txt", "0 .5 .5 .1 .1")
    (tmp_path / "list.txt").write_text("images/a.png")
    with pytest.raises(ValueError, match="a.png"):
        create.main(["--anchors-from", str(tmp_path / "list.txt"), "--out", str(tmp_path / "n.cfg")])


@pytest.mark.parametrize("arguments", [
    ["--size", "400"], ["--size", "32x32x32"], ["--size", "0"], ["--width", "0"], ["--width", "nan"],
    ["--classes", "0"], ["--base", "yolov9"]])
def test_bad_values_are_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        create.parse_args(arguments)
    assert stop.value.code == 2


def test_sizes_are_width_by_height():
    assert create.parse_args([]).size == (416, 416)
    assert create.parse_args(["--size", "320x256"]).size == (320, 256)


def test_a_net_that_is_too_large_to_build_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="expected at most 500,000,000"):
        create.main(["--classes", "99999", "--out", str(tmp_path / "a.cfg")])
    assert not (tmp_path / "a.cfg").exists()
