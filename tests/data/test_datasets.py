"""Lists, labels, letterboxing, augmentation and batches."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_dataset
from utils.data.augmentations import (
    AUGMENTATIONS,
    CLOSE_UP,
    MOST_ZOOM,
    Augmentation,
    augment_mosaic,
    augment_one,
    clip_boxes,
    close_up_matrix,
    degrade,
    flip_horizontal,
    jitter_colour,
    warp_boxes,
)
from utils.data.data_config import parse_data_config
from utils.data.datasets import (
    Draw,
    ListDataset,
    TrainSampler,
    collate,
    evaluation_loader,
    training_loader,
)
from utils.data.image_files import read_image_list
from utils.data.yolo_labels import DataError, Doubtful, LabelFinder, label_path, label_places, read_labels
from utils.letterbox import letterbox


def test_entries_may_be_absolute_or_relative_to_the_list_or_the_working_directory(tmp_path, monkeypatch):
    listing = make_dataset(tmp_path / "set", 3)
    (tmp_path / "set" / "mixed.txt").write_text(f"{tmp_path}/set/images/0.jpg\nimages/1.jpg\r\n\nset\\images\\2.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert len(read_image_list(listing)) == len(read_image_list(tmp_path / "set" / "mixed.txt")) == 3
    assert len(read_image_list(tmp_path / "set" / "images")) == 3  # a folder


def test_images_that_are_in_two_places_are_said_once_with_the_one_that_is_taken(tmp_path, monkeypatch):
    listing, notes = make_dataset(tmp_path / "set", 3), []
    listing.write_text("images/0.jpg\nimages/1.jpg\nimages/2.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert read_image_list(listing, notes) and not notes
    make_dataset(tmp_path, 2)
    paths = read_image_list("set/list.txt", notes)
    assert paths[1:] == [Path("images/1.jpg"), Path("set/images/2.jpg")]
    assert notes == ["set/list.txt: 2 images in two places: images/0.jpg, from the working directory, is taken, not "
                     "set/images/0.jpg"]
    monkeypatch.chdir(tmp_path / "set")
    assert len(read_image_list("list.txt", notes)) == 3 and len(notes) == 1


def test_a_missing_image_names_list_and_line(tmp_path):
    listing = make_dataset(tmp_path, 1)
    listing.write_text("images/0.jpg\nimages/none.jpg\n")
    with pytest.raises(DataError, match=r"list.txt:2: found 'images/none.jpg'"):
        read_image_list(listing)


@pytest.mark.parametrize(
    "image, label",
    [
        ("a/images/b/c.jpg", "a/labels/b/c.txt"),
        ("images/x/images/c.png", "images/x/labels/c.txt"),
        ("myimages/c.jpg", "myimages/c.txt"),
        ("a/images.jpg", "a/images.txt"),
    ],
)
def test_labels_lie_beside_the_last_images_folder(image, label):
    assert label_path(Path(image)) == Path(label)


def test_an_image_without_a_label_file_is_a_negative(tmp_path):
    assert read_labels(tmp_path / "none.txt", 1).shape == (0, 5)
    (tmp_path / "empty.txt").write_text("\n")
    assert read_labels(tmp_path / "empty.txt", 1).shape == (0, 5)


def test_a_polygon_names_the_way_to_boxes(tmp_path):
    (tmp_path / "a.txt").write_text("0 .1 .1 .3 .1 .3 .3\n")
    with pytest.raises(DataError, match="a.txt:1: found .*, expected class cx cy w h; data/import_dataset.py makes"):
        read_labels(tmp_path / "a.txt", 1)


@pytest.mark.parametrize("line, words", [("0 .5 .5 .1", "expected class cx cy w h"), ("1 .5 .5 .1 .1", "from 0 to 0"),
                                         ("0 .5 nan .1 .1", "expected class"), ("0 120 80 30 30", "not in pixels"),
                                         ("hand .5 .5 .1 .1", "expected class")])
def test_bad_labels_name_file_and_line(tmp_path, line, words):
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1\n" + line + "\n")
    with pytest.raises(DataError, match=words) as error:
        read_labels(tmp_path / "a.txt", 1)
    assert str(error.value).startswith(f"{tmp_path / 'a.txt'}:2: found")


def test_boxes_over_the_edge_are_clipped_and_empty_ones_dropped(tmp_path):
    (tmp_path / "a.txt").write_text("0 1.0 .5 .2 .2\n0 .5 .5 0 .1\n0 -0.001 .5 .1 .1\n")
    rows = read_labels(tmp_path / "a.txt", 1)
    assert rows.shape == (2, 5)
    assert rows[0].tolist() == pytest.approx([0, 0.95, 0.5, 0.1, 0.2], abs=1e-6)


def test_bad_image_stops_or_is_skipped_and_counted(tmp_path):
    listing = make_dataset(tmp_path, 4)
    (tmp_path / "images" / "1.jpg").write_bytes(b"not an image")
    (tmp_path / "labels" / "2.txt").write_text("7 .5 .5 .1 .1\n")
    with pytest.raises(DataError, match="2.txt:1"):
        ListDataset(listing, (64, 64), 1)
    dataset = ListDataset(listing, (64, 64), 1, skip_bad=True)
    assert len(dataset) == 2 and len(dataset.skipped) == 2
    (tmp_path / "labels" / "2.txt").write_text("")
    with pytest.raises(DataError, match="1.jpg: found a file that cannot be decoded"):
        ListDataset(listing, (64, 64), 1)[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 200), st.integers(8, 200), st.sampled_from([(64, 64), (96, 64), (64, 128)]))
def test_letterbox_puts_the_picture_where_it_says(width, height, size):
    canvas, fit = letterbox(np.full((height, width, 3), 255, np.uint8), size)
    assert canvas.shape == (size[1], size[0], 3)
    inside = np.zeros(canvas.shape[:2], bool)
    inside[fit.pad_y:fit.pad_y + fit.resized[1], fit.pad_x:fit.pad_x + fit.resized[0]] = True
    assert (canvas[inside] == 255).all() and (canvas[~inside] == 127).all()


def bright_box(image):
    """Hull of the bright pixels, x1, y1, x2, y2."""
    rows, columns = np.nonzero(image[..., 1] > 140)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("seed", range(12))
def test_boxes_move_with_the_picture(tmp_path, seed):
    """Whatever the augmentation did, the box lies where the bright rectangle is."""
    dataset = ListDataset(make_dataset(tmp_path, 4, size=(160, 120)), (128, 128), 1,
                          augmentation=Augmentation(hsv=(0, 0, 0), translate=0.1), seed=seed)
    for i in range(4):
        image, boxes = dataset[Draw(0, i, 128, 128)]
        for _, cx, cy, w, h in (boxes * torch.tensor([1, 128, 128, 128, 128])).tolist():
            found = bright_box(image.permute(1, 2, 0).numpy())
            assert np.abs(found - [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]).max() < 3


@pytest.mark.parametrize("seed", range(4))
def test_mosaic_boxes_cover_what_they_name(tmp_path, seed):
    dataset = ListDataset(make_dataset(tmp_path, 8, size=(160, 120)), (128, 128), 1)
    rng = np.random.default_rng(seed)
    image, boxes = augment_mosaic([dataset.load(i) for i in range(4)], (128, 128), rng, Augmentation())
    assert image.shape == (128, 128, 3) and len(boxes) >= 1
    for _, x1, y1, x2, y2 in boxes:
        inner = image[int(y1) + 2:int(y2) - 2, int(x1) + 2:int(x2) - 2, 1]
        assert inner.size == 0 or (inner > 140).mean() > 0.9


def test_flip_twice_is_nothing():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    boxes = np.array([[0, 2, 3, 10, 12]], np.float32)
    again, same = flip_horizontal(*flip_horizontal(image, boxes))
    assert np.array_equal(again, image) and np.allclose(same, boxes)


def test_hardly_visible_boxes_are_no_targets():
    boxes = np.array([[0, -90, 0, 10, 50],  # a tenth in view
                      [0, -20, 0, 30, 50],  # more than half in view
                      [0, 5, 5, 6, 40]], np.float32)  # a sliver
    assert clip_boxes(boxes, (0, 0, 100, 100))[:, 1:].tolist() == [[0, 0, 30, 50]]


def test_colour_jitter_of_zero_changes_almost_nothing():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    same = jitter_colour(image, np.random.default_rng(0), (0, 0, 0))
    assert np.abs(same.astype(int) - image).mean() < 2  # 8-bit HSV rounds


def test_an_example_depends_on_seed_epoch_and_index_alone(tmp_path):
    listing = make_dataset(tmp_path, 40)
    make = lambda seed: ListDataset(
        listing, (64, 64), 1, augmentation=Augmentation(mosaic=0.5), seed=seed, cache_gb=0.1
    )
    one, two = make(1), make(1)
    two[Draw(5, 3, 64, 64)]  # history does not matter
    assert torch.equal(one[Draw(2, 3, 64, 64)][0], two[Draw(2, 3, 64, 64)][0])
    assert not torch.equal(one[Draw(2, 3, 64, 64)][0], one[Draw(3, 3, 64, 64)][0])
    assert not torch.equal(one[Draw(2, 3, 64, 64)][0], make(2)[Draw(2, 3, 64, 64)][0])


def test_workers_make_the_batches_that_one_process_makes(tmp_path):
    listing = make_dataset(tmp_path, 70)
    batches = []
    for n_cpu in (0, 2):
        dataset = ListDataset(listing, (64, 64), 1, augmentation=Augmentation(), seed=3)
        sampler = TrainSampler(70, 8, (64, 64), seed=3)
        sampler.epoch = 4
        batches.append([images for images, _ in training_loader(dataset, sampler, n_cpu)])
    assert len(batches[0]) == 8 and all(torch.equal(a, b) for a, b in zip(*batches))


def test_sampler_visits_every_image_once_whatever_the_processes():
    parts = [list(TrainSampler(64, 4, (64, 64), seed=1, process=(rank, 2))) for rank in range(2)]
    seen = [draw.index for part in parts for batch in part for draw in batch]
    assert sorted(seen) == list(range(64)) and len(parts[0]) == len(parts[1]) == 8


def test_multi_scale_draws_one_size_a_batch_in_whole_strides():
    sizes = [
        {(d.width, d.height) for d in batch} for batch in TrainSampler(320, 4, (96, 64), scale_stride=32)
    ]
    assert all(len(size) == 1 for size in sizes) and len(set.union(*sizes)) > 1
    assert all(side % 32 == 0 for size in sizes for pair in size for side in pair)


def test_collate_numbers_the_images():
    batch = [
        (torch.zeros(3, 4, 4), torch.zeros(2, 5)),
        (torch.zeros(3, 4, 4), torch.zeros(0, 5)),
        (torch.zeros(3, 4, 4), torch.ones(1, 5)),
    ]
    images, targets = collate(batch)
    assert images.shape == (3, 3, 4, 4) and targets[:, 0].tolist() == [0, 0, 2]


def test_evaluation_passes_once_in_order(tmp_path):
    dataset = ListDataset(make_dataset(tmp_path, 5), (64, 64), 1)
    images = torch.cat([images for images, _ in evaluation_loader(dataset, 2, 0)])
    assert len(images) == 5 and torch.equal(images[3], dataset[3][0])


def test_a_jpeg_cut_short_is_refused(tmp_path):
    listing = make_dataset(tmp_path, 2)
    data = (tmp_path / "images" / "1.jpg").read_bytes()
    (tmp_path / "images" / "1.jpg").write_bytes(data[:len(data) // 2])
    with pytest.raises(DataError, match="cut short"):
        ListDataset(listing, (64, 64), 1)[1]
    assert len(ListDataset(listing, (64, 64), 1, skip_bad=True)) == 1


def test_the_end_of_a_jpeg_is_that_of_its_picture(tmp_path):
    listing = make_dataset(tmp_path, 3)
    whole = (tmp_path / "images" / "1.jpg").read_bytes()
    thumbnail = b"Exif\0\0" + whole[-2:] + bytes(9000)
    header = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    large_header = whole[:2] + header + whole[2:]
    (tmp_path / "images" / "0.jpg").write_bytes(large_header)
    (tmp_path / "images" / "1.jpg").write_bytes(large_header[:2 + len(header) + len(whole) // 2])
    (tmp_path / "images" / "2.jpg").write_bytes(whole + b"a film of one second" * len(whole))
    dataset = ListDataset(listing, (64, 64), 1)
    assert torch.equal(dataset[0][0], dataset[2][0])
    with pytest.raises(DataError, match="cut short"):
        dataset[1]


@pytest.mark.parametrize("side", [40, 96, 150])
def test_training_and_evaluation_see_the_object_at_one_place(tmp_path, side):
    """Enlarged, kept or shrunk: pixels and boxes agree in both, to a fraction of a pixel."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image = np.zeros((side, side, 3), np.uint8)
    image[side // 4:side // 2, side // 4:side // 2] = 255
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image)
    (tmp_path / "labels" / "a.txt").write_text("0 .375 .375 .25 .25\n")
    plain = Augmentation(flip=0, scale=0, translate=0, hsv=(0, 0, 0))
    for aug in (plain, None):
        picture, boxes = ListDataset(tmp_path / "images", (192, 192), 1, augmentation=aug)[Draw(0, 0, 192, 192)]
        weight = (picture[1] > 190).double()  # the object alone: grey mixes into the edge of the picture
        places = torch.arange(192) + 0.5
        centre = [(weight.sum(axis) * places).sum() / weight.sum() for axis in (0, 1)]
        assert centre[0].item() == pytest.approx(boxes[0, 1].item() * 192, abs=1.0)
        assert centre[1].item() == pytest.approx(boxes[0, 2].item() * 192, abs=1.0)


