"""data/import_dataset.py: other people's data sets, each in the shape that its own tool writes."""

import csv
import json
import os
import re
import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from scipy.io import savemat

from conftest import ROOT
from data import import_dataset
from utils import cli
from utils.data import duplicates, split
from utils.data.annotations import Box, Faults, Sample
from utils.data.data_config import parse_data_config
from utils.data.datasets import ListDataset
from utils.data.image_files import read_image_list
from utils.data.yolo_labels import DataError
from utils.data.documents import parse_xml
from utils.data.file_names import unique_names
from utils.data.labels import fit, label_text
from utils.data.pictures import Picture
from utils.data.source import Source
from utils.data.yolo_labels import label_path, read_labels
from utils.letterbox import Letterbox
from utils.parse_config import input_size, parse_model_config
from utils.training.args import parse_train_args, train_options
from utils.training.new_cfg import cfg_for_data

SIZE = 80, 60


def draw(path: Path, seed: int, size=SIZE) -> Path:
    """A picture of noise, another for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 255, (9, 12, 3)).astype(np.uint8)
    cv2.imencode(path.suffix, cv2.resize(cells, size))[1].tofile(path)
    return path


def run(source: Path, out: Path, *flags: str) -> dict:
    """Import; the report."""
    import_dataset.main([str(source), "--out", str(out), *flags])
    return json.loads((out / "report.json").read_text())


def imported(out: Path) -> dict[str, list]:
    """Picture name -> (class name, x1, y1, x2, y2) in fractions, by way of the project's own readers."""
    data = parse_data_config(out / f"{out.name}.data")
    assert data.names == parse_data_config(out / f"{out.name}.yaml").names
    found = {}
    for part in ("train", "valid"):
        if (out / f"{part}.txt").exists():
            for image in read_image_list(out / f"{part}.txt"):
                rows = read_labels(label_path(image), data.classes)
                found[image.name] = [(data.names[int(c)], x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                                     for c, x, y, w, h in rows]
    return found


def assert_boxes(found: list, expected_px: list, size=SIZE, atol=1e-4) -> None:
    """Boxes, expected as (name, x1, y1, x2, y2) in pixels of `size`."""
    assert [row[0] for row in found] == [row[0] for row in expected_px]
    got, want = np.array([row[1:] for row in found]), np.array([row[1:] for row in expected_px], float)
    np.testing.assert_allclose(got.reshape(-1, 4), want.reshape(-1, 4) / (*size, *size), atol=atol)


# COCO

def coco_set(root: Path, images=4, **more) -> dict:
    """Official layout: annotations/instances_{train,val}2017.json beside train2017/ and val2017/."""
    for part, first in (("train", 0), ("val", images)):
        table = {
            "info": {"description": "made"}, "licenses": [], "images": [], "annotations": [],
            "categories": [{"supercategory": "part", "id": 90, "name": "hand"},
                           {"supercategory": "animal", "id": 18, "name": "dog"}]
        }
        for i in range(first, first + images):
            name = f"{i:012d}.jpg"
            draw(root / f"{part}2017" / name, i)
            table["images"].append(
                {"id": 1000 + i, "file_name": name, "width": SIZE[0], "height": SIZE[1], "license": 1})
            for k in range(i % 3):
                table["annotations"].append({
                    "id": 10 * i + k, "image_id": 1000 + i, "category_id": (90, 18)[k], "iscrowd": 0,
                    "bbox": [5.5 + k, 7.25, 20 + i, 12.125], "area": 9.0, "segmentation": []
                })
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(table))
    return table


def test_coco_boxes_are_those_that_pycocotools_loads(tmp_path):
    coco_set(tmp_path / "coco")
    report = run(tmp_path / "coco", tmp_path / "out")
    found = imported(tmp_path / "out")
    assert report["format"] == "coco" and report["classes"] == ["dog", "hand"] and report["split"] == "as in the source"
    for part, listed in (("train", "train"), ("val", "valid")):
        coco = COCO(tmp_path / "coco" / "annotations" / f"instances_{part}2017.json")
        assert len(read_image_list(tmp_path / "out" / f"{listed}.txt")) == len(coco.imgs)
        for key, image in coco.imgs.items():
            rows = coco.loadAnns(coco.getAnnIds(key))
            assert_boxes(found[image["file_name"]], [(coco.cats[a["category_id"]]["name"], *a["bbox"][:2],
                                                      a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3])
                                                     for a in rows])


def test_images_that_coco_lists_without_an_annotation_are_background_unless_told_otherwise(tmp_path):
    coco_set(tmp_path / "coco")
    names = {f"{i:012d}.jpg" for i in range(8)}
    assert run(tmp_path / "coco", tmp_path / "a") and set(imported(tmp_path / "a")) == names
    report = run(tmp_path / "coco", tmp_path / "b", "--no-background")
    assert set(imported(tmp_path / "b")) == {f"{i:012d}.jpg" for i in range(8) if i % 3}
    assert "images without an annotation, left out: 3" in report["notes"]


def test_how_to_split_a_source_that_is_split_is_said_to_be_of_no_use(tmp_path, capsys):
    coco_set(tmp_path / "coco")
    run(tmp_path / "coco", tmp_path / "a", "--valid", "0.5", "--split-by", "none")
    assert "warning: --valid and --split-by: found a split in the source" in capsys.readouterr().out
    run(tmp_path / "coco", tmp_path / "b", "--valid", "0.5", "--resplit")
    run(tmp_path / "coco", tmp_path / "c")
    assert "warning: --" not in capsys.readouterr().out


def test_coco_crowds_are_left_out_and_counted_unless_kept(tmp_path):
    coco_set(tmp_path / "coco")
    path = tmp_path / "coco/annotations/instances_train2017.json"
    table = json.loads(path.read_text())
    table["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(table))
    one, other = run(tmp_path / "coco", tmp_path / "a"), run(tmp_path / "coco", tmp_path / "b", "--drop", "none")
    assert one["left_out_by_flag"] == {"crowd": 1} and other["left_out_by_flag"] == {}
    assert other["parts"]["train"]["boxes"] == one["parts"]["train"]["boxes"] + 1


def test_roboflow_coco_export_has_no_class_for_the_project_itself(tmp_path):
    for part, seed in (("train", 1), ("valid", 2)):
        draw(tmp_path / "rf" / part / "a b.jpg", seed)
        table = {
            "categories": [{"id": 0, "name": "hands", "supercategory": "none"},
                           {"id": 1, "name": "hand", "supercategory": "hands"}],
            "images": [{"id": 0, "file_name": "a b.jpg", "width": 80, "height": 60}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [8, 6, 16, 12], "iscrowd": 0}]
        }
        (tmp_path / "rf" / part / "_annotations.coco.json").write_text("\ufeff" + json.dumps(table), encoding="utf-8")
    run(tmp_path / "rf", tmp_path / "out")
    found = imported(tmp_path / "out")
    assert sorted(found) == ["train_a b.jpg", "valid_a b.jpg"]
    for rows in found.values():
        assert_boxes(rows, [("hand", 8, 6, 24, 18)])


def test_coco_polygons_stand_in_for_a_missing_bbox(tmp_path):
    coco_set(tmp_path / "coco", images=2)
    path = tmp_path / "coco/annotations/instances_train2017.json"
    table = json.loads(path.read_text())
    row = table["annotations"][0]
    del row["bbox"]
    row["segmentation"] = [[10, 10, 30, 12, 20, 40], [12, 8, 14, 9, 13, 20]]
    path.write_text(json.dumps(table))
    run(tmp_path / "coco", tmp_path / "out")
    assert_boxes(imported(tmp_path / "out")["000000000001.jpg"], [("hand", 10, 8, 30, 40)])


