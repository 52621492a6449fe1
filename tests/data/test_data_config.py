"""Data descriptions as exported by other tools."""

import shutil

import pytest

from utils.data.data_config import parse_data_config
from utils.text import CfgError


def yaml_file(folder, text, *folders):
    for name in folders:
        (folder / name).mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


@pytest.mark.parametrize("case", ["yaml_roboflow", "yaml_quoted_class_numbers"])
def test_field_cases_read(shared, tmp_path, monkeypatch, case):
    shutil.copytree(shared / "field_cases" / case, tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    data = parse_data_config("d/data.yaml")
    assert data.lists("train") and data.lists("valid")
    assert data.names == (("hand",) if case == "yaml_roboflow" else tuple(f"class{i}" for i in range(12)))


def test_a_leading_dot_dot_is_kept_where_it_leads_somewhere_and_dropped_where_it_does_not(tmp_path):
    text = "train: ../train/images\nval: ../../valid/images\n"
    path = yaml_file(tmp_path / "a" / "set", text, "train/images", "valid/images")
    data = parse_data_config(path)
    assert data.lists("train") == (path.parent / "train/images",)
    assert data.lists("valid") == (path.parent / "valid/images",)
    (tmp_path / "a" / "train" / "images").mkdir(parents=True)
    assert parse_data_config(path).lists("train") == (path.parent / "../train/images",)


@pytest.mark.parametrize("root", ["", "path: ", "path: ~", "path: .", "path: root", "path: ../set/root",
                                  "path: d/set/root"])
def test_path_is_relative_to_the_file_or_to_the_working_directory(tmp_path, monkeypatch, root):
    folder = "root/images" if "root" in root else "images"
    text = f"{root}\ntrain: images/train\nval: images/val\nnames: {{0: hand}}\n"
    path = yaml_file(tmp_path / "d" / "set", text, f"{folder}/train", f"{folder}/val")
    monkeypatch.chdir(tmp_path)
    data = parse_data_config(path)
    assert data.lists("train")[0].samefile(path.parent / folder / "train")
    assert data.lists("valid")[0].samefile(path.parent / folder / "val")


def test_several_folders_make_one_part(tmp_path):
    path = yaml_file(tmp_path / "s", "train: [a, 'b']\nval:\n  - c\nnames: [hand]\n", "a", "b", "c")
    data = parse_data_config(path)
    assert data.lists("train") == (tmp_path / "s/a", tmp_path / "s/b") and data.lists("valid") == (tmp_path / "s/c",)
    path.write_text("train: [a, none]\n")
    with pytest.raises(CfgError, match="found train=none, which does not exist"):
        parse_data_config(path).lists("train")


@pytest.mark.parametrize("text, name", [("val: a\ntest: b", "a"), ("valid: a\nval: b", "a"), ("test: b", "b"),
                                        ("val:\ntest: b", "b"), ("val: null\nvalidation: a", "a"),
                                        ("validation: a\ntest: b", "a")])
def test_validation_images_are_the_first_that_are_named(tmp_path, text, name):
    path = yaml_file(tmp_path / "s", text, "a", "b")
    assert parse_data_config(path).lists("valid") == (tmp_path / "s" / name,)


@pytest.mark.parametrize("names", ["[zero, one, two]", "{0: zero, 2: two, 1: one}", "{'2': two, 0: zero, \"1\": one}",
                                   "zoo.names"])
def test_names_come_as_list_or_by_number_in_any_order_or_in_a_file(tmp_path, names):
    path = yaml_file(tmp_path / "s", f"names: {names}\n")
    (tmp_path / "s" / "zoo.names").write_text("zero\none\ntwo\n")
    assert parse_data_config(path).names == ("zero", "one", "two")


def test_names_are_as_they_are_written(tmp_path):
    path = yaml_file(tmp_path / "s", "names: [no, yes, 1.0, 2024-01-01, 2024-99-99, 0x1F, ~, 1e3]\n")
    assert parse_data_config(path).names == ("no", "yes", "1.0", "2024-01-01", "2024-99-99", "0x1F", "~", "1e3")


def test_a_file_of_names_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.data").write_text("classes=1\ntrain=a\nnames=data/my.names\n")
    with pytest.raises(CfgError, match=r"d/a.data: found names 'data/my.names', .* \(tried data/my.names, "
                                       r"d/data/my.names\)"):
        parse_data_config("d/a.data")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize("text, words", [
    ("names: {1: a, 2: b}", "expected the numbers 0 to 1"), ("names: {0: a, '0': b}", "twice, expected YAML"),
    ("names: {0: a, x: b}", "expected the numbers 0 to 1"), ("names: {0: a, ²: b}", "expected the numbers"),
    ("nc: ²", "found nc '²'"), ("nc: ٣", "found nc"), ("nc: -1", "found nc"), ("nc: [1]", "found nc"),
    ("nc: 1.5", "found nc"), ("nc: 999999999", "at most 100000"), ("nc: " + "9" * 9999, "found nc"),
    ("nc: 2\nnames: [a]", "found classes=2 but 1 names"),
    ("names: [[a, b]]", "found names [['a', 'b']]"), ("names: [" + "[a], " * 99999 + "]", "found names [['a'], ['a']"),
    ("path: [a]", "found path"), ("train: {a: b}", "found train"), ("train: [[a]]", "found train"),
    ("val: [1, {}]", "found val"),
    ("a: 1\na: 2", "a key that is there twice"), ("? [a, b]\n: c", "expected YAML"),
    ("a: &a [*a]\nnames: *a", "expected YAML"), ("a: *b", "expected YAML"), ("a: \x07", "expected YAML"),
    ("a: 1\n--- \nb: 2", "2: found another document, expected YAML"), ("names: " + "[" * 9000, "nested too deep"),
    ("- a", "found a list"), ("a", "found a text"),
    ("", "found nothing"), (LAUGHS + "names: *a59", "found names [["), (LAUGHS + "train: *a59", "found train [["),
    (LAUGHS + "nc: *a59", "found nc [["), (LAUGHS + "path: *a59", "found path [[")])
def test_yaml_that_cannot_be_meant_is_one_short_line(tmp_path, text, words):
    path = yaml_file(tmp_path / "s", text + "\n")
    with pytest.raises(CfgError) as error:
        parse_data_config(path)
    message = str(error.value)
    assert message.startswith(str(path)) and words in message
    assert len(message) < 700 + len(str(path)) and "\n" not in message


def test_keys_of_mixed_types_dates_and_merges_are_no_obstacle(tmp_path):
    mixed = "1: x\ntrue: y\n2024-01-01: z\n~: w\ndate: 2024-13-45\n"
    path = yaml_file(tmp_path / "s", f"{mixed}{MERGES}names: [hand]\nnc: 1\n")
    assert parse_data_config(path).names == ("hand",)


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_around_a_value_of_a_data_file_are_no_part_of_it(tmp_path, monkeypatch, quote):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my list.txt").write_text("a.jpg\n")
    (tmp_path / "a.data").write_text(f"classes={quote}1{quote}\nvalid={quote}my list.txt{quote}\n")
    with pytest.raises(CfgError, match="a.data:1: found classes="):
        parse_data_config("a.data")
    (tmp_path / "a.data").write_text(f"classes=1\nvalid = {quote}my list.txt{quote}\n")
    assert [path.name for path in parse_data_config("a.data").lists("valid")] == ["my list.txt"]


def test_a_value_of_a_data_file_may_hold_a_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take #2").mkdir()
    for name in ("take #2/train.txt", "#v.txt"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "d.data").write_text("# a comment\n; another\nclasses=1 # hands\ntrain=take #2/train.txt\n"
                                     "valid = #v.txt # as before\n")
    data = parse_data_config("d.data")
    assert [str(path) for path in data.lists("train") + data.lists("valid")] == ["take #2/train.txt", "#v.txt"]


@pytest.mark.parametrize("key", ["names", "train", "valid", "path"])
@pytest.mark.parametrize("suffix", [".data", ".yaml"])
def test_a_name_that_no_file_system_takes_is_one_that_is_not_there(tmp_path, key, suffix):
    """Path.is_file() and Path.exists() raise on it, without the data file's name."""
    long = "a/" + "x" * 5000
    line = f"{key}: {long}\n" if suffix == ".yaml" else f"{key}={long}\n"
    (tmp_path / f"a{suffix}").write_text(line)
    try:
        config = parse_data_config(tmp_path / f"a{suffix}")
        config.lists("train" if key != "valid" else "valid")
    except CfgError as error:
        assert str(error).startswith(str(tmp_path))


def test_names_that_no_names_file_could_hold_are_put_on_one_line(tmp_path):
    (tmp_path / "train.txt").write_text("")
    path = tmp_path / "set.yaml"
    path.write_text('train: train.txt\nval: train.txt\nnames: {0: "", 1: " car ", 2: "two\\nlines"}\n')
    assert parse_data_config(path).names == ("class0", "car", "two lines")
