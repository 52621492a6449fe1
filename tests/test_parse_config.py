"""cfg and data files: round trips, comments and spacing, and errors that name file and line."""

import pytest
from conftest import ROOT, TINY_YOLO
from hypothesis import given
from hypothesis import strategies as st

from utils.data_config import parse_data_config
from utils.parse_config import (CfgError, class_count, format_model_config, head_anchors,
                                layer_inputs, parse_model_config, rebuild_heads, write_model_config)

CFGS = sorted((ROOT / "config").glob("yolov3*.cfg"))


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.name)
def test_cfg_round_trip_is_identical(path, tmp_path):
    defs = parse_model_config(path)
    write_model_config(tmp_path / "again.cfg", defs)
    assert parse_model_config(tmp_path / "again.cfg") == defs
    assert defs[0]["type"] == "net"


def test_external_cfgs_survive_the_round_trip(shared, tmp_path):
    for path in (shared / "darknet_pairs").glob("*/*.cfg"):
        defs = parse_model_config(path)
        write_model_config(tmp_path / "again.cfg", defs)
        assert parse_model_config(tmp_path / "again.cfg") == defs


def test_comments_blank_lines_indents_crlf_and_spaces_change_nothing(tmp_path, tiny_cfg):
    plain = parse_model_config(tiny_cfg)
    messy = "\ufeff# a comment\r\n" + "".join(
        f"   {line.replace('=', '  =  ')}   ; said = inline\r\n\r\n  # indented = comment\r\n" for line in TINY_YOLO.split("\n") if line)
    (tmp_path / "messy.cfg").write_bytes(messy.encode())
    assert parse_model_config(tmp_path / "messy.cfg") == plain


def test_parsing_and_rebuilding_leave_their_input_alone(tiny_cfg):
    defs = parse_model_config(tiny_cfg)
    before = [dict(section) for section in defs]
    rebuilt = rebuild_heads(defs, 20)
    assert defs == before
    assert class_count(rebuilt) == 20 and [s["filters"] for s in rebuilt if s.get("filters") == "75"] == ["75", "75"]


@pytest.mark.parametrize("bad, line, words", [
    ("[net]\nwidth=64\n[convolutional]\nfilers=8\nsize=3\n", 4, "did you mean 'filters'"),
    ("[net]\n[convolutional]\nfilters=8.5\nsize=3\n", 3, "expected a whole number"),
    ("[net]\n[convolutional]\nfilters=0\nsize=3\n", 2, "expected 1 or more"),
    ("[net]\n[convolutional]\nfilters=8\n", 2, "without 'size'"),
    ("[net]\n[convolutional]\nfilters=8\nsize=1\nactivation=leeky\n", 5, "did you mean 'leaky'"),
    ("[net]\n[convolutional]\nfilters=8\nfilters=9\nsize=1\n", 4, "a second 'filters'"),
    ("[net]\n[convolutional\n", 2, "expected a section name"),
    ("[net]\n[convolutionel]\n", 2, "did you mean 'convolutional'"),
    ("width=64\n", 1, "expected [net] first"),
    ("[convolutional]\nfilters=8\nsize=1\n", 1, "expected [net] as the first section"),
    ("[net]\n[convolutional]\nfilters 8\n", 3, "expected key=value"),
    ("[net]\n[convolutional]\nfilters=8\nsize=1\n[route]\nlayers=5\n", 5, "reference to layer 5"),
    ("[net]\n[convolutional]\nfilters=8\nsize=1\n[shortcut]\nfrom=-4\n", 5, "reference to layer -3"),
    ("[net]\n[convolutional]\nfilters=18\nsize=1\n[yolo]\nmask=0,1,2\nanchors=1,2,3\nclasses=1\n", 5, "anchor"),
    ("[net]\n[convolutional]\nfilters=18\nsize=1\n[yolo]\nmask=0,1,9\nanchors=1,2,3,4,5,6\nclasses=1\n", 5, "mask index 9"),
    ("[net]\n[convolutional]\nfilters=18\nsize=1\n[yolo]\nmask=0\nanchors=[[1 2]]\nclasses=1\n", 7, "numbers separated by commas"),
    ("", 1, "found no section"),
    ("[net]\n", 1, "expected layers"),
])
def test_every_error_names_file_line_found_and_expected(tmp_path, bad, line, words):
    path = tmp_path / "bad.cfg"
    path.write_text(bad)
    with pytest.raises(CfgError) as error:
        parse_model_config(path)
    assert str(error.value).startswith(f"{path}:{line}: found") and words in str(error.value) and "expected" in str(error.value)


