"""data/converter.py: the Oxford release to YOLO labels."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from data import converter
from utils.data.exif import is_turned
from utils.data.pictures import place

TRAIN, VALID, TEST = (folder for folders in converter.LISTS.values() for folder in folders)
SQUARE = [[10, 20], [10, 60], [50, 60], [50, 20]]  # y, x: the box x 20..60, y 10..50


def test_a_picture_that_exif_would_turn_is_written_as_stored(tmp_path):
    """Orientation 6 shows a stored 40x20 picture as 20x40; the boxes belong to the stored one."""
    plain = cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8))[1].tobytes()
    (tmp_path / "turned.jpg").write_bytes(turned(plain))
    (tmp_path / "plain.jpg").write_bytes(plain)
    assert cv2.imread(str(tmp_path / "turned.jpg")).shape == (40, 20, 3)
    for name in ("turned", "plain"):
        content = (tmp_path / f"{name}.jpg").read_bytes()
        place(tmp_path / f"{name}.jpg", tmp_path / "out.jpg", "copy", as_stored=is_turned(content))
        assert cv2.imread(str(tmp_path / "out.jpg")).shape == (20, 40, 3)


def test_a_picture_that_was_written_anew_is_known_to_be_done(tmp_path, capsys):
    for i, folder in enumerate((TRAIN, VALID, TEST)):
        add(tmp_path, folder, f"picture{i}", [SQUARE])
    picture = next((tmp_path / "hand_dataset" / TRAIN / "images").iterdir())
    picture.write_bytes(turned(picture.read_bytes()))
    for again in (False, True):
        converter.main(["--root", str(tmp_path)])
        header, row, *_ = (line.split() for line in capsys.readouterr().out.splitlines() if line.split()[0] != "note:")
        counts = dict(zip(header, row))
        assert counts["list"] == "train" and counts["kept"] == (counts["images"] if again else "0")


def turned(jpeg: bytes) -> bytes:
    """A JPEG with the EXIF orientation 6."""
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:]


def struct(corners_yx, **more):
    """One hand as the release stores it."""
    return {name: np.array([point], float) for name, point in zip("abcd", corners_yx)} | more


def write_mat(path: Path, hands, variable="boxes"):
    cell = np.empty((1, len(hands)), dtype=object)
    cell[0, :] = hands
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: cell})


def add(root: Path, folder: str, name: str, hands, width=100, height=80):
    """An image of width x height and its annotation, in the release's layout."""
    image = root / "hand_dataset" / folder / "images" / f"{name}.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), np.full((height, width, 3), 90, np.uint8))
    write_mat(root / "hand_dataset" / folder / "annotations" / f"{name}.mat", [struct(quad) for quad in hands])
    return image


@pytest.fixture
def root(tmp_path):
    """A release of four images: two hands, one cut by the border, none, and one outside the image."""
    add(tmp_path, TRAIN, "Buffy_1", [SQUARE, [[-9, -5], [-9, 30], [20, 30], [20, -5]]])
    add(tmp_path, VALID, "Movie_1", [])
    add(tmp_path, TEST, "VOC2007_1", [SQUARE])
    add(tmp_path, TEST, "VOC2007_2", [[[90, 5], [90, 9], [95, 9], [95, 5]]])
    return tmp_path


def read_label(path: Path, width: int, height: int) -> np.ndarray:
    """(N, 4) x0, y0, x1, y1 in pixels of a label file."""
    rows = np.array([line.split() for line in path.read_text().splitlines()], float).reshape(-1, 5)
    assert (rows[:, 0] == 0).all()
    centre, half = rows[:, 1:3] * [width, height], rows[:, 3:5] * [width, height] / 2
    return np.hstack([centre - half, centre + half])