def test_thin_pictures_load(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "thin.png"), np.zeros((1, 2000, 3), np.uint8))
    dataset = ListDataset(tmp_path / "images", (64, 64), 1, augmentation=Augmentation())
    assert dataset[0][0].shape == dataset[Draw(0, 0, 64, 64)][0].shape == (3, 64, 64)


def test_large_pictures_are_shrunk_by_area(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.indices((1000, 1000)).sum(0).astype(np.uint8) % 2 * 255)
    image, _ = augment_one(*ListDataset(tmp_path / "images", (64, 64), 1).load(0), (64, 64), np.random.default_rng(0),
                           Augmentation(scale=0, translate=0))
    assert 100 < image.mean() < 155 and image.std() < 40  # a checkerboard becomes grey, not noise


@pytest.mark.parametrize("seed", range(20))
def test_a_close_up_shows_the_whole_box_at_the_asked_share_of_the_input(seed):
    rng = np.random.default_rng(seed)
    left, top, width, height = rng.uniform(5, 60, 4)
    box = np.array([left, top, left + width, top + height])
    matrix = close_up_matrix(box, (120, 160), (96, 64), rng)
    x1, y1, x2, y2 = warp_boxes(np.array([[0, *box]]), matrix)[0, 1:]
    assert -1e-9 <= x1 and x2 <= 96 + 1e-9 and -1e-9 <= y1 and y2 <= 64 + 1e-9
    share, zoom = max(x2 - x1, y2 - y1) / 64, matrix[0, 0] / min(96 / 160, 64 / 120)
    assert share <= CLOSE_UP[1] + 1e-9 and (share >= CLOSE_UP[0] - 1e-9 or zoom == pytest.approx(MOST_ZOOM))


