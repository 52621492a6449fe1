"""Folders as people have them: links that lead nowhere or round in a circle, folders with an image's name."""

import os

import cv2
import numpy as np
import pytest

from utils.data.folders import files_below
from utils.data.image_files import read_image_list
from utils.data.yolo_labels import DataError
from utils.deploy.sources import expand


@pytest.fixture
def mess(tmp_path):
    """A folder with two images and a linked third, and all that is none."""
    root, elsewhere = tmp_path / "mess", tmp_path / "elsewhere"
    for folder in (root / "b", root / "folder.jpg", elsewhere):
        folder.mkdir(parents=True)
    for path in (root / "a.png", root / "b" / "B.JPG", elsewhere / "c.png"):
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    (root / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "round.jpg").symlink_to(root / "round.jpg")
    (root / "b" / "up").symlink_to(root)
    (root / "up2").symlink_to(root / "b")
    (root / "linked").symlink_to(elsewhere)
    os.mkfifo(root / "pipe.png")
    (root / ".hidden.png").write_text("x")
    return root


FILES = ["a.png", "b/B.JPG", "linked/c.png"]


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_files_are_found_once_and_what_is_none_is_counted(mess):
    found = files_below(mess, {".png", ".jpg"})
    assert names(found.files, mess) == FILES
    assert names(found.others, mess) == ["dangling.jpg", "folder.jpg", "pipe.png", "round.jpg"]
    assert found.note() == (f"{mess}: 4 of 7 images left out: no files (dangling links, folders), such as "
                            f"{mess}/dangling.jpg")
    assert names(files_below(mess, {".png"}, leave_out=mess / "linked").files, mess) == ["a.png"]


def test_image_lists_and_sources_skip_what_is_no_file_and_say_how_many(mess, tmp_path, capsys):
    notes = []
    assert names(read_image_list(mess, notes), mess) == FILES and "4 of 7 images left out" in notes[0]
    assert names([item.path for item in expand(str(mess), tmp_path / "out")], mess) == FILES
    assert "4 of 7 images left out" in capsys.readouterr().out


@pytest.mark.parametrize("pattern, found", [("**/*.png", ["a.png", "linked/c.png"]), ("**", FILES),
                                            ("*.png", FILES[:1]),
                                            ("b/**/*.JPG", FILES[1:2]), ("**/?.JPG", FILES[1:2])])
def test_a_pattern_goes_through_links_once(mess, tmp_path, pattern, found):
    assert names([item.path for item in expand(f"{mess}/{pattern}", tmp_path / "out")], mess) == found


def test_a_folder_without_an_image_is_an_error_that_names_it(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}: found no image"):
        read_image_list(tmp_path)
