"""cfg and data files: round trips, comments and spacing, and errors that name file and line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from nets import TINY_YOLO
from utils.cfg_keys import NOT_COMPUTED, SECTION_KEYS
from utils.data.data_config import parse_data_config
from utils.parse_config import (
    class_count,
    format_model_config,
    head_anchors,
    layer_inputs,
    parse_model_config,
    rebuild_heads,
    write_model_config,
)
from utils.text import CfgError

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
        f"   {line.replace('=', '  =  ')}   ; said = inline\r\n\r\n  # indented = comment\r\n"
        for line in TINY_YOLO.split("\n")
        if line
    )
    (tmp_path / "messy.cfg").write_bytes(messy.encode())
    assert parse_model_config(tmp_path / "messy.cfg") == plain


def test_parsing_and_rebuilding_leave_their_input_alone(tiny_cfg):
    defs = parse_model_config(tiny_cfg)
    before = [dict(section) for section in defs]
    rebuilt = rebuild_heads(defs, 20)
    assert defs == before
    assert class_count(rebuilt) == 20 and [s["filters"] for s in rebuilt if s.get("filters") == "75"] == ["75", "75"]


@pytest.mark.parametrize(
    "bad, line, words",
    [
        ("[net]\nwidth=64\n[convolutional]\nfilers=8\nsize=3\n", 4, "did you mean 'filters'"),
        ("[net]\n[convolutional]\nfilters=8.5\nsize=3\n", 3, "expected a whole number"),
        ("[net]\n[convolutional]\nfilters=1_6\nsize=3\n", 3, "expected a whole number"),  # 1 to Darknet
        ("[net]\n[convolutional]\nfilters=\uff18\nsize=3\n", 3, "expected a whole number"),  # a wide 8: 0 to Darknet
        ("[net]\n[convolutional]\nfilters=0\nsize=3\n", 2, "expected 1 or more"),
        ("[net]\n[convolutional]\nsize=3\n", 2, "without 'filters'"),
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
        (
            "[net]\n[convolutional]\nfilters=18\nsize=1\n[yolo]\nmask=0,1,9\nanchors=1,2,3,4,5,6\nclasses=1\n",
            5,
            "mask index 9",
        ),
        (
            "[net]\n[convolutional]\nfilters=18\nsize=1\n[yolo]\nmask=0\nanchors=[[1 2]]\nclasses=1\n",
            7,
            "numbers separated by commas",
        ),
        (
            "[net]\n[convolutional]\nfilters=18\n[yolo]\nnum=4\nmask=0\nanchors=1,2,3,4,5,6\nclasses=1\n",
            4,
            "found 6 anchor numbers, expected 8",
        ),
        ("[net]\n[convolutional]\nfilters=8\nxnor=1\n", 4, "it asks for binary weights and inputs (XNOR-Net)"),
        ("[net]\n[convolutional]\nfilters=8\nshare_index=3\n", 4, "weights shared between layers"),
        ("[net]\n[convolutional]\nfilters=8\n[shortcut]\nfrom=-1\nweights_type=per_feature\n", 6, "weighted shortcuts"),
        ("[net]\n[convolutional]\nfilters=8\nactivation=normalize_channels\n", 4, "not one that mixes channels"),
        ("[net]\n[convolutional]\nfilters=8\ncbn=1\n", 2, "cbn=1 without batch_normalize=1"),
        ("[net]\n[crnn]\n", 2, "it remembers earlier frames"),
        ("[net]\n[convolutional]\nfilters=8\n[connected]\n", 4, "detectors with anchors"),
        ("[net]\n[convolutional]\nfilters=8\n[region]\ntree=9k.tree\n", 5, "YOLO9000"),
        ("[net]\nlerning_rate=1\n", 2, "did you mean 'learning_rate'"),
        ("[net]\n[route]\nlayers=1,,2\n", 3, "whole numbers separated by commas"),
        ("[net]\n[yolo]\nanchors=1,2,\n3,4\n", 4, "a list on one line"),
        ("[net]\nwidth=64\nwidth=32\n[convolutional]\nfilters=8\n", 3, "a second 'width'"),
        ("", 1, "found no section"),
        ("[net]\n", 1, "expected layers"),
    ],
)
def test_every_error_names_file_line_found_and_expected(tmp_path, bad, line, words):
    path = tmp_path / "bad.cfg"
    path.write_text(bad)
    with pytest.raises(CfgError) as error:
        parse_model_config(path)
    assert (
        str(error.value).startswith(f"{path}:{line}: found")
        and words in str(error.value)
        and "expected" in str(error.value)
    )


NET = "[net]\nwidth=64\nheight=64\n"
HEAD = "[convolutional]\nfilters=18\nactivation=linear\n[yolo]\nmask=0,1,2\n{}\nclasses=1\n"


def read(folder, text):
    """module_defs of a cfg with this text; what is written again reads back equal."""
    (folder / "a.cfg").write_text(text)
    defs = parse_model_config(folder / "a.cfg")
    write_model_config(folder / "b.cfg", defs)
    assert parse_model_config(folder / "b.cfg") == defs
    return defs


@pytest.mark.parametrize("reader", ["[convolutional]\nfilters=8\n", "[route]\nlayers=0,-1\n", "[shortcut]\nfrom=0\n"])
def test_a_layer_that_reads_a_head_is_refused_since_darknet_hands_on_decoded_values(tmp_path, reader):
    head = HEAD.format("anchors=1,2,3,4,5,6")
    with pytest.raises(CfgError, match=r"a.cfg:11: found layer 2 .* reading layer 1 \[yolo\], expected"):
        read(tmp_path, NET + head + reader + head)
    read(tmp_path, NET + head + "[route]\nlayers=0\n" + head)


def test_of_two_training_keys_the_first_counts_and_a_note_says_so(tmp_path, capsys):
    defs = read(tmp_path, NET + "batch=1\nbatch=64\n" + HEAD.format("anchors=1,2,3,4,5,6\njitter=.3\njitter=.1"))
    assert defs[0]["batch"] == "1" and defs[2]["jitter"] == ".3"
    words = capsys.readouterr().out
    assert f"{tmp_path / 'a.cfg'}:5: a second 'batch' in this [net]: the first counts, 1" in words
    assert "a second 'jitter'" in words


@pytest.mark.parametrize("line", ["policy=", "scales =", "steps= # none", "policy", "of_another_program="])
def test_a_training_key_without_a_value_is_as_if_it_were_not_there(tmp_path, tiny_cfg, capsys, line):
    expected = parse_model_config(tiny_cfg)
    path = tmp_path / "empty.cfg"
    path.write_text(tiny_cfg.read_text().replace("[net]\n", f"[net]\n{line}\n", 1))
    assert parse_model_config(path) == expected
    key = line.partition("#")[0].strip()
    assert f"note: {path}:2: '{key}' has no value: as if it were not there, as in Darknet" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["width=", "channels", "80,90", "=3"])
def test_a_key_that_decides_and_has_no_value_is_an_error(tmp_path, tiny_cfg, line):
    path = tmp_path / "empty.cfg"
    path.write_text(tiny_cfg.read_text().replace("[net]\n", f"[net]\n{line}\n", 1))
    with pytest.raises(CfgError, match=f"empty.cfg:2: found '{line}', expected key=value"):
        parse_model_config(path)


def test_a_key_said_twice_alike_is_no_error(tmp_path):
    assert read(tmp_path, NET + "[convolutional]\nfilters=8\npad=1\npad=1\n")[1]["pad"] == "1"


@pytest.mark.parametrize("kind", [kind for kind in SECTION_KEYS if kind != "se"])
def test_every_key_that_a_darknet_reads_is_known_and_kept(tmp_path, kind):
    needed = {"filters": "18", "layers": "0", "from": "0", "anchors": "1,2", "mask": "0", "activation": "leaky",
              "weights_type": "none", "weights_normalization": "none", "yolo_point": "center", "groups": "1",
              "group_id": "0", "batch_normalize": "1"}
    allowed = {key: value for key, (value, _) in NOT_COMPUTED.get(kind, {}).items() if value is not None}
    keys = {key: needed.get(key, "1") for key in SECTION_KEYS[kind]} | allowed
    text = "".join(f"{key}={value}\n" for key, value in keys.items())
    defs = read(tmp_path, f"[net]\n{text}[convolutional]\nfilters=18\n" if kind == "net" else
                f"{NET}[convolutional]\nfilters=18\n[convolutional]\nfilters=18\n[{kind}]\n{text}")
    assert keys.items() <= [section for section in defs if section["type"] == kind][-1].items()


@pytest.mark.parametrize("kind", sorted(NOT_COMPUTED))
def test_a_key_that_would_change_the_function_is_refused_by_name(tmp_path, kind):
    for key, (value, words) in NOT_COMPUTED[kind].items():
        (tmp_path / "a.cfg").write_text(f"{NET}[convolutional]\nfilters=8\n[{kind}]\n{key}=7\n")
        with pytest.raises(CfgError, match=rf":7: found {key}=7 in \[{kind}\], expected .*") as error:
            parse_model_config(tmp_path / "a.cfg")
        assert words in str(error.value)


def test_a_key_of_another_section_means_nothing_as_in_darknet(tmp_path, capsys):
    defs = read(tmp_path, NET + "[convolutional]\nfilters=8\n[maxpool]\nsize=2\nbatch_normalize=1\n")
    assert defs[2]["batch_normalize"] == "1"
    assert "'batch_normalize' means nothing in [maxpool]" in capsys.readouterr().out


@pytest.mark.parametrize("written, expected", [
    ("anchors = 10 , 13,  16,30, 33,23\nnum=3", [(10, 13), (16, 30), (33, 23)]),
    ("anchors=10,13,16,30,33,23, ,\nnum=3", [(10, 13), (16, 30), (33, 23)]),
    ("anchors=1 0,1 3, 16,30, 33,23\nnum=3", [(10, 13), (16, 30), (33, 23)]),  # Darknet takes the blanks out
    ("anchors=10,13 16,30 33,23\nnum=3", [(10, 13), (16, 30), (33, 23)]),
    ("anchors=10 13 16 30 33 23", [(10, 13), (16, 30), (33, 23)]),
    # Darknet reads the first 2 x num
    ("anchors=10,13, 16,30, 33,23, 99,98, 97\nnum=3", [(10, 13), (16, 30), (33, 23)])])
def test_anchors_are_read_however_they_are_divided(tmp_path, written, expected):
    assert head_anchors(read(tmp_path, NET + HEAD.format(written))[2]) == expected


def test_comments_in_another_encoding_are_no_matter(tmp_path):
    (tmp_path / "a.cfg").write_bytes("[net]\n# 训练\n[convolutional]\nfilters=8\n".encode("gbk"))
    assert parse_model_config(tmp_path / "a.cfg")[1]["filters"] == "8"


def test_sections_of_forks_become_the_layers_that_compute_the_same(tmp_path):
    defs = read(
        tmp_path,
        NET + "[convolutional]\nfilters=16\n[se]\nreduction=8\n[depthwise]\nbatch_normalize=1\nfilters=16\n"
        "size=5\npad=1\nactivation=h_swish\n[se]\nfilters=16\n[route_lhalf]\nlayers=2,-2\n[shortcut]\nfrom=-5\n"
        "[route]\nlayers=-6,0\n",
    )
    kinds = ["avgpool", "convolutional", "convolutional", "scale_channels"]
    assert [section["type"] for section in defs[1:]] == [
        "convolutional", *kinds, "convolutional", *kinds, "route", "shortcut", "route"]
    assert [defs[1 + i]["filters"] for i in (2, 3, 7, 8)] == ["2", "16", "4", "16"] and defs[6]["groups"] == "16"
    assert layer_inputs(4, defs[5]) == [3, 0] and layer_inputs(9, defs[10]) == [8, 5]
    assert layer_inputs(10, defs[11]) == [5, 5]  # layer 2 of the file
    assert defs[11]["groups"] == "2" and defs[11]["group_id"] == "0"
    assert layer_inputs(11, defs[12]) == [10, 0] and layer_inputs(12, defs[13]) == [0, 0]
    assert defs[13]["layers"] == "-12,0"


def test_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such cfg"):
        parse_model_config(tmp_path / "none.cfg")


@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 7), st.sampled_from(["leaky", "relu", "mish"])),
        min_size=1,
        max_size=8,
    )
)
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
    assert one.lists("train") == two.lists("valid") == (tmp_path / "t.txt",)


@pytest.mark.parametrize("name, text, words", [
    ("d.data", "classes=2\ntrain x\n", ":2: found"), ("d.data", "classes=two\n", ":1: found classes=two"),
    ("d.yaml", "a: [1\n", "expected YAML"), ("d.yaml", "- 1\n", "expected keys"),
    ("d.yaml", "nc: 3\nnames: [a]\n", "found classes=3 but 1 names"),
    ("d.yaml", "nc: one\n", "found nc 'one', expected a whole number"),
    ("d.yaml", "names: 5\n", "found names '5', expected a list"),
    ("d.yaml", "train: {a: b}\n", "found train {'a': 'b'}, expected the path")])
def test_data_errors_name_the_place(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(CfgError) as error:
        parse_data_config(tmp_path / name)
    assert words in str(error.value)


def test_missing_list_says_how_to_get_it(tmp_path):
    for name, made in (("data/train.txt", True), ("nowhere.txt", False)):  # nothing here makes the second
        (tmp_path / "d.data").write_text(f"classes=1\ntrain={name}\n")
        data = parse_data_config(tmp_path / "d.data")
        with pytest.raises(CfgError, match="does not exist") as error:
            data.lists("train")
        assert ("converter.py" in str(error.value)) == made
    with pytest.raises(CfgError, match="no 'valid' entry"):
        data.lists("valid")