def test_degrading_keeps_the_shape_and_does_what_its_probabilities_say():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    assert np.array_equal(degrade(image, np.random.default_rng(1), Augmentation()), image)
    grey = degrade(image, np.random.default_rng(1), Augmentation(grey=1.0))
    assert grey.shape == image.shape and np.array_equal(grey[..., 0], grey[..., 2])
    blurred = degrade(image, np.random.default_rng(1), Augmentation(blur=1.0))
    assert blurred.shape == image.shape and blurred.astype(float).std() < 0.8 * image.astype(float).std()


def test_strong_augmentation_is_repeatable_and_keeps_boxes_in_the_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    boxes = np.array([[0, 10, 10, 40, 50], [0, 60, 5, 88, 55]], np.float32)
    for seed in range(30):
        first, second = (
            augment_one(image, boxes, (64, 64), np.random.default_rng(seed), AUGMENTATIONS["strong"]) for _ in range(2)
        )
        assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
        assert (first[1][:, 1:] >= 0).all() and (first[1][:, 1:] <= 64).all()


# ---- lists and folders of other people

def test_an_entry_that_is_a_file_is_that_file_whatever_it_is_called(tmp_path):
    names = ["#1.png", " leading.png", "trailing.png ", "two  blanks.png", "back\\slash.png", "a\x0cb.png", "手.png",
             "'q'.png", "b#c.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text("# a comment\n" + "\n".join(names) + "\n\n", encoding="utf-8")
    assert [path.name for path in read_image_list(tmp_path / "list.txt")] == names


@pytest.mark.parametrize("entry", ["x" * 100_000, "a/" * 3000, "no.png 0,0,1,1,0", "list.txt/x.png"])
def test_an_entry_that_no_file_can_be_is_one_short_line(tmp_path, entry):
    (tmp_path / "list.txt").write_text(f"{entry}\n")
    with pytest.raises(DataError, match="list.txt:1: found") as error:
        read_image_list(tmp_path / "list.txt")
    assert len(str(error.value)) < 1000


def test_a_folder_leaves_out_what_is_no_file_and_counts_it(tmp_path):
    make_dataset(tmp_path, 2)
    folder = tmp_path / "images"
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "round").symlink_to(folder)
    dataset = ListDataset(folder, (64, 64), 1)
    assert len(dataset) == 2 and len(dataset.notes) == 1
    assert dataset.notes[0].startswith(f"{folder}: 3 of 5 images left out") and "dangling.jpg" in dataset.notes[0]