def snapshot(folder: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_release_becomes_images_labels_and_lists(root, capsys):
    converter.main(["--root", str(root)])
    assert (root / "train.txt").read_text() == "images/Buffy_1.jpg\nimages/Movie_1.jpg\n"
    assert (root / "valid.txt").read_text() == "images/VOC2007_1.jpg\nimages/VOC2007_2.jpg\n"
    np.testing.assert_allclose(read_label(root / "labels/Buffy_1.txt", 100, 80),
                               [[20, 10, 60, 50], [0, 0, 30, 20]], atol=1e-3)
    assert (root / "labels/Movie_1.txt").read_text() == ""
    assert (root / "labels/VOC2007_2.txt").read_text() == ""
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["list", "images", "boxes", "clipped", "dropped", "empty", "kept", "bad"]
    assert rows[1] == ["train", "2", "2", "1", "0", "1", "0", "0"]
    assert rows[2] == ["valid", "2", "1", "1", "1", "1", "0", "0"]
    assert rows[3][0] == "note:"  # not the 4,807 and 821 images of the release


def test_lists_are_relative_with_forward_slashes_wherever_out_is(root, tmp_path):
    out = tmp_path / "else" / "where"
    converter.main(["--root", str(root), "--out", str(out)])
    for name in ("train", "valid"):
        content = (out / f"{name}.txt").read_bytes()
        assert b"\\" not in content and b"\r" not in content
        assert all((out / line).is_file() for line in content.decode().split())


def test_release_under_oxford_is_found(root):
    (root / "oxford").mkdir()
    shutil.move(root / "hand_dataset", root / "oxford" / "hand_dataset")
    converter.main(["--root", str(root)])
    assert (root / "train.txt").read_text() == "images/Buffy_1.jpg\nimages/Movie_1.jpg\n"


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_linked_or_copied_whole(root, copy):
    converter.main(["--root", str(root)] + ["--copy"] * copy)
    source = root / "hand_dataset" / TRAIN / "images" / "Buffy_1.jpg"
    assert (root / "images/Buffy_1.jpg").read_bytes() == source.read_bytes()
    assert (root / "images/Buffy_1.jpg").samefile(source) != copy


def test_images_are_copied_where_links_are_refused(root, monkeypatch):
    def refuse(*args):
        raise OSError("no links here")
    monkeypatch.setattr(os, "link", refuse)
    converter.main(["--root", str(root)])
    assert (root / "images/Buffy_1.jpg").stat().st_size > 0


def test_second_run_touches_no_image_and_no_label(root, capsys):
    converter.main(["--root", str(root)])
    before = snapshot(root / "images") | snapshot(root / "labels")
    capsys.readouterr()
    converter.main(["--root", str(root)])
    assert snapshot(root / "images") | snapshot(root / "labels") == before
    assert capsys.readouterr().out.splitlines()[1].split() == ["train", "2", "2", "0", "0", "1", "2", "0"]


def test_changed_annotation_and_lost_image_are_converted_again(root):
    converter.main(["--root", str(root)])
    (root / "images/VOC2007_2.jpg").unlink()
    mat = root / "hand_dataset" / TEST / "annotations" / "VOC2007_1.mat"
    write_mat(mat, [struct(SQUARE), struct(SQUARE)])
    later = (root / "labels/VOC2007_1.txt").stat().st_mtime + 5
    os.utime(mat, (later, later))
    converter.main(["--root", str(root)])
    assert len((root / "labels/VOC2007_1.txt").read_text().splitlines()) == 2
    assert (root / "images/VOC2007_2.jpg").is_file()
    assert not list(root.rglob("*.tmp"))


def test_missing_release_names_the_download(tmp_path):
    with pytest.raises(converter.ReleaseError) as error:
        converter.main(["--root", str(tmp_path)])
    message = str(error.value)
    assert "python data/download_oxford.py" in message and converter.URL in message and "\n" not in message


def test_packed_release_names_the_tar_command(tmp_path):
    (tmp_path / "hand_dataset.tar.gz").write_bytes(b"")
    with pytest.raises(converter.ReleaseError) as error:
        converter.main(["--root", str(tmp_path)])
    assert f"tar -xzf {tmp_path / 'hand_dataset.tar.gz'} -C {tmp_path}" in str(error.value)


def test_missing_split_is_named(root):
    shutil.rmtree(root / "hand_dataset" / VALID)
    with pytest.raises(converter.ReleaseError) as error:
        converter.main(["--root", str(root)])
    assert VALID in str(error.value)


def test_same_name_in_two_splits_is_an_error_that_names_both(root):
    first, second = add(root, TRAIN, "VOC2007_9", [SQUARE]), add(root, TEST, "VOC2007_9", [])
    with pytest.raises(converter.ReleaseError) as error:
        converter.main(["--root", str(root)])
    message = str(error.value)
    assert str(first) in message and str(second) in message
    assert not (root / "labels").exists()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _crash(path):
    """One byte of 544 (an element's type or size) that ends scipy's compiled reader with a segmentation fault."""
    write_mat(path, [struct(SQUARE)])
    content = bytearray(path.read_bytes())
    content[304] = 46
    path.write_bytes(content)


DAMAGE = {  # file of the release: what happens to it
    "no image at all": ("images/Bad.jpg", lambda path: path.write_bytes(b"\xff\xd8 nothing")),
    "empty image": ("images/Bad.jpg", lambda path: path.write_bytes(b"")),
    "image cut short": ("images/Bad.jpg", _cut),
    "no .mat at all": ("annotations/Bad.mat", lambda path: path.write_bytes(b"text, not MATLAB" * 20)),
    "empty .mat": ("annotations/Bad.mat", lambda path: path.write_bytes(b"")),
    ".mat that ends its reader": ("annotations/Bad.mat", _crash),
    ".mat cut short": ("annotations/Bad.mat", _cut),
    "no boxes": ("annotations/Bad.mat", lambda path: write_mat(path, [struct(SQUARE)], variable="other")),
    "no corner d": ("annotations/Bad.mat", lambda path: write_mat(path, [struct(SQUARE[:3])])),
    "three numbers": ("annotations/Bad.mat", lambda path: write_mat(path, [struct([[1, 2, 3]] + SQUARE[1:])])),
    "not a number": ("annotations/Bad.mat", lambda path: write_mat(path, [struct([[1, np.nan]] + SQUARE[1:])])),
    "no struct": ("annotations/Bad.mat", lambda path: write_mat(path, [np.ones((4, 2))])),
    "no annotation": ("annotations/Bad.mat", lambda path: path.unlink()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_named_or_skipped_and_counted(root, capsys, damage):
    add(root, TEST, "Bad", [SQUARE])
    part, spoil = DAMAGE[damage]
    path = root / "hand_dataset" / TEST / part
    spoil(path)
    with pytest.raises(converter.ReleaseError) as error:
        converter.main(["--root", str(root)])
    message = str(error.value)
    assert str(path) in message and "--skip-bad" in message
    assert not (root / "valid.txt").exists()
    converter.main(["--root", str(root), "--skip-bad"])
    assert capsys.readouterr().out.splitlines()[2].split()[-1] == "1"
    assert "Bad" not in (root / "valid.txt").read_text()


def test_hand_side_and_struct_array_variants_are_read(tmp_path):
    write_mat(tmp_path / "cell.mat", [struct(SQUARE, e="L"), struct(SQUARE, e="R", f=3.0)])
    array = np.empty((1, 2), dtype=[(name, object) for name in "abcd"])
    for k in range(2):
        array[0, k] = tuple(np.array([point], float) for point in SQUARE)
    savemat(tmp_path / "array.mat", {"boxes": array})
    for name in ("cell", "array"):
        np.testing.assert_array_equal(converter.read_mat(tmp_path / f"{name}.mat"), [SQUARE, SQUARE])


def test_one_hand_and_no_hand_keep_their_shape(tmp_path):
    for n in (0, 1):
        write_mat(tmp_path / f"{n}.mat", [struct(SQUARE)] * n)
        assert converter.read_mat(tmp_path / f"{n}.mat").shape == (n, 4, 2)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-300, 900)] * 2), min_size=4, max_size=4), st.integers(1, 640),
       st.integers(1, 480), st.permutations(range(4)))
