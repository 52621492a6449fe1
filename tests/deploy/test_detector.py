"""detect.py: what --source can name, and how detections are drawn."""

import contextlib
import itertools
import json
import math
import os
import signal
import socket
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import small_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import signals
from utils.data.datasets import DataError
from utils.data.yolo_labels import read_labels
from utils.deploy import detection, drawing
from utils.deploy.detection import Options, expected_images, run
from utils.deploy.detector import Detector
from utils.deploy.drawing import class_text, draw, place_labels
from utils.deploy.results import Results
from utils.deploy.sources import Item, expand, frame_count, frames, is_live, masked, read_picture
from utils.output import write_json
from utils.places import OutputError
from utils.text import CfgError

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


def detect_in(net, items, out, **options):
    """detect.py's results, as the file has them."""
    run(net, items, Options(out, **options))
    return json.loads((out / "detections.json").read_text())


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
        assert len(detect_in(OneBox(), items, out)) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "detections.json"]


def test_results_keep_the_folders_of_their_sources_and_never_overwrite_one(tmp_path):
    for name in ("in/0.png", "in/sub/0.png", "other/0.png"):
        picture(tmp_path / name)
    before = (tmp_path / "in/0.png").read_bytes()
    items = [item for name in ("in", "other") for item in expand(str(tmp_path / name), tmp_path / "in")]
    results = detect_in(OneBox(), items, tmp_path / "in")
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
    results = detect_in(OneBox(), items, tmp_path / "out", max_frames=3)
    assert [result.get("frame") for result in results] == [0, 1, 2, None]
    assert cv2.VideoCapture(str(tmp_path / "out/moving_detected.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize("name", ["cut.gif", "cut.avi", "cut.jpg", "cut.png"])
def test_a_damaged_source_is_one_error_or_skipped_and_counted(tmp_path, name, capsys):
    (tmp_path / name).write_bytes(b"GIF89a damaged" if name == "cut.gif" else b"damaged")
    picture(tmp_path / "good.png")
    items = expand(str(tmp_path), OUT)
    with pytest.raises(DataError, match=name):
        detect_in(OneBox(), items, tmp_path / "out")
    assert not (tmp_path / "out/detections.json").exists()
    with pytest.raises(DataError, match=name):
        detect_in(OneBox(), items[::-1], tmp_path / "out")
    assert len(json.loads((tmp_path / "out/detections.json").read_text())) == 1  # what came before it is not lost
    assert len(detect_in(OneBox(), items, tmp_path / "out", skip_bad=True)) == 1
    assert "1 of 2 sources skipped" in capsys.readouterr().out


class EndedAt(OneBox):
    """A stand-in for a net: a signal comes while it looks at the picture `at`, counted from 1."""

    def __init__(self, number, at):
        self.number, self.left = number, at

    def detect(self, image):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)
        return super().detect(image)


def found_in(out):
    """{file name of a source: how many results detections.json has of it}."""
    results = json.loads((out / "detections.json").read_text())
    return dict(Counter(Path(result["source"]).name for result in results))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at, done", [(1, {"a.png": 1}), (4, {"a.png": 1, "b.avi": 3})])
def test_a_signal_ends_it_after_the_picture_under_way_with_the_signals_status(tmp_path, number, at, done):
    """Within pictures and within a film, which is whole; nothing is begun any more."""
    for name in ("a.png", "c.png"):
        picture(tmp_path / "in" / name)
    video(tmp_path / "in" / "b.avi", 6)
    with pytest.raises(signals.Ended) as error:
        detect_in(EndedAt(number, at), expand(str(tmp_path / "in"), OUT), tmp_path / "out")
    assert signals.exit_status(error.value) == 128 + number
    assert found_in(tmp_path / "out") == done
    films = [path for path in (tmp_path / "out").glob("*.mp4")]
    assert [cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) for path in films] == [3] * (len(done) - 1)


@pytest.mark.parametrize("number, more, status", [(signal.SIGINT, False, 0), (signal.SIGTERM, False, 143),
                                                  (signal.SIGINT, True, 130)])
def test_ctrl_c_is_the_usual_end_of_a_camera_alone(tmp_path, monkeypatch, number, more, status):
    camera = lambda item: itertools.repeat((np.full((48, 64, 3), 90, np.uint8), 25.0), 500)
    monkeypatch.setattr(detection, "frames", camera)
    items = expand("0", OUT) + [Item(str(picture(tmp_path / "a.png")), Path("a"), False)] * more
    with pytest.raises(signals.Ended) if status else contextlib.nullcontext() as error:
        detect_in(EndedAt(number, 4), items, tmp_path / "out")
    assert not status or signals.exit_status(error.value) == status
    assert found_in(tmp_path / "out") == {"0": 4}