def test_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such cfg"):
        parse_model_config(tmp_path / "none.cfg")


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 7), st.sampled_from(["leaky", "relu", "mish"])), min_size=1, max_size=8))
def test_written_cfg_reads_back_equal_for_any_chain_of_convolutions(tmp_path_factory, layers):
    defs = [{"type": "net", "width": "64", "height": "64"}] + [
        {"type": "convolutional", "filters": str(f), "size": str(k), "pad": "1", "activation": a} for f, k, a in layers]
    path = tmp_path_factory.mktemp("cfg") / "net.cfg"
    write_model_config(path, defs)
    assert parse_model_config(path) == defs and path.read_text() == format_model_config(defs)


def test_layer_inputs_resolve_relative_and_absolute_references():
    assert layer_inputs(9, {"type": "route", "layers": "-1, 4"}) == [8, 4]
    assert layer_inputs(9, {"type": "shortcut", "from": "-3"}) == [8, 6]
    assert layer_inputs(0, {"type": "convolutional"}) == [-1]


def test_head_anchors_follow_the_mask():
    section = {"type": "yolo", "anchors": "1,2, 3,4, 5,6", "mask": "2,0"}
    assert head_anchors(section) == [(5.0, 6.0), (1.0, 2.0)]


def test_data_and_yaml_files_say_the_same(tmp_path):
    (tmp_path / "t.txt").write_text("a.jpg\n")
    (tmp_path / "n.names").write_text("hand\n\nface")  # no newline at the end
    (tmp_path / "d.data").write_text("classes = 2  # comment\ntrain=t.txt\nvalid=t.txt\nnames=n.names\nbackup=x\n")
    (tmp_path / "d.yaml").write_text("train: t.txt\nval: t.txt\nnc: 2\nnames: [hand, face]\n")
    one, two = parse_data_config(tmp_path / "d.data"), parse_data_config(tmp_path / "d.yaml")
    assert one.names == two.names == ("hand", "face")
    assert one.list_file("train") == two.list_file("valid") == tmp_path / "t.txt"


@pytest.mark.parametrize("name, text, words", [
    ("d.data", "classes=2\ntrain x\n", ":2: found"), ("d.data", "classes=two\n", ":1: found classes=two"),
    ("d.yaml", "a: [1\n", "expected YAML"), ("d.yaml", "- 1\n", "expected keys"),
    ("d.yaml", "nc: 3\nnames: [a]\n", "found classes=3 but 1 names"),
    ("d.yaml", "nc: one\n", "found nc 'one', expected a whole number"), ("d.yaml", "names: 5\n", "found names 5, expected a list"),
    ("d.yaml", "train: [a, b]\n", "found train ['a', 'b'], expected one path")])
def test_data_errors_name_the_place(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(CfgError) as error:
        parse_data_config(tmp_path / name)
    assert words in str(error.value)


def test_missing_list_says_how_to_get_it(tmp_path):
    (tmp_path / "d.data").write_text("classes=1\ntrain=nowhere.txt\n")
    data = parse_data_config(tmp_path / "d.data")
    with pytest.raises(CfgError, match="converter.py"):
        data.list_file("train")
    with pytest.raises(CfgError, match="no 'valid' entry"):
        data.list_file("valid")