def one_class_coco(path: Path, names: list[str], bbox: list, categories: list[dict] | None = None) -> None:
    """A COCO file of pictures that each show one object, of the first category."""
    categories = categories or [{"id": 1, "name": "hand", "supercategory": "hand"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "images": [{"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(names)],
        "categories": categories,
        "annotations": [{"id": i, "image_id": i, "category_id": categories[0]["id"], "bbox": bbox}
                        for i in range(len(names))]}))


def test_coco_classes_are_in_the_order_of_their_ids_over_all_files(tmp_path):
    """The file that is read first has a box of the last category alone, and the first stands above itself."""
    dog, hand, left = ({"id": i, "name": name, "supercategory": above}
                       for i, name, above in (("2", "dog", "dog"), ("10", "hand", "limb"), ("11", "limb", "body")))
    for part, categories in (("train", [hand, dog, left]), ("val", [dog, hand])):
        draw(tmp_path / "in" / part / f"{part}.jpg", len(part))
        one_class_coco(tmp_path / f"in/annotations/instances_{part}.json", [f"{part}.jpg"], [8, 6, 32, 24], categories)
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["classes"] == ["dog", "hand"]
    assert report["notes"] == ["categories above others, without a box, left out: limb"]
    assert_boxes(imported(tmp_path / "out")["train.jpg"], [("hand", 8, 6, 40, 30)])
    one_class_coco(tmp_path / "in/annotations/instances_val.json", ["val.jpg"], [8, 6, 32, 24], [left])
    assert run(tmp_path / "in", tmp_path / "out")["classes"] == ["dog", "hand", "limb"]  # a file has boxes of it


def test_a_category_without_a_box_that_stands_above_itself_is_a_class(tmp_path):
    categories = [{"id": 2, "name": "car", "supercategory": "vehicle"}, {"id": 1, "name": "person",
                                                                         "supercategory": "person"}]
    draw(tmp_path / "in/a.jpg", 1)
    draw(tmp_path / "in/b.jpg", 2)
    one_class_coco(tmp_path / "in/a.json", ["a.jpg", "b.jpg"], [8, 6, 32, 24], categories)
    assert run(tmp_path / "in", tmp_path / "out")["classes"] == ["person", "car"]


@pytest.mark.parametrize("kind", ["coco", "voc", "labelme"])
def test_fractions_where_pixels_are_expected_are_a_fault(tmp_path, capsys, kind):
    for name in "ab":
        draw(tmp_path / f"in/{name}.jpg", ord(name))
        if kind == "voc":
            (tmp_path / f"in/{name}.xml").write_bytes(voc_xml(f"{name}.jpg", [("hand", 0.1, 0.1, 0.5, 1)]))
        elif kind == "labelme":
            (tmp_path / f"in/{name}.json").write_text(
                labelme_json(f"{name}.jpg", [("hand", "rectangle", [[0.1, 0.1], [0.5, 0.5]], None)]))
    if kind == "coco":
        one_class_coco(tmp_path / "in/a.json", ["a.jpg", "b.jpg"], [0.1, 0.1, 0.4, 0.5])
    with pytest.raises(DataError) as error:
        run(tmp_path / "in", tmp_path / "out")
    assert "all lie within 0 and 1, expected pixels" in str(error.value) + capsys.readouterr().err
    assert not (tmp_path / "out").exists()


FAULTS = {  # what is changed in a COCO table, and what the line says
    "box of words": (lambda t: t["annotations"][0].update(bbox=["a", 1, 2, 3]), "annotations[0].bbox"),
    "box of three": (lambda t: t["annotations"][0].update(bbox=[1, 2, 3]), "annotations[0].bbox"),
    "not a number": (lambda t: t["annotations"][0].update(bbox=[float("nan"), 1, 2, 3]), "annotations[0].bbox"),
    "negative size": (lambda t: t["annotations"][0].update(bbox=[1, 1, -2, 3]), "annotations[0].bbox"),
    "unknown category": (lambda t: t["annotations"][0].update(category_id=7), "annotations[0].category_id"),
    "category list": (lambda t: t["annotations"][0].update(category_id=[7]), "annotations[0].category_id"),
    "unknown image, bad box": (lambda t: t["annotations"][0].update(image_id=7, bbox=1), "annotations[0].bbox"),
    "unknown image": (lambda t: t["annotations"][0].update(image_id=7), "image 7"),
    "annotation of text": (lambda t: t["annotations"].append("x"), "annotations["),
    "missing picture": (lambda t: t["images"][1].update(file_name="none.jpg"), "images[1].file_name"),
    "image twice": (lambda t: t["images"].append(dict(t["images"][0])), "images[4]"),
    "size of another shape": (lambda t: t["images"][1].update(width=500), "images[1]"),
    "name too long": (lambda t: t["images"][1].update(file_name="a" * 5000), "images[1].file_name"),
    "name of a folder": (lambda t: t["images"][1].update(file_name="/"), "images[1].file_name"),
    "id of a list": (lambda t: t["images"][1].update(id=[1]), "images[1]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_file_and_position_and_writes_nothing_unless_skipped(tmp_path, capsys, fault):
    coco_set(tmp_path / "coco")
    path = tmp_path / "coco/annotations/instances_train2017.json"
    table = json.loads(path.read_text())
    spoil, place = FAULTS[fault]
    spoil(table)
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match="--skip-bad"):
        run(tmp_path / "coco", tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert any(str(path) in line and place in line for line in lines)
    assert {path.name for path in tmp_path.glob("out/*")} <= {".import.jsonl"}
    assert run(tmp_path / "coco", tmp_path / "out", "--skip-bad")["mended"]["bad"] >= 1


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"images": 3, "annotations": [], "categories": []}', "[" * 100000,
                                  '{"images": [], "annotations": [], "categories": []}', '"images" "annotations"'])
def test_json_that_is_no_coco_is_an_error_of_one_line(tmp_path, text):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text(text)
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "out", "--format", "coco")
    assert not (tmp_path / "out").exists()


# VOC

def voc_xml(name: str, boxes: list, database="Unknown", size=SIZE, **more) -> bytes:
    """As labelImg writes it (pascal_voc_io.py)."""
    top = ET.Element("annotation")
    ET.SubElement(top, "folder").text = "images"
    ET.SubElement(top, "filename").text = name
    ET.SubElement(top, "path").text = f"C:\\Users\\me\\images\\{name}"
    ET.SubElement(ET.SubElement(top, "source"), "database").text = database
    if size:
        part = ET.SubElement(top, "size")
        for tag, value in zip(("width", "height", "depth"), (*size, 3)):
            ET.SubElement(part, tag).text = str(value)
    ET.SubElement(top, "segmented").text = "0"
    for label, *corners in boxes:
        item = ET.SubElement(top, "object")
        for tag, text in {"name": label, "pose": "Unspecified", "truncated": "0", "difficult": "0", **more}.items():
            ET.SubElement(item, tag).text = text
        box = ET.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners):
            ET.SubElement(box, tag).text = str(value)
    return ET.tostring(top, encoding="utf-8")


def write_voc(root: Path, stem: str, content: bytes, seed: int, folders=("", "")) -> None:
    draw(root / folders[0] / f"{stem}.jpg", seed)
    path = root / folders[1] / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_an_annotation_without_a_byte_is_a_fault_not_a_picture_without_an_object(tmp_path):
    write_voc(tmp_path / "in", "a", voc_xml("a.jpg", [("hand", 4, 6, 40, 30)]), 1)
    write_voc(tmp_path / "in", "b", b"", 2)
    with pytest.raises(DataError, match=r"found 1 fault \(above, from .*b.xml:1 on\)"):
        run(tmp_path / "in", tmp_path / "out", "--background")
    run(tmp_path / "in", tmp_path / "out", "--skip-bad")
    assert list(imported(tmp_path / "out")) == ["a.jpg"]


def test_labelimg_folder_with_blanks_and_unicode_is_imported(tmp_path):
    for i, stem in enumerate(("a b", "手 1", "c.d", "e")):
        write_voc(tmp_path / "in", stem, voc_xml(f"{stem}.jpg", [("main gauche", 4, 6, 40, 30)]), i)
    report = run(tmp_path / "in", tmp_path / "out")
    found = imported(tmp_path / "out")
    assert report["format"] == "voc" and sorted(found) == sorted(f"{stem}.jpg" for stem in ("a b", "手 1", "c.d", "e"))
    for rows in found.values():
        assert_boxes(rows, [("main gauche", 4, 6, 40, 30)])


def test_voc_layout_keeps_its_lists_counts_pixels_from_one_and_ignores_parts_of_objects(tmp_path):
    root = tmp_path / "VOC2007"
    part = (b"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
            b"</object>")
    for i in range(5):
        content = voc_xml(f"{i:06d}.jpg", [("person", 9, 7, 40, 30)],
                          database="The VOC2007 Database").replace(b"</object>", part)
        write_voc(root, f"{i:06d}", content, i, ("JPEGImages", "Annotations"))
        draw(root / "SegmentationClass" / f"{i:06d}.png", 50 + i)
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for name, stems in {"train": (0, 1), "val": (2,), "trainval": (0, 1, 2), "test": (3,)}.items():
        (main / f"{name}.txt").write_text("".join(f"{stem:06d}\n" for stem in stems))
    report = run(root, tmp_path / "out")
    assert {part: row["images"] for part, row in report["parts"].items()} == {"train": 2, "valid": 1, "test": 1}
    assert "in no list of ImageSets/Main, left out: 1" in report["notes"][0]
    assert_boxes(imported(tmp_path / "out")["000002.jpg"], [("person", 8, 6, 40, 30)])
    assert report["classes"] == ["person"]


def test_lists_of_voc_may_have_endings_and_the_marks_of_class_lists(tmp_path):
    root = tmp_path / "in"
    for i, stem in enumerate(("a", "b 1", "c.d", "e")):
        content = voc_xml(f"{stem}.jpg", [("person", 4, 6, 40, 30)])
        write_voc(root, stem, content, i, ("JPEGImages", "Annotations"))
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("a.jpg\nb 1\nmissing\n")
    (main / "val.txt").write_text("c.d 1\nJPEGImages/e.jpg -1\n")
    report = run(root, tmp_path / "out")
    assert {part: row["images"] for part, row in report["parts"].items()} == {"train": 2, "valid": 2}
    assert report["notes"] == ["names in lists of ImageSets/Main without an annotation, left out: 1"]
    for name in ("train", "val"):
        (main / f"{name}.txt").unlink()
    (main / "person_train.txt").write_text("a  1\nb 1 -1\nc.d  0\n")  # -1: shows none, and trains all the same
    (main / "person_val.txt").write_text("e -1\n")
    report = run(root, tmp_path / "out")
    assert report["split"] == "as in the source"
    assert {part: row["images"] for part, row in report["parts"].items()} == {"train": 3, "valid": 1}


