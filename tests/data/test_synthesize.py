"""data/synthesize_hands.py: hands over clutter in the layout of the Oxford release."""

import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from conftest import HANG, ROOT
from data import converter, draw_clutter, draw_hands, synthesize_hands

SIZE = 96  # pixels
COUNTS = ["--train", "4", "--valid", "1", "--test", "2", "--size", str(SIZE)]


def draw(out, *more):
    synthesize_hands.main(["--out", str(out), *COUNTS, "--workers", "1", *more])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def samples():
    """Images and (N, 4, 2) corners x, y of 40 samples."""
    return [synthesize_hands.render(0, "train", i, SIZE) for i in range(40)]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A set drawn by one process."""
    out = tmp_path_factory.mktemp("one")
    draw(out)
    return out


def test_any_number_of_workers_writes_the_same_bytes(release, tmp_path):
    draw(tmp_path, "--workers", "3")
    assert files(tmp_path) == files(release)


def test_an_image_does_not_depend_on_how_many_are_drawn(release, tmp_path):
    synthesize_hands.main(["--out", str(tmp_path), "--train", "2", "--valid", "0", "--test", "0", "--size", str(SIZE),
                           "--workers", "1"])
    more, fewer = files(release), files(tmp_path)
    assert all(more[name] == content for name, content in fewer.items() if not name.endswith(".json"))


def test_seeds_splits_and_indices_differ():
    images = [synthesize_hands.render(seed, split, i, SIZE)[0] for seed, split, i in
              ((0, "train", 0), (0, "train", 1), (0, "test", 0), (1, "train", 0))]
    assert len({image.tobytes() for image in images}) == 4


def test_interrupted_run_goes_on_and_equals_a_whole_one(release, tmp_path):
    draw(tmp_path)
    annotations = sorted(tmp_path.rglob("*.mat"))
    annotations[0].unlink()
    kept = annotations[1].stat().st_mtime_ns
    draw(tmp_path)
    assert files(tmp_path) == files(release) and annotations[1].stat().st_mtime_ns == kept


ENDED = """
import os, signal, sys
from data import synthesize_hands
from utils import cli

def end(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    yield 0

if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core: no drawing process has run yet
    synthesize_hands.Progress = end
    cli.run(synthesize_hands.main)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs the choice of a core")
def test_a_run_that_is_told_to_end_as_soon_as_it_has_started_its_processes_ends(tmp_path):
    (tmp_path / "ended.py").write_text(ENDED)
    done = subprocess.run([sys.executable, "ended.py", "--out", "out", *COUNTS, "--workers", "4"], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "stopped by SIGTERM\n")


THREADED = """
import sys
import cv2, numpy as np
from data import synthesize_hands
if __name__ == "__main__":
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 3)
    synthesize_hands.main()
"""


def test_a_program_that_has_begun_threads_of_opencv_draws_as_well(release, tmp_path):
    """Forked from it, a process that draws would wait for these threads for ever."""
    (tmp_path / "threaded.py").write_text(THREADED)
    subprocess.run([sys.executable, "threaded.py", "--out", "out", *COUNTS, "--workers", "2"], cwd=tmp_path,
                   env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=HANG)
    assert files(tmp_path / "out") == files(release)


def test_other_settings_or_a_real_release_are_never_overwritten(release, tmp_path):
    before = files(release)
    with pytest.raises(FileExistsError, match="a set drawn with"):
        draw(release, "--seed", "5")
    assert files(release) == before
    (tmp_path / "hand_dataset" / "training_dataset").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="hand_dataset.*did not draw"):
        draw(tmp_path)
    assert not list(tmp_path.rglob("*.jpg"))


def test_converter_reads_every_hand_that_was_drawn(release, tmp_path):
    converter.main(["--root", str(release), "--out", str(tmp_path)])
    drawn = {split: sum(len(synthesize_hands.render(0, split, i, SIZE)[1]) for i in range(count))
             for split, count in (("train", 4), ("valid", 1), ("test", 2))}
    for name, splits in (("train", ("train", "valid")), ("valid", ("test",))):
        lines = (tmp_path / f"{name}.txt").read_text().split()
        labels = [(tmp_path / line).parent.parent / "labels" / f"{(tmp_path / line).stem}.txt" for line in lines]
        assert sum(len(label.read_text().splitlines()) for label in labels) == sum(drawn[split] for split in splits)
        assert all(cv2.imread(str(tmp_path / line)).shape == (SIZE, SIZE, 3) for line in lines)


def test_mat_holds_the_corners_y_first(release):
    mat = release / "hand_dataset/training_dataset/training_data/annotations/synth_train_00001.mat"
    corners = synthesize_hands.render(0, "train", 1, SIZE)[1]
    np.testing.assert_allclose(converter.read_mat(mat), corners[..., ::-1], atol=1e-9)


