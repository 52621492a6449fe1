"""Box formats, anchor IoU and letterbox geometry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from utils.boxes import cxcywh_to_xyxy, wh_iou, xyxy_to_cxcywh
from utils.letterbox import Letterbox

quick = settings(max_examples=100, deadline=None)
side = st.integers(1, 3000)  # pixels
quarter = st.integers(-4000, 4000).map(lambda n: n / 4)  # sums and halves of these are exact in float32
extent = st.integers(0, 4000).map(lambda n: n / 4)
boxes_cxcywh = st.lists(st.tuples(quarter, quarter, extent, extent), max_size=8).map(
    lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))
sizes_wh = st.lists(st.tuples(extent, extent), min_size=1, max_size=6).map(torch.tensor)


def test_formats_of_a_known_box():
    box = torch.tensor([[10.0, 20.0, 4.0, 6.0]])
    assert cxcywh_to_xyxy(box).tolist() == [[8.0, 17.0, 12.0, 23.0]]
    assert xyxy_to_cxcywh(cxcywh_to_xyxy(box)).tolist() == box.tolist()


@quick
@given(boxes_cxcywh)
def test_formats_round_trip_and_leave_their_argument_alone(boxes):
    before = boxes.clone()
    corners = cxcywh_to_xyxy(boxes)
    corners_before = corners.clone()
    assert torch.equal(xyxy_to_cxcywh(corners), boxes)
    assert torch.equal(boxes, before) and torch.equal(corners, corners_before)


def test_formats_accept_any_leading_dimensions_and_pass_gradients():
    boxes = torch.rand(2, 3, 5, 4, requires_grad=True)
    corners = cxcywh_to_xyxy(boxes)
    assert corners.shape == boxes.shape
    corners.sum().backward()
    assert torch.equal(boxes.grad[..., :2], torch.full((2, 3, 5, 2), 2.0))  # both corners move with the centre
    assert torch.equal(boxes.grad[..., 2:], torch.zeros(2, 3, 5, 2))  # and in opposite directions with the size


@quick
@given(sizes_wh, sizes_wh)
def test_wh_iou_equals_box_iou_of_centred_boxes(wh, other_wh):
    def centred(sizes):
        return cxcywh_to_xyxy(torch.cat([torch.zeros_like(sizes), sizes], dim=1))
    expected = box_iou(centred(wh), centred(other_wh)).nan_to_num()  # 0 / 0 for two boxes without area
    torch.testing.assert_close(wh_iou(wh, other_wh), expected)


def test_wh_iou_of_boxes_without_area_is_zero():
    assert wh_iou(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("image, size, resized, pad", [
    ((832, 416), (416, 416), (416, 208), (0, 104)),  # wide: border above and below
    ((208, 416), (416, 416), (208, 416), (104, 0)),  # tall: border left and right
    ((416, 416), (416, 416), (416, 416), (0, 0)),  # fits as it is
    ((100, 100), (416, 224), (224, 224), (96, 0)),  # input that is not square, image enlarged
    ((335, 500), (416, 416), (279, 416), (68, 0)),  # 278.7 is rounded; odd remainder of 137: 68 left, 69 right
    ((5000, 2), (416, 416), (416, 1), (0, 207)),  # 0.17 pixels high: one pixel is kept
])
def test_letterbox_of_known_sizes(image, size, resized, pad):
    box = Letterbox.fit(*image, *size)
    assert (box.resized, (box.pad_x, box.pad_y)) == (resized, pad)
    assert (box.width, box.height) == image


@quick
@given(side, side, side, side)
def test_letterbox_is_centred_and_touches_two_sides(width, height, size_w, size_h):
    box = Letterbox.fit(width, height, size_w, size_h)
    resized_w, resized_h = box.resized
    assert resized_w == size_w or resized_h == size_h
    assert 0 <= size_w - resized_w - 2 * box.pad_x <= 1 and 0 <= size_h - resized_h - 2 * box.pad_y <= 1


@quick
@given(side, side, side, side)
def test_letterbox_maps_the_whole_image_onto_the_resized_pixels(width, height, size_w, size_h):
    box = Letterbox.fit(width, height, size_w, size_h)
    whole = torch.tensor([0.0, 0.0, width, height], dtype=torch.float64)
    expected = [box.pad_x, box.pad_y, box.pad_x + box.resized[0], box.pad_y + box.resized[1]]
    torch.testing.assert_close(box.to_input(whole), torch.tensor(expected, dtype=torch.float64))


@quick
@given(side, side, side, side, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=6))
def test_letterbox_round_trip_is_the_identity_inside_the_image(width, height, size_w, size_h, corners):
    box = Letterbox.fit(width, height, size_w, size_h)
    boxes = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4) * torch.tensor([width, height] * 2)
    before = boxes.clone()
    torch.testing.assert_close(box.to_image(box.to_input(boxes)), boxes, rtol=1e-9, atol=1e-6)
    assert torch.equal(boxes, before)


def test_letterbox_round_trip_in_single_precision_is_off_by_less_than_a_thousandth_of_a_pixel():
    box = Letterbox.fit(641, 479, 416, 416)
    boxes = torch.rand(1000, 4) * torch.tensor([641.0, 479.0] * 2)
    assert (box.to_image(box.to_input(boxes)) - boxes).abs().max() < 1e-3


def test_boxes_in_the_border_are_clipped_to_the_image():
    box = Letterbox.fit(200, 100, 416, 416)  # image at rows 104..312
    inside_border = torch.tensor([[-50.0, 0.0, 500.0, 416.0], [10.0, 0.0, 20.0, 50.0]])
    assert box.to_image(inside_border)[0].tolist() == [0.0, 0.0, 200.0, 100.0]
    assert box.to_image(inside_border)[1, 1::2].tolist() == [0.0, 0.0]  # wholly above the image: no height left


def test_letterbox_refuses_sizes_below_one_pixel():
    with pytest.raises(ValueError, match="0 x 10 pixels in 416 x 416"):
        Letterbox.fit(0, 10, 416, 416)