def test_voc_without_size_with_another_encoding_and_renamed_files(tmp_path):
    root = tmp_path / "in"
    write_voc(root, "new", voc_xml("old.jpg", [("hand", 4, 6, 40, 30)], size=None), 1)
    write_voc(root, "zero", voc_xml("zero.jpg", [("hand", 4, 6, 40, 30)], size=(0, 0)), 2)
    text = voc_xml("gb.jpg", [("手", 4, 6, 40, 30)]).decode()
    write_voc(root, "gb", ('<?xml version="1.0" encoding="gb2312"?>\n' + text).encode("gb2312"), 3)
    write_voc(root, "wide", text.replace("gb.jpg", "wide.jpg").encode("utf-16"), 4)
    run(root, tmp_path / "out")
    for name, rows in imported(tmp_path / "out").items():
        assert_boxes(rows, [("hand" if name in ("new.jpg", "zero.jpg") else "手", 4, 6, 40, 30)])


def test_voc_difficult_is_left_out_and_rotated_boxes_become_their_hull(tmp_path):
    root = tmp_path / "in"
    write_voc(root, "a", voc_xml("a.jpg", [("hand", 4, 6, 40, 30)], difficult="1"), 1)
    turned = (b"<annotation><filename>b</filename><object><type>robndbox</type><name>hand</name><robndbox><cx>40</cx>"
              b"<cy>30</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox></object></annotation>")
    write_voc(root, "b", turned, 2)
    report = run(root, tmp_path / "out")
    assert report["left_out_by_flag"] == {"difficult": 1}
    assert_boxes(imported(tmp_path / "out")["b.jpg"], [("hand", 35, 20, 45, 40)])


@pytest.mark.parametrize("line, text", [
    (1, '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;&x;">]>\n<annotation>&y;</annotation>'),
    (1, '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd">%x;]>\n<annotation/>'),
    (2, '<!DOCTYPE annotation SYSTEM "voc.dtd">\n<annotation><name>a &x; b</name></annotation>'),
])
def test_xml_with_entities_of_its_own_is_refused_in_one_line(line, text):
    with pytest.raises(DataError, match=rf"^a.xml:{line}: found the entity x"):
        parse_xml(text.encode(), "a.xml")


@pytest.mark.parametrize("head", ["<!DOCTYPE annotation>", '<!DOCTYPE annotation SYSTEM "http://x.invalid/voc.dtd">',
                                  "<!DOCTYPE annotation [<!ELEMENT annotation ANY>]>"])
def test_xml_with_a_doctype_is_read_and_nothing_is_fetched(head):
    assert parse_xml(f"{head}\n<annotation><name>a &amp; b</name></annotation>".encode(), "a").value("name") == "a & b"


@given(st.binary(max_size=200))
def test_any_bytes_are_xml_or_an_error_with_the_file(content):
    try:
        parse_xml(b"<annotation>" + content, "a.xml")
    except DataError as error:
        assert str(error).startswith("a.xml:")


# YOLO


def yolo_set(root: Path, parts: dict[str, int], images="images/{part}", labels="labels/{part}",
             label="0 0.5 0.5 0.25 0.5\n") -> None:
    seed = 0
    for part, count in parts.items():
        for i in range(count):
            seed += 1
            draw(root / images.format(part=part) / f"{part}{chr(97 + i)}.jpg", seed)
            path = root / labels.format(part=part) / f"{part}{chr(97 + i)}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(label)


def data_yaml(file: Path, **content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))


def test_ultralytics_layout_with_names_by_number(tmp_path):
    yolo_set(tmp_path / "in", {"train": 3, "val": 2}, label="1 0.5 0.5 0.25 0.5\n")
    data_yaml(tmp_path / "in/coco8.yaml", path="../datasets/coco8", train="images/train", val="images/val", test=None,
              names={0: "left", 1: "right"})
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["classes"] == ["left", "right"] and report["split"] == "as in the source"
    for rows in imported(tmp_path / "out").values():
        assert_boxes(rows, [("right", 30, 15, 50, 45)])


def test_roboflow_layout_with_paths_above_the_folder_and_a_test_side(tmp_path):
    yolo_set(tmp_path / "in", {"train": 3, "valid": 2, "test": 1}, "{part}/images", "{part}/labels")
    data_yaml(tmp_path / "in/data.yaml", train="../train/images", val="../valid/images", test="../test/images", nc=1,
              names=["hand"])
    report = run(tmp_path / "in", tmp_path / "out")
    assert {part: row["images"] for part, row in report["parts"].items()} == {"train": 3, "valid": 2, "test": 1}


def test_darknet_lists_of_another_machine(tmp_path):
    """CVAT's export: obj.data, obj.names, train.txt with paths under data/, labels beside the pictures."""
    yolo_set(tmp_path / "in", {"train": 2, "valid": 1}, "obj_{part}_data", "obj_{part}_data")
    (tmp_path / "in/obj.names").write_text("hand\n")
    (tmp_path / "in/obj.data").write_text(
        "classes = 1\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n")
    (tmp_path / "in/train.txt").write_text("data/obj_train_data/traina.jpg\n/home/me/data/obj_train_data/trainb.jpg\n")
    (tmp_path / "in/valid.txt").write_text("data\\obj_valid_data\\valida.jpg\n")
    report = run(tmp_path / "in", tmp_path / "out")
    assert {part: row["boxes"] for part, row in report["parts"].items()} == {"train": 2, "valid": 1}


def test_labelimg_yolo_folder_takes_classes_txt_and_missing_labels_as_background(tmp_path):
    yolo_set(tmp_path / "in", {"x": 4}, "", "")
    draw(tmp_path / "in/none.jpg", 99)
    (tmp_path / "in/classes.txt").write_text("hand\n")
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["classes"] == ["hand"] and imported(tmp_path / "out")["none.jpg"] == []
    assert "none.jpg" not in (run(tmp_path / "in", tmp_path / "b", "--no-background") and imported(tmp_path / "b"))


def test_polygon_lines_become_boxes_and_keypoints_are_left(tmp_path):
    yolo_set(tmp_path / "in", {"train": 2, "val": 1},
             label="0 0.1 0.2 0.5 0.2 0.4 0.9\n0 0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2\n")
    data_yaml(tmp_path / "in/a.yaml", train="images/train", val="images/val", names=["hand"])
    run(tmp_path / "in", tmp_path / "out")
    for rows in imported(tmp_path / "out").values():
        assert_boxes(rows, [("hand", 8, 12, 40, 54), ("hand", 8, 6, 24, 12)])
    data_yaml(tmp_path / "in/a.yaml", train="images/train", val="images/val", names=["hand"], kpt_shape=[1, 2])
    yolo_set(tmp_path / "in", {"train": 2, "val": 1}, label="0 0.5 0.5 0.25 0.5 0.5 0.5\n")
    run(tmp_path / "in", tmp_path / "pose")
    for rows in imported(tmp_path / "pose").values():
        assert_boxes(rows, [("hand", 30, 15, 50, 45)])


@pytest.mark.parametrize("line", [
    "0 0.5 0.5 0.2", "0 0.5 0.5 0.2 0.2 0.9", "0 50 50 20 20", "3 0.5 0.5 0.2 0.2", "0.5 0.5 0.5 0.2 0.2",
    "hand 0.5 0.5 0.2 0.2", "0 nan 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2"
])
def test_a_bad_label_line_is_named(tmp_path, capsys, line):
    yolo_set(tmp_path / "in", {"train": 3, "val": 1})
    data_yaml(tmp_path / "in/a.yaml", train="images/train", val="images/val", names=["hand"])
    (tmp_path / "in/labels/train/traina.txt").write_text(f"0 0.5 0.5 0.25 0.5\n{line}\n")
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "out")
    assert f"{tmp_path}/in/labels/train/traina.txt:2: found" in capsys.readouterr().err
    assert run(tmp_path / "in", tmp_path / "out", "--skip-bad")["parts"]["train"]["images"] == 2


@pytest.mark.parametrize("content, words", [
    ({"train": "images/train", "val": "images/none"}, "found valid 'images/none'"),
    ({"train": "../none/images", "val": "images/val"}, "found train '../none/images'"),
    ({"train": ["images/train", "more"], "val": "images/val"}, "found train 'more'"),
    ({"train": "images/train", "val": "valid/images"}, "found valid 'valid/images'"),  # images/ alone is not that
    ({"train": "/home/me/a", "val": "/home/me/b"}, "found train '/home/me/a'"),
    ({"train": "/me/a/images", "val": "/me/b/images"}, "found train '/me/a/images'")])  # not both the same
def test_a_side_that_is_not_there_is_a_fault(tmp_path, content, words):
    yolo_set(tmp_path / "in", {"train": 2, "val": 1})
    data_yaml(tmp_path / "in/a.yaml", names=["hand"], **content)
    with pytest.raises(DataError, match=f"^{tmp_path}/in/a.yaml: {re.escape(words)}, which is not there"):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", [".", "./", "/home/me/in/images", "images"])
def test_a_data_file_that_names_one_folder_for_both_sides_splits_anew(tmp_path, place):
    yolo_set(tmp_path / "in", {"x": 5}, "images", "labels")
    data_yaml(tmp_path / "in/a.yaml", names=["hand"], train=place, val=place)
    report = run(tmp_path / "in", tmp_path / "out")
    assert {part: row["images"] for part, row in report["parts"].items()} == {"train": 4, "valid": 1}