def test_box_is_the_clipped_hull_and_survives_the_label(corners_yx, width, height, order):
    box = converter.corners_to_box(corners_yx, width, height)
    y, x = np.array(corners_yx).T
    assert box == converter.corners_to_box([corners_yx[k] for k in order], width, height)
    if box is None:
        sides = min(x.max(), width) - max(x.min(), 0), min(y.max(), height) - max(y.min(), 0)
        assert min(sides) < 2e-3
        return
    assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    if not converter.is_clipped(corners_yx, width, height):
        assert box == (x.min(), y.min(), x.max(), y.max())
    fractions = np.array(converter.label_line(box, width, height).split()[1:], float)
    cx, cy, w, h = fractions * [width, height, width, height]
    np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], box, atol=1e-3)


def test_real_annotations_convert_to_their_published_boxes(shared, tmp_path):
    """All 2,031 hands of the release's test split, from their real corners and image sizes."""
    source = shared / "data" / "oxford_annotations"
    names = (source / "oxford_test_names.txt").read_text().split()
    shapes = [tuple(map(int, line.split())) for line in (source / "oxford_test_shapes.txt").read_text().splitlines()]
    expected, corners = {name: [] for name in names}, {name: [] for name in names}
    for line in (source / "oxford_test_annotations.txt").read_text().splitlines():
        fields = line.split(",")
        numbers = np.array(fields[1:13], float)
        expected[Path(fields[0]).name].append(numbers[:4])
        corners[Path(fields[0]).name].append(numbers[4:].reshape(4, 2)[:, ::-1])
    jpegs = {shape: cv2.imencode(".jpg", np.zeros(shape[::-1], np.uint8))[1].tobytes() for shape in set(shapes)}
    for folder in (TRAIN, VALID, TEST):
        (tmp_path / "hand_dataset" / folder / "images").mkdir(parents=True)
    for name, shape in zip(names, shapes, strict=True):
        (tmp_path / "hand_dataset" / TEST / "images" / name).write_bytes(jpegs[shape])
        write_mat(tmp_path / "hand_dataset" / TEST / "annotations" / f"{Path(name).stem}.mat",
                  [struct(quad) for quad in corners[name]])
    converter.main(["--root", str(tmp_path)])
    assert len((tmp_path / "valid.txt").read_text().split()) == 821
    for name, shape in zip(names, shapes):
        boxes = read_label(tmp_path / "labels" / f"{Path(name).stem}.txt", *shape)
        np.testing.assert_allclose(boxes, np.reshape(expected[name], (-1, 4)), atol=1.0 + 1e-3, err_msg=name)
    assert sum(map(len, expected.values())) == 2031
