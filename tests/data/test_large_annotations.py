"""Annotation files of some megabytes, made to take long or much: refused by their counts, in linear time."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from utils import limits
from utils.data import formats, labels, matlab
from utils.data.annotations import Box, Faults, Sample
from utils.data.pictures import Picture
from utils.data.source import Source
from utils.data.yolo_labels import DataError


@pytest.fixture
def folder(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((16, 24, 3), np.uint8))
    return tmp_path


def read(folder, skip_bad=False):
    source = Source(folder, Faults(skip_bad))
    return formats.read(formats.detect(source), source)


def coco(categories, annotations):
    names = [{"id": i, "name": f"x{i}"} for i in range(categories)]
    return json.dumps({"images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}], "categories": names,
                       "annotations": [{"image_id": 1, "category_id": i % categories, "bbox": [1, 1, 3 + i % 7, 5]}
                                       for i in range(annotations)]})


def test_more_classes_than_any_data_set_has_are_refused(folder):
    (folder / "a.json").write_text(coco(limits.MOST_CLASSES + 1, 1))  # comparing each with each would take minutes
    with pytest.raises(DataError, match="found 100,001 classes, expected at most 100,000"):
        read(folder)


def test_many_classes_and_boxes_are_read(folder):
    (folder / "a.json").write_text(coco(20_000, 20_000))
    found = read(folder)
    assert len(found.names) == len(found.samples[0].boxes) == 20_000
    picture = Picture(24, 16, False, (24, 16), "0")
    with pytest.raises(DataError, match="found 20,000 boxes for .*a.png, expected at most 10,000"):
        labels.fit(found.samples[0], picture, "auto", Counter())


def test_repeated_boxes_are_counted_and_kept():
    counts, box = Counter(), Box("x", 1.0, 1.0, 5.0, 5.0)
    sample = Sample("a.png", [box, box, box._replace(x2=6.0)], "a.xml", (24, 16))
    entry = labels.fit(sample, Picture(24, 16, False, (24, 16), "0"), "auto", counts)
    assert counts["repeated"] == 1 and len(entry.rows) == 3
    assert labels.label_text(entry.rows, ["y", "x"]).startswith("1 0.125")


def test_a_table_of_pictures_that_are_not_there_ends_after_a_thousand(folder, capsys):
    rows = "".join(f"b{i}.png,24,16,h,1,2,10,12\n" for i in range(5000))
    (folder / "a.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n" + rows)
    with pytest.raises(DataError, match="found 1,00[01] faults .above, from .*a.csv:2 on"):
        read(folder)
    with pytest.raises(DataError, match="found no annotated picture"):
        read(folder, skip_bad=True)
    assert len(capsys.readouterr().err.splitlines()) == 2 * (Faults.SHOWN + 1)


def test_a_mat_file_that_takes_long_is_ended(tmp_path, monkeypatch):
    """The reader's process has so much processor time for each file; the next file has its own."""
    slow = ("import utils.data.matlab as m, scipy.io\nm.MAX_CPU_S = 1\nread = scipy.io.loadmat\n"
            "def loadmat(path, **options):\n    while 'slow' in path: pass\n    return read(path, **options)\n"
            "scipy.io.loadmat = loadmat\n")
    start = "from utils.data.matlab import"
    monkeypatch.setattr(matlab, "_SERVE", matlab._SERVE.replace("; ", "\n").replace(start, slow + start))
    for name in ("slow.mat", "fine.mat"):
        savemat(tmp_path / name, {"x": 1.0})
    with matlab.MatReader() as reader:
        with pytest.raises(matlab.MatError, match="slow.mat: not a readable .mat file .damaged: its reader ended"):
            reader.read(tmp_path / "slow.mat")
        assert reader.read(tmp_path / "fine.mat")["x"] == 1.0