def test_images_of_no_side_are_not_those_of_a_side_that_is_not_there(tmp_path):
    yolo_set(tmp_path / "in", {"train": 2}, "{part}/images", "{part}/labels")
    draw(tmp_path / "in/images/other.jpg", 9)
    data_yaml(tmp_path / "in/data.yaml", names=["hand"], train="../train/images", val="../valid/images")
    with pytest.raises(DataError, match="found valid '../valid/images', which is not there"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_test_side_that_is_not_there_is_said(tmp_path):
    yolo_set(tmp_path / "in", {"train": 2, "val": 1})
    data_yaml(tmp_path / "in/a.yaml", names=["hand"], train="images/train", val="images/val", test="../test/images")
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["notes"] == [f"{tmp_path}/in/a.yaml: names '../test/images' for test, which is not there"]
    assert {part: row["images"] for part, row in report["parts"].items()} == {"train": 2, "valid": 1}


def two_sets(root: Path, names: list[str], **other) -> None:
    """Two of Roboflow's exports side by side; the other's classes are `names`, its boxes of its last class."""
    for folder, classes in (("a", ["left", "right"]), ("b", names)):
        yolo_set(root / folder, {"train": 2, "valid": 1}, "{part}/images", "{part}/labels",
                 f"{len(classes) - 1} 0.5 0.5 0.25 0.5\n")
        data_yaml(root / folder / "data.yaml", train="../train/images", val="../valid/images", names=classes)


def test_two_sets_of_the_same_classes_are_one_whatever_their_order(tmp_path):
    two_sets(tmp_path / "in", ["right", "left"])
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["notes"] == [f"read as one set: {tmp_path}/in/a/data.yaml, {tmp_path}/in/b/data.yaml"]
    assert report["classes"] == ["left", "right"]
    assert {part: row["boxes_per_class"] for part, row in report["parts"].items()} == {
        "train": {"left": 2, "right": 2}, "valid": {"left": 1, "right": 1}}


def test_two_sets_of_other_classes_are_to_be_imported_alone(tmp_path):
    two_sets(tmp_path / "in", ["left", "foot"])
    with pytest.raises(DataError, match="b/data.yaml: found classes 'left, foot', expected those of .*alone"):
        run(tmp_path / "in", tmp_path / "out")
    assert run(tmp_path / "in/b/data.yaml", tmp_path / "out")["classes"] == ["left", "foot"]


def test_a_data_file_that_names_classes_alone_stands_for_all_pictures_below_it(tmp_path):
    yolo_set(tmp_path / "in", {"x": 3}, "", "")
    (tmp_path / "in/a.yaml").write_text("names: [hand]\n")
    report = run(tmp_path / "in/a.yaml", tmp_path / "out")
    assert report["classes"] == ["hand"] and report["notes"] == ["a.yaml names no pictures: all below it are taken"]
    assert len(imported(tmp_path / "out")) == 3


def test_two_data_files_of_the_same_pictures_have_to_agree(tmp_path):
    yolo_set(tmp_path / "in", {"train": 3, "val": 2})
    data_yaml(tmp_path / "in/a.yaml", train="images/train", val="images/val", names=["hand"])
    data_yaml(tmp_path / "in/b.yaml", train="../in/images/train", names=["hand"])
    data_yaml(tmp_path / "in/elsewhere.yaml", train="/none/a", val="/none/b", names=["foot"])
    (tmp_path / "in/stale.data").write_text("classes=1\nnames=foot.names\ntrain=stale.txt\n")
    (tmp_path / "in/stale.txt").write_text("none.jpg\n")
    report = run(tmp_path / "in", tmp_path / "out")
    assert {part: row["images"] for part, row in report["parts"].items()} == {"train": 3, "valid": 2}
    assert report["notes"] == [f"{tmp_path}/in/{name}: names no picture that is there, left aside"
                               for name in ("elsewhere.yaml", "stale.data")]
    assert report["mended"].get("listed twice", 0) == 0
    data_yaml(tmp_path / "in/b.yaml", train="images/val", names=["hand"])
    with pytest.raises(DataError, match="b.yaml: found .* for train .*, expected valid .* as in .*a.yaml; import each"):
        run(tmp_path / "in", tmp_path / "out")


def test_the_nearest_classes_txt_says_which_classes_are_meant(tmp_path):
    """labelImg writes one to each folder, in the order in which the names were first used there."""
    for i, (part, names) in enumerate({"train": "hand\nfist\n", "valid": "fist\nhand\n"}.items()):
        draw(tmp_path / f"in/{part}/{part}.jpg", i)
        (tmp_path / f"in/{part}/{part}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
        (tmp_path / f"in/{part}/classes.txt").write_text(names)
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["classes"] == ["hand", "fist"]
    assert "files of class names differ (2 lists): the nearest to each label counts" in report["notes"]
    found = imported(tmp_path / "out")
    assert_boxes(found["train.jpg"], [("hand", 30, 15, 50, 45)])
    assert_boxes(found["valid.jpg"], [("fist", 30, 15, 50, 45)])
    draw(tmp_path / "in/more/1.jpg", 7)
    (tmp_path / "in/more/1.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    with pytest.raises(DataError, match="valid/classes.txt: found other class names than in .*train/classes.txt, "
                                        "expected one file for .*more"):
        run(tmp_path / "in", tmp_path / "out")


BEHIND_A_BOX = {"confidence": "0.91", "track": "0.91 1", "keypoints": "0.45 0.45 0.55 0.45 0.5 0.55",
                "visibilities": "0.45 0.45 1 0.55 0.45 0", "seen": "0.45 0.45 2 0.55 0.45 2", "three": "0.5 0.5 1"}


@pytest.mark.parametrize("more", BEHIND_A_BOX.values(), ids=BEHIND_A_BOX.keys())
def test_what_follows_a_box_is_no_polygon(tmp_path, capsys, more):
    yolo_set(tmp_path / "in", {"train": 3, "val": 1}, label=f"0 0.5 0.5 0.25 0.5 {more}\n")
    content = {"train": "images/train", "val": "images/val", "names": ["hand"]}
    data_yaml(tmp_path / "in/a.yaml", **content)
    with pytest.raises(DataError) as error:
        run(tmp_path / "in", tmp_path / "out")
    lines = str(error.value) + capsys.readouterr().err
    assert f"{tmp_path}/in/labels/train/traina.txt:1: found" in lines and "kpt_shape" in lines
    data_yaml(tmp_path / "in/a.yaml", kpt_shape=[1, len(more.split())], **content)
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["notes"] == ["boxes whose keypoints were left out: 4"]
    assert_boxes(imported(tmp_path / "out")["traina.jpg"], [("hand", 30, 15, 50, 45)])
    data_yaml(tmp_path / "in/a.yaml", kpt_shape=[9, 3], **content)
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "b")
    assert "expected 4, or 31 as kpt_shape says" in capsys.readouterr().err


@pytest.mark.parametrize("line, corners", [
    ("0 .1 .1 .3 .1 .3 .3 .1 .3 .1 .1", (8, 6, 24, 18)),  # closed
    ("0 .4 .4 .5 .3 .6 .6", (32, 18, 48, 36)),  # the third point lies outside what would be its box
    ("0 0 0 1 0 1 1 0 1", (0, 0, 80, 60)), ("0 .2 .5 .8 .4 .9 .6 .6 .7", (16, 24, 72, 42)),
    ("0 .5 .5 .4 .4 .6 .45 .5 .5", (32, 24, 48, 30))])
def test_polygons_of_one_length_are_polygons(tmp_path, line, corners):
    yolo_set(tmp_path / "in", {"train": 3, "val": 1}, label=f"{line}\n")
    data_yaml(tmp_path / "in/a.yaml", train="images/train", val="images/val", names=["hand"])
    run(tmp_path / "in", tmp_path / "out")
    assert_boxes(imported(tmp_path / "out")["traina.jpg"], [("hand", *corners)])


@pytest.mark.parametrize("shape", [3, [17], [17, "x"], [[1], 2], {"a": 1}])
def test_a_shape_of_keypoints_that_is_none_is_a_fault(tmp_path, shape):
    yolo_set(tmp_path / "in", {"train": 3, "val": 1})
    data_yaml(tmp_path / "in/a.yaml", train="images/train", val="images/val", names=["hand"], kpt_shape=shape)
    with pytest.raises(DataError, match="a.yaml: found kpt_shape .*, expected how many"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_list_that_is_named_counts_whatever_lies_beside(tmp_path):
    yolo_set(tmp_path / "in", {"x": 5}, "", "")
    for name, pictures in {"train": "ab", "valid": "c", "mine": "bde"}.items():
        (tmp_path / f"in/{name}.txt").write_text("".join(f"x{letter}.jpg\n" for letter in pictures))
    run(tmp_path / "in/mine.txt", tmp_path / "out")
    assert sorted(imported(tmp_path / "out")) == ["xb.jpg", "xd.jpg", "xe.jpg"]


def test_round_trip_yolo_coco_yolo_keeps_every_box(tmp_path):
    rng = np.random.default_rng(3)
    yolo_set(tmp_path / "in", {"train": 4, "val": 2})
    for path in (tmp_path / "in/labels").rglob("*.txt"):
        wh = rng.uniform(0.01, 0.4, (5, 2))
        centre = rng.uniform(wh / 2, 1 - wh / 2)
        path.write_text("".join(f"{k % 2} {x:.8f} {y:.8f} {w:.8f} {h:.8f}\n"
                                for k, ((x, y), (w, h)) in enumerate(zip(centre, wh))))
    data_yaml(tmp_path / "in/a.yaml", train="images/train", val="images/val", names=["left", "right"])
    run(tmp_path / "in", tmp_path / "first")
    first = imported(tmp_path / "first")
    table = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "left"}, {"id": 9, "name": "right"}]}
    for i, (name, rows) in enumerate(first.items()):
        table["images"].append({"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for label, x1, y1, x2, y2 in rows:
            box = [x1 * SIZE[0], y1 * SIZE[1], (x2 - x1) * SIZE[0], (y2 - y1) * SIZE[1]]
            table["annotations"].append({
                "id": len(table["annotations"]), "image_id": i, "category_id": {"left": 5, "right": 9}[label],
                "bbox": [float(v) for v in box]
            })
    (tmp_path / "coco.json").write_text(json.dumps(table))
    run(tmp_path / "coco.json", tmp_path / "second", "--images", str(tmp_path / "first/images"))
    second = imported(tmp_path / "second")
    assert first.keys() == second.keys()
    for name in first:
        assert_boxes(second[name], first[name], (1, 1))


# LabelMe

def labelme_json(name: str, shapes: list, **more) -> str:
    """As labelme writes it (label_file.py)."""
    rows = [{
        "label": label, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": {},
        "mask": None
    } for label, kind, points, group in shapes]
    return json.dumps({"version": "5.4.1", "flags": {}, "shapes": rows, "imagePath": name, "imageData": None,
                       "imageHeight": SIZE[1], "imageWidth": SIZE[0], **more}, ensure_ascii=False, indent=2)


def test_labelme_shapes_become_upright_boxes(tmp_path):
    shapes = [("hand", "rectangle", [[40, 30], [8, 6]], None),
              ("hand", "polygon", [[10, 10], [30, 12], [20, 40]], None),
              ("hand", "circle", [[40, 30], [43, 34]], None),
              ("hand", "rotation", [[40, 10], [50, 20], [40, 30], [30, 20]], None),
              ("arm", "polygon", [[1, 1], [5, 1], [5, 5]], 3), ("arm", "polygon", [[20, 20], [25, 20], [25, 30]], 3),
              ("tip", "point", [[3, 3]], None)]
    draw(tmp_path / "in/imgs/a.jpg", 1)
    draw(tmp_path / "in/imgs/b.jpg", 2)
    (tmp_path / "in/a.json").write_text(labelme_json("imgs\\a.jpg", shapes), encoding="utf-8-sig")
    (tmp_path / "in/b.json").write_text(labelme_json("../imgs/b.jpg", shapes[:1]))
    report = run(tmp_path / "in", tmp_path / "out", "--valid", "0.5", "--split-by", "none")
    assert_boxes(imported(tmp_path / "out")["a.jpg"],
                 [("hand", 8, 6, 40, 30), ("hand", 10, 10, 30, 40), ("hand", 35, 25, 45, 35), ("hand", 30, 10, 50, 30),
                  ("arm", 1, 1, 25, 30)])
    assert report["classes"] == ["arm", "hand"] and "points and lines" in report["notes"][0]


@pytest.mark.parametrize("group", ["", None])
def test_labelme_shapes_without_a_group_are_objects_of_their_own(tmp_path, group):
    shapes = [("hand", "rectangle", [[8, 6], [20, 30]], group), ("hand", "rectangle", [[50, 40], [70, 50]], group),
              ("arm", "rectangle", [[1, 1], [5, 5]], 0), ("arm", "rectangle", [[20, 20], [25, 25]], 0)]
    for name in "ab":
        draw(tmp_path / f"in/{name}.jpg", ord(name))
        (tmp_path / f"in/{name}.json").write_text(labelme_json(f"{name}.jpg", shapes))
    report = run(tmp_path / "in", tmp_path / "out")
    assert_boxes(imported(tmp_path / "out")["a.jpg"],
                 [("hand", 8, 6, 20, 30), ("hand", 50, 40, 70, 50), ("arm", 1, 1, 25, 25)])
    assert report["notes"] == ["shapes joined to another of their label and group_id, one box around all: 2"]


def test_with_background_a_picture_is_no_other_for_being_spelled_otherwise(tmp_path, monkeypatch):
    for i, name in enumerate("abc"):
        draw(tmp_path / f"in/imgs/{name}.jpg", i)
    for name in "ab":
        path = tmp_path / f"in/labels/{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(labelme_json(f"../imgs/{name}.jpg", [("hand", "rectangle", [[8, 6], [20, 30]], None)]))
    monkeypatch.chdir(tmp_path)
    run(Path("in"), tmp_path / "out", "--background")
    counts = {name: len(rows) for name, rows in imported(tmp_path / "out").items()}
    assert counts == {"a.jpg": 1, "b.jpg": 1, "c.jpg": 0}


# CSV

HEADERS = {
    "tensorflow": (["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"],
                   lambda n: [n, 80, 60, "hand", 8, 6, 40, 30]),
    "retinanet": (None, lambda n: [n, 8, 6, 40, 30, "hand"]),
    "automl": (None, lambda n: ["TRAIN", f"gs://bucket/{n}", "hand", 0.1, 0.1, "", "", 0.5, 0.5, "", ""]),
    "openimages": ([
        "ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsTruncated",
        "IsGroupOf", "IsDepiction", "IsInside"
    ], lambda n: [Path(n).stem, "xclick", "/m/0k65p", 1, 0.1, 0.5, 0.1, 0.5, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("header", HEADERS)
def test_csv_tables_of_several_tools(tmp_path, header, delimiter):
    head, row = HEADERS[header]
    names = ["a b.jpg", "b.jpg", "c.jpg"]
    for i, name in enumerate(names):
        draw(tmp_path / "in" / name, i)
    with open(tmp_path / "in/annotations.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([head] * bool(head) + [row(name) for name in names])
        if header == "openimages":
            writer.writerow(row("not fetched.jpg"))
    (tmp_path / "in/class-descriptions-boxable.csv").write_text("/m/0k65p,Human hand\n/m/01g317,Person\n")
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["format"] == "csv"
    found = imported(tmp_path / "out")
    assert sorted(found) == names
    for rows in found.values():
        assert_boxes(rows, [("Human hand" if header == "openimages" else "hand", 8, 6, 40, 30)])


def test_a_csv_with_a_column_image_id_is_no_open_images(tmp_path, capsys):
    draw(tmp_path / "in/a.jpg", 1)
    path = tmp_path / "in/a.csv"
    path.write_text("image_id,class_name,class_id,x_min,y_min,x_max,y_max\na,hand,0,8,6,40,30\nnone,hand,0,8,6,40,30\n")
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "out")
    assert f"{path}:3: found no picture 'none'" in capsys.readouterr().err
    run(tmp_path / "in", tmp_path / "out", "--skip-bad", "--valid", "0")
    assert_boxes(imported(tmp_path / "out")["a.jpg"], [("hand", 8, 6, 40, 30)])


@pytest.mark.parametrize("kind", ["csv", "voc", "labelme"])
def test_classes_that_are_numbers_are_in_their_order(tmp_path, kind):
    rows = []
    for i, name in enumerate(["10", "2", "a", "1"]):
        draw(tmp_path / f"in/{i}.jpg", i)
        rows.append(f"{i}.jpg,8,6,40,30,{name}\n")
        if kind == "voc":
            (tmp_path / f"in/{i}.xml").write_bytes(voc_xml(f"{i}.jpg", [(name, 8, 6, 40, 30)]))
        elif kind == "labelme":
            (tmp_path / f"in/{i}.json").write_text(
                labelme_json(f"{i}.jpg", [(name, "rectangle", [[8, 6], [40, 30]], None)]))
    if kind == "csv":
        (tmp_path / "in/a.csv").write_text("".join(rows))
    assert run(tmp_path / "in", tmp_path / "out")["classes"] == ["1", "2", "10", "a"]


def test_descriptions_beside_a_table_that_was_named_are_read(tmp_path):
    head, row = HEADERS["openimages"]
    for name in ("a.jpg", "b.jpg"):
        draw(tmp_path / "in" / name, ord(name[0]))
    lines = [",".join(map(str, line)) for line in (head, row("a.jpg"), row("b.jpg"))]
    (tmp_path / "in/train-annotations-bbox.csv").write_text("\n".join(lines))
    (tmp_path / "in/class-descriptions-boxable.csv").write_text("/m/0k65p,Human hand\n")
    report = run(tmp_path / "in/train-annotations-bbox.csv", tmp_path / "out")
    assert report["classes"] == ["Human hand"]


def test_a_picture_that_a_table_spells_in_two_ways_is_one(tmp_path, capsys):
    for name in "ab":
        draw(tmp_path / f"in/{name}.jpg", ord(name))
    (tmp_path / "in/a.csv").write_text("a.jpg,8,6,40,30,hand\nb.jpg,8,6,40,30,hand\n../in/a.jpg,1,1,20,20,hand\n")
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "out")
    assert f"{tmp_path}/in/a.csv:3: found {tmp_path}/in/a.jpg again" in capsys.readouterr().err


# Pictures of one name

@pytest.mark.parametrize("kind", ["csv", "coco", "voc", "labelme"])
@pytest.mark.parametrize("folder", ["", "annotations"])
def test_of_pictures_of_one_name_the_side_of_the_annotation_file_decides(tmp_path, kind, folder):
    """train_labels.csv speaks of train/1.jpg, test_labels.csv of test/1.jpg; so do the others' names or folders."""
    root = tmp_path / "in"
    for seed, (part, right) in enumerate((("train", 20), ("test", 40))):
        draw(root / "images" / part / "1.jpg", seed)
        (root / folder / part).mkdir(parents=True)
        shapes = [("hand", "rectangle", [[8, 6], [right, 30]], None)]
        if kind == "csv":
            (root / folder / f"{part}_labels.csv").write_text(f"1.jpg,8,6,{right},30,hand\n")
        elif kind == "coco":
            one_class_coco(root / folder / f"{part}.json", ["1.jpg"], [8, 6, right - 8, 24])
        elif kind == "voc":
            (root / folder / part / "1.xml").write_bytes(voc_xml("1.jpg", [("hand", 8, 6, right, 30)]))
        else:
            (root / folder / part / "1.json").write_text(labelme_json("1.jpg", shapes))
    run(root, tmp_path / "out")
    found = imported(tmp_path / "out")
    assert_boxes(found["train_1.jpg"], [("hand", 8, 6, 20, 30)])
    assert_boxes(found["test_1.jpg"], [("hand", 8, 6, 40, 30)])


def test_the_longest_tail_of_a_path_tells_the_picture(tmp_path):
    """Not a picture of that name that lies nearer, and never one of a folder of the other side."""
    for i, name in enumerate(("1.jpg", "films/b/1.jpg", "films/c/1.jpg")):
        draw(tmp_path / "in" / name, i)
    source = Source(tmp_path / "in", Faults())
    find = source.find
    assert find("/home/me/b/1.jpg", [tmp_path / "in"], "a:1") == tmp_path / "in/films/b/1.jpg"
    assert find("/home/me/d/1.jpg", [tmp_path / "in"], "a:1") == tmp_path / "in/1.jpg"
    draw(tmp_path / "in/train/2.jpg", 5)
    with pytest.raises(DataError, match="a:1: found no picture 'test/2.jpg'"):
        Source(tmp_path / "in", Faults()).find("test/2.jpg", [tmp_path / "in"], "a:1")


def test_csv_row_without_a_box_is_background_and_a_bad_one_is_named(tmp_path, capsys):
    for i, name in enumerate("abc"):
        draw(tmp_path / "in" / f"{name}.jpg", i)
    path = tmp_path / "in/a.csv"
    path.write_text("a.jpg,8,6,40,30,hand\nb.jpg,,,,,\nc.jpg,8,6,forty,30,hand\n")
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "out")
    assert f"{path}:3: found" in capsys.readouterr().err
    run(tmp_path / "in", tmp_path / "out", "--skip-bad")
    assert imported(tmp_path / "out")["b.jpg"] == [] and "c.jpg" not in imported(tmp_path / "out")


# EgoHands


def egohands(root: Path,
             videos=("CARDS_COURTYARD_B_T", "CARDS_COURTYARD_T_B", "CHESS_OFFICE_H_S", "CHESS_OFFICE_S_H"),
             frames=3) -> None:
    """The release: metadata.mat and a folder a video, hands as (N, 2) polygons, empty where there is none."""
    rows = np.empty((1, len(videos)),
                    dtype=[("video_id", object), ("partner_video_id", object), ("labelled_frames", object)])
    seed = 0
    for v, video in enumerate(videos):
        fields = ("myleft", "myright", "yourleft", "yourright")
        polygons = np.empty((1, frames), dtype=[(name, object) for name in fields])
        labelled = np.empty((1, frames), dtype=[("frame_num", object)] + [(name, object) for name in fields])
        for k in range(frames):
            seed += 1
            draw(root / "_LABELLED_SAMPLES" / video / f"frame_{10 * k + 9:04d}.jpg", seed)
            hand = np.array([[10.5, 20], [40, 22], [30, 50.25]])
            polygons[0, k] = (hand, np.zeros((0, 0)), hand + 10 if k else np.zeros((0, 0)), np.zeros((1, 0)))
            labelled[0, k] = (float(10 * k + 9), *polygons[0, k])
        savemat(root / "_LABELLED_SAMPLES" / video / "polygons.mat", {"polygons": polygons})
        rows[0, v] = (video, video, labelled)
    savemat(root / "metadata.mat", {"video": rows})


@pytest.mark.parametrize("metadata", [True, False])
def test_egohands_polygons_become_boxes_and_a_game_stays_on_one_side(tmp_path, metadata):
    egohands(tmp_path / "in")
    if not metadata:
        (tmp_path / "in/metadata.mat").unlink()
    report = run(tmp_path / "in", tmp_path / "out", "--valid", "0.5", "--single-class", "hand")
    assert report["format"] == "egohands" and report["classes"] == ["hand"]
    sides = {part: {image.name[:5] for image in read_image_list(tmp_path / "out" / f"{part}.txt")}
             for part in ("train", "valid")}
    assert len(sides["train"]) == len(sides["valid"]) == 1 and sides["train"] != sides["valid"]
    found = imported(tmp_path / "out")
    assert_boxes(found["CARDS_COURTYARD_B_T_frame_0009.jpg"], [("hand", 10.5, 20, 40, 50.25)])
    assert_boxes(found["CARDS_COURTYARD_B_T_frame_0019.jpg"], [("hand", 10.5, 20, 40, 50.25),
                                                               ("hand", 20.5, 30, 50, 60)])
    run(tmp_path / "in", tmp_path / "named", "--valid-groups", "CHESS_OFFICE_H_S")
    assert {image.name[:5] for image in read_image_list(tmp_path / "named/valid.txt")} == {"CHESS"}
    with pytest.raises(
            DataError,
            match="--test-groups: found CHESS, expected groups by film: CARDS_COURTYARD_B_T, CHESS_OFFICE_H_S"):
        run(tmp_path / "in", tmp_path / "named", "--valid-groups", "CHESS_OFFICE_H_S", "--test-groups", "CHESS")


def test_a_lost_frame_of_egohands_is_a_fault_not_a_shift(tmp_path, capsys):
    egohands(tmp_path / "in")
    (tmp_path / "in/_LABELLED_SAMPLES/CHESS_OFFICE_S_H/frame_0009.jpg").unlink()
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "out")
    assert "frame_0009.jpg" in capsys.readouterr().err


# Boxes

def picture(width=80, height=60, turned=False, stored=None) -> Picture:
    return Picture(width, height, turned, stored or (width, height), "0" * 64)


coordinate = st.floats(-50, 150, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=5), st.integers(1, 4000),
       st.integers(1, 4000))
def test_fitted_boxes_lie_within_and_inner_ones_are_kept_to_1e_4(corners, width, height):
    counts = Counter()
    scale = np.array([width, height, width, height]) / 100
    boxes = [Box("a", *(scale * [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]).tolist())
             for x1, y1, x2, y2 in corners]
    entry = fit(Sample(Path("a.jpg"), boxes, "a"), picture(width, height), "auto", counts)
    assert len(entry.rows) + counts["empty"] + counts["outside"] == len(boxes)
    for line in label_text(entry.rows, ["a"]).splitlines():
        label, cx, cy, w, h = map(float, line.split())
        assert w > 0 and h > 0 and min(cx - w / 2, cy - h / 2) > -1e-7 and max(cx + w / 2, cy + h / 2) < 1 + 1e-7
    inner = [box for box in boxes if min(box[1:5]) >= 0 and box.x2 <= width and box.y2 <= height
             and box.x2 - box.x1 > 0.01 and box.y2 - box.y1 > 0.01]
    for box in inner:
        expected = [box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height]
        fitted = [(row.cx - row.w / 2, row.cy - row.h / 2, row.cx + row.w / 2, row.cy + row.h / 2)
                  for row in entry.rows]
        assert any(np.allclose(row, expected, atol=1e-4) for row in fitted)


def test_what_is_wrong_with_boxes_is_counted(tmp_path):
    draw(tmp_path / "in/a.jpg", 1)
    draw(tmp_path / "in/b.jpg", 2)
    rows = [
        "a.jpg,70,50,90,70,hand", "a.jpg,100,10,120,30,hand", "a.jpg,10,10,10,30,hand", "a.jpg,8,6,40,30,hand",
        "a.jpg,8,6,40,30,hand", "b.jpg,30,30,8,6,hand"
    ]
    (tmp_path / "in/a.csv").write_text("\n".join(rows))
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["mended"] == {"clipped": 1, "outside": 1, "empty": 1, "repeated": 1}
    assert_boxes(imported(tmp_path / "out")["b.jpg"], [("hand", 8, 6, 30, 30)])


def turned_jpeg(path: Path, orientation=6) -> None:
    """A JPEG that is stored 80 x 60 and that EXIF asks to show as 60 x 80."""
    plain = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8))[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0\0\0\0\0\0"
    path.write_bytes(plain[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + plain[2:])


@pytest.mark.parametrize("size, shape", [((80, 60), (60, 80, 3)), ((60, 80), (80, 60, 3))])
def test_boxes_of_a_picture_with_an_exif_turn_belong_to_the_size_that_was_annotated(tmp_path, size, shape):
    draw(tmp_path / "in/other.jpg", 1)
    (tmp_path / "in/other.xml").write_bytes(voc_xml("other.jpg", [("hand", 4, 6, 40, 30)]))
    turned_jpeg(tmp_path / "in/t.jpg")
    (tmp_path / "in/t.xml").write_bytes(voc_xml("t.jpg", [("hand", 4, 6, 40, 30)], size=size))
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["mended"].get("turned", 0) == (size == (80, 60))
    assert cv2.imread(str(tmp_path / "out/images/t.jpg")).shape == shape
    assert_boxes(imported(tmp_path / "out")["t.jpg"], [("hand", 4, 6, 40, 30)], size)


def test_pictures_shrunk_after_they_were_annotated_keep_their_boxes(tmp_path):
    for name in "ab":
        write_voc(tmp_path / "in", name, voc_xml(f"{name}.jpg", [("hand", 40, 60, 400, 300)], size=(800, 600)),
                  ord(name))
    assert run(tmp_path / "in", tmp_path / "out")["mended"] == {"resized": 2}
    assert_boxes(imported(tmp_path / "out")["a.jpg"], [("hand", 4, 6, 40, 30)])


def test_the_command_line_ends_with_one_line_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["import_dataset.py", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        cli.run(import_dataset.main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"import_dataset.py: {tmp_path}/none: no such file or folder\n"


def test_an_id_is_the_same_as_text_and_as_number(tmp_path):
    draw(tmp_path / "set" / "a.jpg", 0)
    table = {"images": [{"id": "7", "file_name": "a.jpg"}], "categories": [{"id": "1", "name": "hand"}],
             "annotations": [{"image_id": 7, "category_id": 1, "bbox": [8, 6, 40, 30]}]}
    (tmp_path / "set" / "a.json").write_text(json.dumps(table))
    run(tmp_path / "set", tmp_path / "out", "--valid", "0")
    assert_boxes(imported(tmp_path / "out")["a.jpg"], [("hand", 8, 6, 48, 36)])


@pytest.mark.parametrize("name, content, words", [
    ("a.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,l\xf6we,1,1,9,9", r"a\.csv: found 'utf-8' codec .* in UTF-8"),
    ("a.csv", "image,x,y,w,h,label\na.jpg,1,1,9,9,dog", r"no annotation that is known \(.*a\.csv is in no such format"),
    ("via.json", '{"a.jpg": {"regions": []}}', r"no annotation that is known \(.*via\.json is in no such format")])
def test_a_file_that_is_not_understood_is_named(tmp_path, capsys, name, content, words):
    draw(tmp_path / "set" / "a.jpg", 0)
    (tmp_path / "set" / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        run(tmp_path / "set", tmp_path / "out")
    assert re.search(words, capsys.readouterr().err + str(caught.value))


def test_ids_that_are_floats_and_sections_in_any_order_are_coco(tmp_path):
    draw(tmp_path / "in/a.jpg", 1)
    draw(tmp_path / "in/b.jpg", 2)
    images = [{"id": float(i), "file_name": f"{name}.jpg", "note": "x" * 70_000} for i, name in enumerate("ab")]
    boxes = [{"image_id": i, "category_id": 1.0, "bbox": [8, 6, 32, 24], "note": "x" * 70_000} for i in range(2)]
    table = {"images": images, "categories": [{"id": 1, "name": "hand"}], "annotations": boxes}
    (tmp_path / "in/a.json").write_text(json.dumps(table))
    assert run(tmp_path / "in", tmp_path / "out")["format"] == "coco"
    for rows in imported(tmp_path / "out").values():
        assert_boxes(rows, [("hand", 8, 6, 40, 30)])


def test_a_picture_that_is_there_with_other_boxes_again_is_a_fault_and_skipped_whole(tmp_path, capsys):
    for name in "abc":
        draw(tmp_path / f"in/{name}.jpg", ord(name))
    one_class_coco(tmp_path / "in/first.json", ["a.jpg", "b.jpg", "c.jpg"], [8, 6, 32, 24])
    one_class_coco(tmp_path / "in/second.json", ["b.jpg"], [8, 6, 32, 24])
    one_class_coco(tmp_path / "in/third.json", ["a.jpg"], [8, 6, 30, 24])
    with pytest.raises(DataError, match="found 1 fault"):
        run(tmp_path / "in", tmp_path / "out")
    place = f"{tmp_path}/in/third.json: images[0]: found {tmp_path}/in/a.jpg again, with other boxes than in"
    assert place in capsys.readouterr().err and not (tmp_path / "out").exists()
    report = run(tmp_path / "in", tmp_path / "out", "--skip-bad")
    assert report["mended"] == {"listed twice": 1, "bad": 1}
    assert sorted(imported(tmp_path / "out")) == ["b.jpg", "c.jpg"]


# Classes

def test_class_names_are_lines_of_text(tmp_path):
    coco_set(tmp_path / "coco")
    for path in (tmp_path / "coco").glob("annotations/*"):
        path.write_text(path.read_text().replace('"dog"', '"big\\n\\u0000 dog"').replace('"hand"', '"h\\ud800"'))
    assert run(tmp_path / "coco", tmp_path / "out")["classes"] == ["big dog", "h?"]
    assert imported(tmp_path / "out")
    for path in (tmp_path / "coco").glob("annotations/*"):
        path.write_text(path.read_text().replace("h\\ud800", "\\u0000"))
    with pytest.raises(DataError, match="a class without a name"):
        run(tmp_path / "coco", tmp_path / "b")


def test_classes_are_renamed_then_chosen_then_merged(tmp_path):
    coco_set(tmp_path / "coco")
    report = run(tmp_path / "coco", tmp_path / "a", "--classes", "hand")
    assert report["classes"] == ["hand"]
    assert list(report["left_out_by_class"]) == ["dog"] and report["left_out_by_class"]["dog"] > 0
    assert run(tmp_path / "coco", tmp_path / "b", "--single-class", "thing")["classes"] == ["thing"]
    report = run(tmp_path / "coco", tmp_path / "c", "--map", "dog=pet", "--classes", "hand,pet")
    assert report["classes"] == ["hand", "pet"]
    report = run(tmp_path / "coco", tmp_path / "d", "--classes", "dog", "--drop-empty")
    assert report["parts"]["train"]["images_without_box"] == 0
    for flags in (["--classes", "cat"], ["--map", "cat=dog"]):
        with pytest.raises(DataError, match="expected classes of the source: dog, hand"):
            run(tmp_path / "coco", tmp_path / "e", *flags)


# Split

def samples(*paths: str) -> list[Sample]:
    return [Sample(Path(path), [], path) for path in paths]


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 50), min_size=2, max_size=40), st.floats(0.01, 0.9),
       st.integers(0, 5))
def test_neither_side_of_a_split_is_empty_and_a_seed_repeats(sizes, share, seed):
    chosen = split.choose_groups(sizes, share, seed)
    assert 0 < len(chosen) < len(sizes) and chosen == split.choose_groups(sizes, share, seed)


def test_a_film_and_all_exported_copies_of_a_picture_stay_together():
    names = [f"/a/film{letter}_{i:04d}.jpg" for letter in "abcdefghij" for i in range(20)]
    names += [f"/a/film{letter}_0003_jpg.rf.0f1e{i}.jpg" for letter in "abcdefghij" for i in range(3)]
    parts, how = split.split_parts(samples(*names), "film", 0.2, 0)
    sides = {}
    for name, part in zip(names, parts):
        sides.setdefault(name[:8], set()).add(part)
    assert all(len(side) == 1 for side in sides.values()) and parts.count("valid") == 46 and "by film" in how
    copies = [f"/a/{letter}_jpg.rf.{k}.jpg" for letter in "abcdef" for k in range(3)]
    parts, _ = split.split_parts(samples(*copies), "none", 0.4, 1)
    assert all(len(set(parts[3 * i:3 * i + 3])) == 1 for i in range(6))


@pytest.mark.parametrize("named, words", [
    ({"valid": ["a_"], "test": ["b_", "a_"]}, "--valid-groups and --test-groups: found a_ in both, expected"),
    ({"valid": ["a_", "b_", "c_"], "test": []}, "--valid-groups: found all 3 groups by film, expected some to be left"),
    ({"valid": ["a_"], "test": ["b_", "c_"]}, "--valid-groups and --test-groups: found all 3 groups by film, expected"),
    ({"valid": ["d_"], "test": []}, "--valid-groups: found d_, expected groups by film: a_, b_, c_")])
def test_groups_that_are_named_leave_some_to_train_and_are_on_one_side(named, words):
    films = samples("/x/a_/1.jpg", "/x/a_/2.jpg", "/x/b_/1.jpg", "/x/c_/1.jpg")
    for sample in films:
        sample.group = sample.image.parent.name
    with pytest.raises(DataError, match=words):
        split.named_parts(films, "film", named)
    assert split.named_parts(films, "film", {"valid": ["a_"], "test": ["b_"]})[0] == ["valid", "valid", "test", "train"]


def test_one_film_is_cut_in_a_block_of_consecutive_frames():
    names = [f"/a/{i}.jpg" for i in range(1, 101)]
    parts, how = split.split_parts(samples(*names), "film", 0.2, 0)
    first = parts.index("valid")
    assert parts[first:first + 20] == ["valid"] * 20 and parts.count("valid") == 20 and "one film" in how


def test_a_source_with_a_test_side_alone_validates_on_it():
    found = samples("a", "b", "c")
    for sample, part in zip(found, ("train", "train", "test")):
        sample.part = part
    assert split.source_parts(found) == ["train", "train", "valid"]
    found[2].part = "train"
    assert split.source_parts(found) is None


def test_near_duplicates_are_found_as_by_brute_force_and_reported(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (300, 32), dtype=np.uint8)
    other = rng.integers(0, 256, (50, 32), dtype=np.uint8)
    other[:20] = one[100:120]
    other[:10, 0] ^= 0b1011
    found = duplicates.near_duplicates([row.tobytes().hex() for row in one], [row.tobytes().hex() for row in other])
    bits = np.unpackbits(one[None] ^ other[:, None], axis=2).sum(2)
    assert {j: d for _, j, d in found} == {j: int(bits[j].min()) for j in range(50) if bits[j].min() <= duplicates.NEAR}
    with monkeypatch.context() as patch:
        patch.delattr(np, "bitwise_count", raising=False)  # numpy 1
        assert found == duplicates.near_duplicates([row.tobytes().hex() for row in one],
                                                   [row.tobytes().hex() for row in other])
    yolo_set(tmp_path / "in", {"train": 3, "val": 2})
    draw(tmp_path / "in/images/val/vala.jpg", 1)  # what traina.jpg shows
    report = run(tmp_path / "in", tmp_path / "out")
    assert report["near_duplicates"]["valid"] == {"images": 1, "pairs": [["vala.jpg", "traina.jpg", 0]]}


# Files


@given(st.lists(st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=12), min_size=1, max_size=6,
                unique=True))
def test_names_in_the_new_set_are_unique_by_label_and_safe(names):
    paths = [
        Path("/root", folder, f"{name}.jpg") for folder in ("a", "b/c") for name in names if name not in (".", "..")
    ]
    found = unique_names(paths)
    assert len({name.rpartition(".")[0].casefold() for name in found}) == len(paths)
    assert all(name.encode() and not set(name) & set("\r\n/\\") for name in found)


def test_a_second_run_touches_nothing_and_one_after_a_kill_goes_on(tmp_path, monkeypatch):
    yolo_set(tmp_path / "in", {"train": 4, "val": 2})
    out = tmp_path / "out"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_dataset, "write_contact_sheet", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "in", out)
    assert not list(out.glob("*.txt")) and not list(out.glob("*.data"))
    with open(out / ".import.jsonl", "a") as journal:
        journal.write('{"key": ["half a li')
    times = {path: path.stat().st_mtime_ns for path in [*out.glob("images/*"), *out.glob("labels/*")]}
    with monkeypatch.context() as patch:
        patch.setattr("utils.data.pictures.measure", stop)  # nothing is measured again
        run(tmp_path / "in", out)
    assert times == {path: path.stat().st_mtime_ns for path in [*out.glob("images/*"), *out.glob("labels/*")]}
    assert sorted(path.name for path in out.iterdir()) == [
        ".import.jsonl", "contact_sheet.jpg", "images", "labels", "out.data", "out.names", "out.yaml", "report.json",
        "report.md", "train.txt", "valid.txt"
    ]