def test_a_box_wholly_in_the_border_or_thinner_than_the_results_can_say_is_none():
    """64x32 pixels in a 64x64 input: 16 rows of border above and below."""
    boxes = [[32, 32, 20, 20], [32, 4, 20, 20], [32, 60, 20, 8], [80, 32, 20, 20], [32, 32, 0.004, 20], [1, 20, 30, 30]]
    predictions = torch.tensor([[[*box, 0.9 - i / 100, 1] for i, box in enumerate(boxes)]])
    net = Detector(torch.nn.Linear(1, 1), ["hand"], (64, 64), lambda images: predictions, nms_thres=1.0)
    rows = net.detect(np.zeros((32, 64, 3), np.uint8))
    assert rows[:, :4].tolist() == [[22, 6, 42, 26], [0, 0, 16, 19]]


def test_detect_takes_what_holds_a_picture_and_says_so_of_anything_else(tmp_path):
    seen = []
    note = lambda images: seen.append(images) or torch.zeros(1, 0, 6)
    net = Detector(torch.nn.Linear(1, 1), ["hand"], (64, 64), note)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for image in (pixels, Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")):
        net.detect(image)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    net.detect(Image.fromarray(pixels[..., 0]))
    assert (seen[3][0, 0] == seen[3][0, 1]).all()
    for wrong in (torch.zeros(3, 64, 64), [1], None):
        with pytest.raises(TypeError, match=f"found a {type(wrong).__name__}, expected .height, width, 3. RGB of type"):
            net.detect(wrong)
    for wrong in (pixels[..., 0], pixels.astype(float), Image.new("I;16", (8, 8)), Image.new("F", (8, 8))):
        with pytest.raises(ValueError, match="found a.*expected"):
            net.detect(wrong)


def test_a_source_without_images_says_what_can_be_named(tmp_path):
    for source in (tmp_path, tmp_path / "none", tmp_path / "*.png"):
        with pytest.raises(DataError, match="found no image, expected an image, a video, a GIF, a folder"):
            expand(str(source), OUT)


@pytest.mark.parametrize("address, name", [("rtsp://me:secret@10.0.0.7:554/door/1?token=x", "10.0.0.7-554-door-1"),
                                           ("rtsp://10.0.0.7/user=me&password=secret&channel=1/0.sdp",
                                            "10.0.0.7-user-password-channel-1-0.sdp"),
                                           ("http://host/a.mp4", "host-a.mp4"), ("0", "camera0")])
def test_a_stream_is_named_after_its_address_without_its_password(address, name):
    (item,) = expand(address, OUT)
    assert names_of([item]) == [name] and item.is_film and frame_count(item) == math.inf
    assert not is_live("C:\\pictures") and not is_live("a/b.mp4")


@pytest.mark.parametrize("address, shown", [
    ("rtsp://me:secret@10.0.0.7:554/door/1", "rtsp://***@10.0.0.7:554/door/1"),
    ("rtsp://me:s@cret@10.0.0.7/@door", "rtsp://***@10.0.0.7/@door"),
    ("http://host/cam.cgi?user=me&pwd=secret", "http://host/cam.cgi?***"),
    ("rtsp://10.0.0.7/user=me&password=secret&channel=1", "rtsp://10.0.0.7/user=***&password=***&channel=1"),
    ("rtsp://10.0.0.7:554/door", "rtsp://10.0.0.7:554/door"), ("0", "0"), ("a@b/c?.mp4", "a@b/c?.mp4")])
def test_no_password_of_a_stream_is_shown_or_written(tmp_path, monkeypatch, capsys, address, shown):
    assert masked(address) == shown
    if is_live(address):
        monkeypatch.setattr(detection, "frames", lambda item: iter([(np.full((48, 64, 3), 90, np.uint8), 25.0)]))
        [result] = detect_in(OneBox(), expand(address, OUT), tmp_path / "out")
        written = "".join(path.name + path.read_text(errors="replace") for path in (tmp_path / "out").iterdir())
        assert result["source"] == shown and "cret" not in written + capsys.readouterr().out


def test_an_error_about_a_stream_shows_no_password():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}/x?token=secret"
    with pytest.raises(DataError) as error:
        list(frames(Item(address, Path("x"), True)))
    assert "secret" not in str(error.value) and "127.0.0.1" in str(error.value)


@pytest.mark.parametrize("pattern", ["**/[ab]1.png", "**/[a-b]1.png", "**/[!c]1.png", "**/[]ab]1.png", "**/[ab^]?.png",
                                     "d/**[ab]1.png", "[de]/**/[ab]1.png"])
