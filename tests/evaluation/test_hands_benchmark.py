"""How hand detectors are compared with MediaPipe's palm detector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import hands

SIDE = 192
places = st.integers(0, 40).map(float)


def test_a_centre_takes_the_smallest_free_hand_that_it_lies_in():
    boxes = np.array([[0, 0, 100, 100], [40, 40, 60, 60.0]])  # a small hand in a large one
    points = np.array([[50, 50], [51, 51], [52, 52], [200, 50.0]])
    assert hands.hits(points, boxes).tolist() == [True, True, False, False]
    assert hands.hits(points, np.zeros((0, 4))).tolist() == [False] * 4
    assert hands.hits(np.zeros((0, 2)), boxes).tolist() == []


@given(st.lists(st.tuples(places, places), max_size=8),
       st.lists(st.tuples(places, places, places, places), max_size=5))
def test_no_hand_is_taken_twice_and_no_point_outside_is_right(points, corners):
    points = np.array(points).reshape(-1, 2)
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]).reshape(-1, 4)
    right = hands.hits(points, boxes)
    inside = [[all(box[:2] <= point) and all(point <= box[2:]) for box in boxes] for point in points]
    assert right.sum() <= len(boxes)
    assert all(any(row) for row, is_right in zip(inside, right) if is_right)
    assert all(is_right for row, is_right in list(zip(inside, right))[:1] if any(row))  # to the best all hands are free


@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=30, unique_by=lambda pair: pair[0]))
def test_the_score_is_the_lowest_of_precision_nine_tenths(judged):
    judged = np.array(judged, float)
    alarms = np.array([0.0, 0.5, 1.1])
    found = hands.at_score(judged, alarms, hands=40, free=2)
    candidates = [(score, judged[judged[:, 0] >= score, 1]) for score in judged[:, 0]]
    precise = [(score, kept.sum()) for score, kept in candidates if kept.mean() >= 0.9]
    if not precise:
        assert found == {"score": "-", "recall": 0.0, "alarms per image": "-"}
        return
    score, right = min(precise)
    assert found["score"] == round(score, 3) and found["recall"] == round(right / 40, 3)
    assert found["alarms per image"] == (alarms >= score).sum() / 2


@pytest.mark.parametrize("box, shape", [
    ((200, 0, 300, 400), (400, 180)),  # the part to the left, 5 % of 400 px away
    ((0, 0, 400, 100), (280, 400)),  # below
    ((150, 150, 300, 300), (400, 130)),
    ((20, 20, 380, 380), None),  # nothing of 96 px is left
])
def test_a_hand_free_picture_lies_beside_all_hands(box, shape):
    image = np.zeros((400, 400, 3), np.uint8)
    image[box[1]:box[3], box[0]:box[2]] = 255
    part = hands.hand_free(image, np.array([box], float))
    assert (None if part is None else part.shape[:2]) == shape
    assert part is None or not part.any()
    assert hands.hand_free(image, np.zeros((0, 4))) is image


def test_the_palm_detector_has_the_anchors_of_its_2016_rows():
    anchors = hands.palm_anchors(SIDE)
    assert anchors.shape == (2016, 2) and len(np.unique(anchors, axis=0)) == 24 * 24 + 12 * 12
    assert np.allclose(anchors[:3] * 24, [[0.5, 0.5], [0.5, 0.5], [1.5, 0.5]])  # two a cell, along the row
    assert np.allclose(anchors[1152:1159] * 12, [[0.5, 0.5]] * 6 + [[1.5, 0.5]])  # six a cell of the coarse maps
    assert np.allclose(anchors[-1], 1 - 0.5 / 12)


def test_palms_are_decoded_and_the_weaker_of_two_goes():
    raw, logits = np.zeros((2016, 18)), np.full(2016, -50.0)
    raw[0, :4], logits[0] = (10, 20, 30, 40), 1.0  # centre 4 + 10, 4 + 20
    raw[1, :4], logits[1] = (11, 20, 30, 40), 3.0
    raw[2015, :4], logits[2015] = (0, 0, 8, 8), 2.0
    rows = hands.palm_boxes(raw, logits, SIDE)
    assert np.allclose(rows[:, :4], [[0, 4, 30, 44], [180, 180, 188, 188]])
    assert np.allclose(rows[:, 4], 1 / (1 + np.exp([-3.0, -2.0])))


def test_nets_and_files_are_compared_on_real_pictures(tmp_path, tiny_cfg, tiny_data, capsys, monkeypatch):
    from conftest import trained
    trained(tiny_cfg).float().save_darknet_weights(tmp_path / "net.weights")
    monkeypatch.setattr("sys.argv", ["hands", "--data", str(tiny_data), "--net", str(tiny_cfg),
                                     str(tmp_path / "net.weights"), "--threads", "1", "--out", str(tmp_path / "out")])
    hands.main()
    assert "net.weights" in capsys.readouterr().out
    header, row = (tmp_path / "out" / "hands.csv").read_text().splitlines()
    assert header == ",".join(hands.COLUMNS) and 0 <= float(row.split(",")[5]) <= 1
    with pytest.raises(ValueError, match="expected a .tflite file, or the unpacked folder"):
        hands.palm_models(tmp_path)