@pytest.mark.parametrize("how", ["link", "copy", "symlink"])
def test_pictures_are_linked_or_copied(tmp_path, how):
    yolo_set(tmp_path / "in", {"train": 2, "val": 1})
    for _ in range(2):
        run(tmp_path / "in", tmp_path / "out", f"--{how}")
        one, other = tmp_path / "in/images/train/traina.jpg", tmp_path / "out/images/traina.jpg"
        assert one.read_bytes() == other.read_bytes()
        assert os.path.samefile(one, other) == (how != "copy") and other.is_symlink() == (how == "symlink")


def test_a_folder_that_holds_something_else_is_not_written_to(tmp_path):
    yolo_set(tmp_path / "in", {"train": 2, "val": 1})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train.txt").write_text("mine\n")
    with pytest.raises(DataError, match="was not made by an import"):
        run(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="holds the source"):
        run(tmp_path / "in", tmp_path / "in")
    assert (tmp_path / "out/train.txt").read_text() == "mine\n"


def test_a_source_in_two_formats_asks_which(tmp_path):
    yolo_set(tmp_path / "in", {"x": 2}, "", "")
    (tmp_path / "in/xa.xml").write_bytes(voc_xml("xa.jpg", []))
    with pytest.raises(DataError, match="choose with --format"):
        run(tmp_path / "in", tmp_path / "out")
    run(tmp_path / "in", tmp_path / "out", "--format", "yolo")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff"])