def test_sets_of_letters_mean_the_same_behind_two_stars(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a1.png", "d/e/b1.png", "d/c1.png", "d/[ab]1.png"):
        picture(tmp_path / name)
    found = expand(pattern, OUT)
    assert [item.path.name for item in found] == ["a1.png", "b1.png"]


def test_a_set_in_which_nothing_is_finds_nothing(tmp_path):
    picture(tmp_path / "d/a1.png")
    with pytest.raises(DataError, match="found no image"):
        expand(str(tmp_path / "**" / "[b-a]1.png"), OUT)


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


def test_results_are_on_the_disk_before_the_run_ends_and_are_one_json_list(tmp_path):
    result = {"source": "a\nб.png", "width": 4, "height": 2, "detections": [{"score": 0.5}, {"score": 0.25}]}
    with Results(tmp_path / "new" / "detections.json") as results:
        for i in range(1000):
            results.add(result | {"frame": i})
        [under_way] = (tmp_path / "new").iterdir()
        assert under_way.name != "detections.json" and under_way.stat().st_size > 100_000
    write_json(tmp_path / "whole.json", [result | {"frame": i} for i in range(1000)])
    assert (tmp_path / "new/detections.json").read_text() == (tmp_path / "whole.json").read_text()
    assert (results.count, results.detections) == (1000, 2000)
    with Results(tmp_path / "new" / "detections.json"):
        pass
    assert json.loads((tmp_path / "new/detections.json").read_text()) == []
    with pytest.raises(RuntimeError), Results(tmp_path / "new" / "detections.json") as results:
        results.add(result)
        raise RuntimeError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["detections.json"]
    assert json.loads((tmp_path / "new/detections.json").read_text()) == []


def test_results_that_do_not_fit_on_the_disk_are_an_error_and_those_before_stay(tmp_path):
    (tmp_path / "detections.json").write_text("old")
    with pytest.raises(OutputError, match="detections.json: cannot be written .*; the file that was there before is"):
        with small_disk(20_000), Results(tmp_path / "detections.json") as results:
            for _ in range(1000):
                results.add({"detections": [], "source": "a" * 100})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_label_files_are_what_training_reads(tmp_path):
    """Of pictures and of each frame of a film; a picture without objects has an empty one."""
    picture(tmp_path / "in/images/a.png", 40)
    video(tmp_path / "in/b.avi", 2)
    detect_in(OneBox(), expand(str(tmp_path / "in"), OUT), tmp_path / "out", save_txt=True)
    labels = tmp_path / "out/labels"
    assert sorted(path.relative_to(labels).as_posix() for path in labels.rglob("*.txt")) == [
        "b_000000.txt", "b_000001.txt", "images/a.txt"]
    assert read_labels(labels / "images/a.txt", 1) == pytest.approx(np.array([[0, 11 / 40, 11 / 40, 18 / 40, 18 / 40]]))
    assert read_labels(labels / "b_000001.txt", 1) == pytest.approx(
        np.array([[0, 11 / 64, 11 / 48, 18 / 64, 18 / 48]]), abs=1e-6)
    nothing = Detector(torch.nn.Linear(1, 1), ["hand"], (64, 64), lambda images: torch.zeros(1, 0, 6))
    detect_in(nothing, expand(str(tmp_path / "in/images"), OUT), tmp_path / "out", save_txt=True)
    assert (labels / "a.txt").read_text() == ""


def test_without_pictures_the_results_are_the_same_and_stand_alone(tmp_path):
    picture(tmp_path / "in/a.png")
    video(tmp_path / "in/b.avi", 3)
    items = expand(str(tmp_path / "in"), OUT)
    results = detect_in(OneBox(), items, tmp_path / "out")
    assert detect_in(OneBox(), items, tmp_path / "alone", pictures=False) == results
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["detections.json"]


def test_classes_that_nobody_looks_for_are_left_out():
    boxes = torch.tensor([[[10, 10, 8, 8, 0.9, 1, 0, 0], [30, 30, 8, 8, 0.8, 0, 1, 0], [50, 50, 8, 8, 0.7, 0, 0, 1.0]]])
    found = {}
    net = Detector(torch.nn.Linear(1, 1), ["car", "dog", "bus"], (64, 64), lambda images: boxes)
    for keep in (("car", "dog", "bus"), ("Car",), ("bus", "car")):
        found[keep] = net.keep_classes(keep).detect(np.zeros((64, 64, 3), np.uint8))[:, 5].tolist()
    assert list(found.values()) == [[0, 1, 2], [0], [0, 2]]
    with pytest.raises(CfgError, match="--keep-classes: found 'buss', expected classes of the network; did"):
        net.keep_classes(["buss"])


def test_a_camera_says_now_and_then_how_far_it_is(tmp_path, monkeypatch, capsys):
    clock = itertools.count(step=4.0)
    monkeypatch.setattr(detection.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(detection, "frames", lambda item: itertools.repeat((np.full((48, 64, 3), 90, np.uint8), 25.0)))
    detect_in(OneBox(), expand("0", OUT), tmp_path / "out", max_frames=9)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3 and lines[0].startswith("0: ") and lines[0].endswith(" per second, 1 found in the last")
    assert lines[-2].startswith("0: 9 frames, ") and lines[-1].startswith("9 detections in 9 pictures")