def test_several_lists_and_folders_are_one_dataset(tmp_path):
    one, two = make_dataset(tmp_path / "a", 2), make_dataset(tmp_path / "b", 3)
    dataset = ListDataset((one, two.parent / "images"), (64, 64), 1)
    assert len(dataset) == 5 and dataset.name == f"{one}, {two.parent / 'images'}"


def huge_png(side):
    """A PNG whose header claims side x side pixels, and that holds none."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(b""), b"IEND": b""}.items()
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + kind + data
                                          + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)


@pytest.mark.parametrize("side", [40_000, 30_000])
def test_an_image_that_claims_to_be_huge_is_one_line(tmp_path, side):
    listing = make_dataset(tmp_path, 2)
    (tmp_path / "images" / "1.jpg").write_bytes(huge_png(side))
    with pytest.raises(DataError, match="1.jpg: found .*expected"):
        ListDataset(listing, (64, 64), 1)[1]
    assert len(ListDataset(listing, (64, 64), 1, skip_bad=True)) == 1


# ---- where labels lie

@pytest.mark.parametrize("images, labels", [
    ("images", "labels"), ("Images", "Labels"), ("Images", "labels"), ("IMAGES", "LABELS"), ("IMAGES", "labels"),
    ("images", "Labels"), ("JPEGImages", "labels"), ("JPEGImages", "Labels"), ("images/train", "labels/train"),
    ("train/images", "train/labels"), ("images", "images"), ("obj_train_data", "obj_train_data")])
def test_labels_are_found_where_other_tools_put_them(tmp_path, images, labels):
    for folder in (images, labels):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(tmp_path / images / "a.b.jpg"), np.zeros((8, 8, 3), np.uint8))
    label = tmp_path / labels / "a.b.txt"
    label.write_text("0 .5 .5 .5 .5\n")
    image = tmp_path / images / "a.b.jpg"
    assert label_path(image) == LabelFinder().find(image) == label
    dataset = ListDataset(tmp_path / images, (64, 64), 1)
    dataset.require_boxes()
    assert len(dataset.labels[0]) == 1


def test_the_place_is_decided_per_image_and_every_folder_is_listed_once(tmp_path, monkeypatch):
    listing = make_dataset(tmp_path, 8)
    for i in range(3):
        (tmp_path / "labels" / f"{i}.txt").rename(tmp_path / "images" / f"{i}.txt")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert all(map(len, ListDataset(listing, (64, 64), 1).labels))
    assert len(listed) == len(set(listed)) <= 3


def test_an_image_without_labels_anywhere_is_named_with_all_its_places(tmp_path):
    (tmp_path / "Images").mkdir()
    cv2.imwrite(str(tmp_path / "Images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    dataset = ListDataset(tmp_path / "Images", (64, 64), 1)
    with pytest.raises(DataError, match="found no box in 1 image,") as error:
        dataset.require_boxes()
    for place in ("Labels/a.txt", "labels/a.txt", "Images/a.txt"):
        assert str(tmp_path / place) in str(error.value)
    assert len(label_places(tmp_path / "Images" / "a.png")) == 3


def test_boxes_of_classes_that_are_not_kept_are_not_looked_for_elsewhere(tmp_path):
    dataset = ListDataset(make_dataset(tmp_path, 3), (64, 64), 2)  # all of class 0
    dataset.keep_classes([1])
    with pytest.raises(DataError, match="list.txt: found 3 boxes of other classes and none of those that are kept"):
        dataset.require_boxes()


def test_boxes_without_area_are_left_out_and_counted_with_repeated_ones_in_one_line(tmp_path):
    listing = make_dataset(tmp_path, 3)
    (tmp_path / "labels" / "1.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 0 .2\n0 .5 .5 .2 .2\n0 .50 .5 .2 .2\n")
    (tmp_path / "labels" / "2.txt").write_text("0 .5 .5 .2 .2\n0 -.1 .5 .2 .2\n")  # alone in its image; whole outside
    dataset = ListDataset(listing, (64, 64), 1)
    assert [len(rows) for rows in dataset.labels[1:]] == [3, 1]
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith(f"{listing}: boxes: 2 without area (left out) and 2 repeated (kept")
    assert dataset.notes[0].endswith(f"; the first is {tmp_path / 'labels' / '1.txt'}:2")
    assert ListDataset(make_dataset(tmp_path / "clean", 2), (64, 64), 1).notes == [] and Doubtful().describe() == ""


@pytest.mark.parametrize("case", ["list_utf16", "labels_beside_JPEGImages", "labels_in_images_folder", "yaml_roboflow"])
def test_field_cases_open_with_boxes(shared, tmp_path, monkeypatch, case):
    shutil.copytree(shared / "field_cases" / case, tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    data = parse_data_config("d/data.yaml" if "yaml" in case else "d/my.data")
    for part in ("train", "valid"):
        images = ListDataset(data.lists(part), (64, 64), data.classes)
        images.require_boxes()
        assert sum(map(len, images.labels)) >= len(images) > 0