def test_boxes_are_inside_the_image_and_of_the_stated_size(samples):
    low, high = synthesize_hands.Difficulty.sides
    for _, corners in samples:
        for quad in corners:
            assert low * SIZE * 0.99 <= np.ptp(quad, axis=0).max() <= high * SIZE * 1.01
            box = converter.corners_to_box(quad[:, ::-1], SIZE, SIZE)
            assert box is not None and 0 <= min(box) and max(box) <= SIZE


def test_images_hold_none_to_four_hands(samples):
    counts = {len(corners) for _, corners in samples}
    assert counts <= {0, 1, 2, 3, 4} and len(counts) >= 4


def test_corners_start_at_the_wrist_and_turn_as_in_the_release():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hand = draw_hands.make_hand(rng, 200, (300, 300))
        x, y = hand.corners_xy().T
        assert np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)) > 0  # the sign of all 2,031 real boxes
        wrist, tips = hand.corners_xy()[:2].mean(0), hand.corners_xy()[2:].mean(0)
        assert np.linalg.norm(hand.wrist[:2] - wrist) < np.linalg.norm(hand.wrist[:2] - tips)


def test_box_is_tight_on_the_hand_and_where_it_was_asked_for():
    rng = np.random.default_rng(1)
    for _ in range(20):
        hand = draw_hands.make_hand(rng, 200, (300, 250))
        corners = hand.corners_xy()
        along, across = corners[3] - corners[0], corners[1] - corners[0]
        points = np.concatenate(hand.parts) - corners[0]
        for edge in (along, across):
            share = points @ edge / (edge @ edge)
            np.testing.assert_allclose([share.min(), share.max()], [0, 1], atol=1e-4)
        np.testing.assert_allclose((corners.min(0) + corners.max(0)) / 2, [300, 250], atol=1e-3)
        assert np.ptp(corners, axis=0).max() == pytest.approx(200, abs=1e-3)


def test_hands_stay_visible_under_what_is_drawn_later():
    for seed in range(8):
        scene = synthesize_hands.Scene(np.random.default_rng(seed), SIZE)
        for _ in range(10):
            scene.add_hand()
        for k, area in enumerate(scene.areas, start=1):
            seen = (scene.owner == k).sum()
            assert seen == scene.visible[k - 1] and seen >= synthesize_hands.Difficulty.min_visible * area
        before = scene.canvas.copy()
        scene.visible[:] = 0  # nothing may be hidden any more
        scene.add_occluder()
        assert (scene.canvas == before).all()


def test_painting_a_hand_stays_on_its_silhouette():
    rng = np.random.default_rng(3)
    hand = draw_hands.make_hand(rng, 150, (150, 150))
    canvas, mask = np.zeros((300, 300, 3), np.uint8), np.zeros((300, 300), np.uint8)
    draw_hands.paint_hand(canvas, hand, rng, np.array([120.0, 150, 210]), np.array([0.6, -0.8]))
    for part in hand.parts:
        draw_hands.fill(mask, part, 1)
    assert canvas[mask > 0].any(1).mean() > 0.99
    assert not canvas[cv2.dilate(mask, np.ones((9, 9))) == 0].any()


@pytest.mark.parametrize("size", [32, 600])
def test_small_and_large_images_can_be_drawn(size):
    image, _ = synthesize_hands.render(0, "test", 0, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and image.std() > 3


def test_grain_has_the_stated_strength_beyond_its_tile():
    noise = draw_clutter.grain(np.random.default_rng(0), (900, 900, 3), 5.0)
    assert noise.shape == (900, 900, 3) and noise.std() == pytest.approx(5, rel=0.02)


def test_contact_sheet_is_an_image(tmp_path):
    sheet = tmp_path / "sheets" / "hands.png"
    synthesize_hands.contact_sheet(sheet, seed=0, size=64, columns=2, rows=2)
    assert cv2.imread(str(sheet)).shape == (128, 128, 3)


@pytest.mark.parametrize("wrong", [["--train", "-1"], ["--size", "8"], ["--workers", "0"]])
def test_impossible_options_are_refused(tmp_path, wrong):
    with pytest.raises(SystemExit) as stop:
        synthesize_hands.main(["--out", str(tmp_path), *wrong])
    assert stop.value.code == 2


def test_easier_pictures_have_few_whole_hands_of_the_sides_asked_for():
    easy = synthesize_hands.Difficulty(sides=(0.35, 0.5), most_hands=2, min_visible=0.9)
    for seed in range(12):
        image, corners = synthesize_hands.render(seed, "train", 0, SIZE, easy)
        assert len(corners) <= 2
        for box in corners:
            clipped = np.clip(box, 0, SIZE)
            sides = (clipped.max(0) - clipped.min(0)) / (box.max(0) - box.min(0))
            assert sides.min() > 0.5 and 0.3 < (box.max(0) - box.min(0)).max() / SIZE < 0.55