def test_a_damaged_picture_is_a_fault(tmp_path, capsys, content):
    yolo_set(tmp_path / "in", {"train": 3, "val": 1})
    (tmp_path / "in/images/train/traina.jpg").write_bytes(content)
    with pytest.raises(DataError):
        run(tmp_path / "in", tmp_path / "out")
    assert "traina.jpg: found" in capsys.readouterr().err and not (tmp_path / "out/train.txt").exists()
    assert run(tmp_path / "in", tmp_path / "out", "--skip-bad")["parts"]["train"]["images"] == 2


def test_links_that_lead_in_a_circle_are_walked_once(tmp_path):
    draw(tmp_path / "in/a/b.jpg", 1)
    (tmp_path / "in/a/again").symlink_to(tmp_path / "in")
    assert len(Source(tmp_path / "in", Faults()).pictures) == 1


@pytest.mark.parametrize("kind", ["missing", "empty", "archive"])
def test_a_source_that_is_none_is_one_line(tmp_path, kind):
    source = tmp_path / {"missing": "none", "empty": "empty", "archive": "a.zip"}[kind]
    if kind == "empty":
        source.mkdir()
    elif kind == "archive":
        source.write_bytes(b"PK")
    with pytest.raises(DataError, match="found|no such"):
        run(source, tmp_path / "out")


