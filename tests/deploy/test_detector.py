"""detect.py: what --source can name, and how detections are drawn."""

import math
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.data.datasets import DataError
from utils.deploy import drawing
from utils.deploy.detector import expected_images, run
from utils.deploy.drawing import class_text, draw, place_labels
from utils.deploy.sources import Item, expand, frame_count, frames, is_live, read_picture

OUT = Path("output")


def picture(path, side=40, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)
    return path


def gif(path, count, duration=100):
    images = [Image.fromarray(np.full((32, 48, 3), 20 * i + 10, np.uint8)) for i in range(count)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration)
    return path


def video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(count):
        writer.write(np.full((48, 64, 3), 40 * i % 256, np.uint8))
    writer.release()
    return path


class OneBox:
    """A stand-in for a net: one box in every picture."""

    names = ["hand"]

    def detect(self, image):
        return np.array([[2, 2, 20, 20, 0.9, 0]], np.float32)


def names_of(items):
    return [item.name.as_posix() for item in items]


def test_a_list_file_is_read_as_everywhere_else(tmp_path):
    picture(tmp_path / "images" / "a.png")
    video(tmp_path / "images" / "b.avi", 2)
    (tmp_path / "train.txt").write_text("# two\nimages/a.png\r\nimages\\b.avi\n")
    items = expand(str(tmp_path / "train.txt"), OUT)
    assert [(item.name.as_posix(), item.is_film) for item in items] == [("a", False), ("b", True)]
    (tmp_path / "train.txt").write_text("images/none.png\n")
    with pytest.raises(DataError, match="train.txt:1: found 'images/none.png'"):
        expand(str(tmp_path / "train.txt"), OUT)


def test_a_folder_stands_for_the_images_and_films_in_it_and_in_its_sub_folders(tmp_path):
    for name in ("1.png", "day/1.png", "day/night/2.JPG", "day/.hidden.png", ".trash/3.png", "[x]/4.png"):
        picture(tmp_path / name)
    video(tmp_path / "day" / "film.avi", 1)
    gif(tmp_path / "moving.gif", 3)
    gif(tmp_path / "still.gif", 1)
    (tmp_path / "notes.txt").write_text("no list: it lies in a folder")
    items = expand(str(tmp_path), OUT)
    assert names_of(items) == ["1", "[x]/4", "day/1", "day/film", "day/night/2", "moving", "still"]
    assert names_of(item for item in items if item.is_film) == ["day/film", "moving"]
    assert names_of(expand(str(tmp_path / "[x]"), OUT)) == ["4"]
    assert names_of(expand(str(tmp_path / "d*"), OUT)) == ["1", "film", "night/2"]
    assert names_of(expand(str(tmp_path / "**" / "1.png"), OUT)) == ["1", "day/1"]


def test_what_an_earlier_run_wrote_below_the_source_is_not_detected_in_again(tmp_path):
    picture(tmp_path / "a.png")
    out = tmp_path / "seen"
    for _ in range(2):
        items = expand(str(tmp_path), out)
        assert len(run(OneBox(), items, out)) == 1
    assert [path.name for path in out.iterdir()] == ["a.png"]


def test_results_keep_the_folders_of_their_sources_and_never_overwrite_one(tmp_path):
    for name in ("in/0.png", "in/sub/0.png", "other/0.png"):
        picture(tmp_path / name)
    before = (tmp_path / "in/0.png").read_bytes()
    items = [item for name in ("in", "other") for item in expand(str(tmp_path / name), tmp_path / "in")]
    results = run(OneBox(), items, tmp_path / "in")
    sources = [Path(result["source"]).relative_to(tmp_path).as_posix() for result in results]
    assert sources == ["in/0.png", "in/sub/0.png", "other/0.png"]
    assert (tmp_path / "in/0.png").read_bytes() == before
    assert all((tmp_path / "in" / name).is_file() for name in ("_0.png", "sub/_0.png", "__0.png"))