def test_what_is_imported_trains_and_its_suggestion_is_a_command_that_runs(tmp_path, monkeypatch):
    yolo_set(tmp_path / "in", {"train": 4, "val": 2},
             label="".join(f"0 0.5 0.5 0.{k}5 0.{k + 1}\n" for k in range(1, 5)))
    report = run(tmp_path / "in", tmp_path / "my set")
    data = parse_data_config(tmp_path / "my set/my set.data")
    dataset = ListDataset(data.lists("train"), (64, 64), data.classes)
    image, boxes = dataset[0]
    fit_ = Letterbox.fit(*SIZE, 64, 64)
    assert image.shape == (3, 64, 64) and len(boxes) == 4
    np.testing.assert_allclose(boxes[0, 1:3], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(boxes[0, 3] * 64, 0.15 * fit_.resized[0], atol=1e-3)
    command, = report["suggestion"]["commands"]
    monkeypatch.chdir(tmp_path)
    options = train_options(vars(parse_train_args("", shlex.split(command)[2:] + ["--no-publish"])))
    with cfg_for_data(options) as made:
        defs = parse_model_config(made.source.cfg)
        assert defs[-1]["classes"] == "1" and input_size(defs) == (report["suggestion"]["input_size"],) * 2


# Documentation

def documented() -> list[str]:
    """Every command of docs/data.md: of its blocks and of its tables."""
    text = (ROOT / "docs" / "data.md").read_text()
    lines = re.findall(r"(?:^    |`)(python [^`\n]+)", text.replace("\\\n", " "), re.MULTILINE)
    return [line.strip() for line in lines if "SOURCE" not in line]


def make_source(name: str, root: Path) -> Path:
    """A small set of the format that a documented command imports."""
    if name == "~/coco":
        coco_set(root)
        for path in root.glob("annotations/*"):
            path.write_text(path.read_text().replace('"dog"', '"person"'))
    elif name == "~/VOC2007":
        for i in range(4):
            write_voc(root, f"{i:06d}", voc_xml("a.jpg", [("hand", 4, 6, 40, 30)]), i, ("JPEGImages", "Annotations"))
    elif name == "~/roboflow":
        yolo_set(root, {"train": 3, "valid": 2}, "{part}/images", "{part}/labels")
        data_yaml(root / "data.yaml", train="../train/images", val="../valid/images", names=["hand"])
    elif name == "~/labelme":
        for i in range(5):
            draw(root / f"film{i}_1.jpg", i)
            (root / f"film{i}_1.json").write_text(
                labelme_json(f"film{i}_1.jpg", [("hand", "rectangle", [[4, 6], [40, 30]], None)]))
    elif name == "~/openimages":
        head, row = HEADERS["openimages"]
        for i in range(4):
            draw(root / f"{i}.jpg", i)
        rows = "\n".join(",".join(map(str, line)) for line in [head] + [row(f"{i}.jpg") for i in range(4)])
        (root / "train-annotations-bbox.csv").write_text(rows)
        (root / "class-descriptions-boxable.csv").write_text("/m/0k65p,Human hand\n")
    elif name == "data/egohands_data":
        games = ["CARDS_LIVINGROOM_B_T", "PUZZLE_COURTYARD_B_S", "CARDS_COURTYARD_H_S", "CHESS_OFFICE_B_S",
                 "JENGA_LIVINGROOM_B_H", "PUZZLE_OFFICE_S_T", "CHESS_COURTYARD_B_T"]
        egohands(root, games, frames=1)
    return root


@pytest.mark.parametrize("command", [line for line in documented() if "import_dataset" in line])
def test_every_documented_import_runs(tmp_path, command):
    words = shlex.split(command)[2:]
    words[0] = str(make_source(words[0], tmp_path / "in"))
    words[words.index("--out") + 1] = str(tmp_path / "out")
    import_dataset.main(words)
    assert any(rows for rows in imported(tmp_path / "out").values())


def test_other_documented_commands_are_scripts_with_such_flags():
    others = [shlex.split(line) for line in documented() if "import_dataset" not in line]
    assert len(others) == 4
    for _, script, *flags in others:
        text = "".join((ROOT / path).read_text() for path in (script, "utils/cli.py", "utils/training/args.py"))
        assert all(f'"{flag}"' in text for flag in flags if flag.startswith("--")), script