def test_a_gif_that_moves_is_a_film_and_a_still_one_a_picture(tmp_path):
    moving, still = gif(tmp_path / "moving.gif", 4, duration=50), gif(tmp_path / "still.gif", 1)
    items = [item for path in (moving, still) for item in expand(str(path), OUT)]
    assert expected_images(items) == 5 and expected_images(items, 2) == 3
    shown = list(frames(items[0]))
    assert [int(frame[0, 0, 0]) for frame, _ in shown] == pytest.approx([10, 30, 50, 70], abs=3) and shown[0][1] == 20
    assert read_picture(still).shape == (32, 48, 3)
    results = run(OneBox(), items, tmp_path / "out", max_frames=3)
    assert [result.get("frame") for result in results] == [0, 1, 2, None]
    assert cv2.VideoCapture(str(tmp_path / "out/moving_detected.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize("name", ["cut.gif", "cut.avi", "cut.jpg", "cut.png"])
def test_a_damaged_source_is_one_error_or_skipped_and_counted(tmp_path, name, capsys):
    (tmp_path / name).write_bytes(b"GIF89a damaged" if name == "cut.gif" else b"damaged")
    picture(tmp_path / "good.png")
    items = expand(str(tmp_path), OUT)
    with pytest.raises(DataError, match=name):
        run(OneBox(), items, tmp_path / "out")
    assert len(run(OneBox(), items, tmp_path / "out", skip_bad=True)) == 1
    assert "1 of 2 sources skipped" in capsys.readouterr().out


def test_a_source_without_images_says_what_can_be_named(tmp_path):
    for source in (tmp_path, tmp_path / "none", tmp_path / "*.png"):
        with pytest.raises(DataError, match="found no image, expected an image, a video, a GIF, a folder"):
            expand(str(source), OUT)


@pytest.mark.parametrize("address, name", [("rtsp://me:secret@10.0.0.7:554/door/1?token=x", "10.0.0.7-554-door-1"),
                                           ("http://host/a.mp4", "host-a.mp4"), ("0", "camera0")])
def test_a_stream_is_named_after_its_address_without_its_password(address, name):
    (item,) = expand(address, OUT)
    assert names_of([item]) == [name] and item.is_film and frame_count(item) == math.inf
    assert not is_live("C:\\pictures") and not is_live("a/b.mp4")


def test_a_dead_stream_is_an_error_that_names_it():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"rtsp://127.0.0.1:{closed.getsockname()[1]}/x"
    with pytest.raises(DataError, match="no stream answers there") as error:
        list(frames(Item(address, Path("x"), True)))
    assert address in str(error.value)


def test_a_stream_that_stays_silent_is_given_up(monkeypatch):
    monkeypatch.setattr("utils.deploy.sources.PATIENCE_MS", 300)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections are taken, nothing is ever said
        with pytest.raises(DataError, match="no stream answers there"):
            list(frames(Item(f"http://127.0.0.1:{silent.getsockname()[1]}/x", Path("x"), True)))


def labels_of(names, rows, side=400):
    """The picture drawn, and the pixels that differ from its ground."""
    ground = np.full((side, side, 3), 200, np.uint8)
    drawn = draw(ground, np.array(rows, float).reshape(-1, 6), names)
    assert (ground == 200).all() and drawn.shape == ground.shape and drawn.dtype == np.uint8
    return drawn


def test_a_film_that_breaks_off_says_so(tmp_path, capsys):
    whole, half = video(tmp_path / "whole.avi", 40), tmp_path / "half.avi"
    assert sum(1 for _ in frames(Item(str(whole), Path("x"), True))) == 40 and not capsys.readouterr().out
    half.write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    count = sum(1 for _ in frames(Item(str(half), Path("x"), True)))
    assert 0 < count < 38 and f"half.avi: {count} of 40 frames can be read" in capsys.readouterr().out


def test_results_of_a_list_with_paths_upwards_stay_below_out(tmp_path, monkeypatch):
    for folder in ("work/c", "b"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "1.png"), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path / "work")
    Path("list.txt").write_text("../b/1.png\nc/1.png\n")
    assert names_of(expand("list.txt", OUT)) == ["b/1", "work/c/1"]


@pytest.mark.parametrize("name", ["hand", "рука", "χέρι", "Hände", "Ha\u0308nde"])
def test_a_name_is_drawn_in_any_script_that_a_font_has(name):
    assert class_text([name], 0) in (name, "Hände")
    assert (labels_of([name], [[50, 80, 200, 200, 0.9, 0]]) != labels_of(["hat"], [[50, 80, 200, 200, 0.9, 0]])).any()


def test_a_name_without_a_font_is_the_class_number(monkeypatch):
    monkeypatch.setattr(drawing, "font_file", lambda word: None if "手" in word else drawing._font_files()[0])
    assert class_text(["a", "手 left"], 1) == "class1" and class_text(["a"], 3) == "class3"
    assert class_text([" "], 0) == "class0"
    row = [50, 80, 200, 200, 0.9, 1]
    assert (labels_of(["a", "手"], [row]) == labels_of(["a", "class1"], [row])).all()


def test_no_font_is_taken_that_lacks_a_letter():
    private = "\U0010fffd"  # no script has it
    assert drawing.font_file("a") and drawing.font_file(f"a{private}") is None
    assert drawing.font_file("a\u200db") == drawing.font_file("ab")


sizes = st.tuples(st.integers(20, 90), st.integers(10, 20))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 560), st.integers(0, 400), st.integers(1, 80), st.integers(1, 80), sizes),
                max_size=25))
def test_labels_lie_in_the_picture_and_do_not_hide_each_other(drawn):
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in drawn], float).reshape(-1, 4)
    placed = place_labels(boxes, [size for *_, size in drawn], (640, 480))
    areas = [(x, y, x + w, y + h) for (x, y), (*_, (w, h)) in zip(placed, drawn)]
    for i, (x1, y1, x2, y2) in enumerate(areas):
        assert 0 <= x1 and x2 <= 640 and 0 <= y1 and y2 <= 480
        for a1, b1, a2, b2 in areas[:i]:
            assert x1 >= a2 or a1 >= x2 or y1 >= b2 or b1 >= y2


def test_equal_boxes_have_labels_of_their_own():
    placed = place_labels(np.array([[100, 100, 200, 200]] * 5, float), [(60, 15)] * 5, (400, 400))
    assert placed[0] == (100, 85) and len(set(placed)) == 5


def test_a_long_name_keeps_its_score_and_stays_in_a_small_picture():
    label = drawing.Label.fitting("a very long name of a class " * 5, "0.90", 11, 160)
    assert label.size[0] <= 160 and label.words[-1][0] == "0.90" and label.words[-2][0].endswith("...")
    for side in (1, 8, 30):
        labels_of(["left hand"], [[0, 0, side, side, 0.5, 0]], side)


def test_no_detection_leaves_the_picture_as_it_is():
    assert (labels_of(["hand"], []) == 200).all()
