"""Pictures of numbers: what must be on them, read from the figure before it is saved."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from examples.demo_report import FinalTable, conclusion, draw_truth, write_report
from utils import plots
from utils.deploy.results import write_picture


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Calls a plot function and returns its axes, drawn, as they are saved."""
    made = []
    monkeypatch.setattr(plots.plt, "close", made.append)

    def axes_of(plot, *args):
        plot(*args, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
        return made[-1].axes
    return axes_of


def test_a_slow_machine_draws_without_a_warning(monkeypatch, recwarn, tmp_path):
    seconds = itertools.count(step=5)
    monkeypatch.setattr("matplotlib.legend.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    plots.plot_gammas({"kept": [0.5, 0.6], "cut": [0.1]}, 0.3, tmp_path / "a.png")
    assert next(seconds) > 5 and not [str(warning.message) for warning in recwarn]


def rows(epochs):
    return [
        {
            "epoch": str(epoch),
            "loss_box": "2",
            "loss_objectness": "1.5",
            "loss_class": "0",
            "map50": "0.5",
            "map": "",
            "precision": "0.4",
            "recall": "0.3",
            "gamma_q10": "0.1",
            "gamma_q85": "0.2",
        }
        for epoch in range(1, epochs + 1)
    ]


def touching(axis):
    """Whether labels of the x axis run into each other."""
    axis.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text() and label.get_visible()]
    return any(one.overlaps(other) for one, other in zip(boxes, boxes[1:]))


@pytest.mark.parametrize("epochs", [1, 2, 39, 300])
def test_training_curves_have_labels_and_no_blank_panel_after_any_number_of_epochs(figure, epochs):
    axes = figure(plots.plot_training, rows(epochs))
    for axis in axes:
        assert axis.get_ylabel() and axis.get_xlabel() == "epoch" and not touching(axis)
        for line in axis.lines:
            assert len(line.get_xdata()) == epochs
            assert epochs >= 40 or line.get_marker() == "."  # a line of one point shows nothing
        low, high = axis.get_ylim()
        assert axis.lines and all(low <= y <= high for line in axis.lines for y in line.get_ydata())
        assert [label for label in axis.get_yticklabels() if label.get_text()]
    assert [line.get_label() for line in axes[0].lines] == ["box", "objectness"]  # one class has no class loss


def test_two_nets_share_one_plot_of_precision_and_recall(figure):
    recall = np.linspace(0, 1, 101)
    curves = {"before": (recall, 1 - recall), "pruned": (recall, 1 - recall ** 2)}
    (axis,) = figure(plots.plot_pr_curves, curves, "a title")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(curves) and len(axis.lines) == 2
    (axis,) = figure(plots.plot_pr_curves, {"a": ([], [])}, "a very long title of a net " * 4)
    assert axis.texts[0].get_text() == "no detections" and "\n" in axis.get_title()


@pytest.mark.parametrize("name, begins", [
    ("a.PDF", b"%PDF"), ("a.svg", b"<?xml"), ("a.jpeg", b"\xff\xd8"), ("a.png", b"\x89PNG"), ("curve", b"\x89PNG"),
])
def test_a_picture_is_of_the_format_that_it_is_named_for(tmp_path, name, begins):
    plots.plot_training(rows(2), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_the_histogram_of_gammas_shows_the_threshold_and_who_is_cut_kept_or_a_carrier(figure):
    (axis,) = figure(plots.plot_gammas, {"kept": [0.5, 0.6], "carrier": [0.01], "cut": [0.0, 0.02]}, 0.1)
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert {"kept: 2", "carrier: 1", "cut: 2", "threshold: 0.1"} == set(words)
    (line,) = axis.lines
    assert list(line.get_xdata()) == [0.1, 0.1]
    (axis,) = figure(plots.plot_gammas, {"kept": [0.5], "carrier": [], "cut": []}, None)
    assert not axis.lines and [text.get_text() for text in axis.get_legend().get_texts()] == ["kept: 1"]


@pytest.mark.parametrize("layers", [1, 3, 75, 110])
def test_channels_per_layer_show_the_share_that_is_kept(figure, layers):
    before, after = [1024] * layers, [10] * layers
    counts, shares = figure(plots.plot_channels, list(range(layers)), before, after)
    assert [bar.get_height() for bar in shares.patches] == pytest.approx([100 * 10 / 1024] * layers)
    assert not touching(shares) and counts.get_yscale() == "log" and counts.get_ylim()[0] < 10


def test_the_report_holds_labelled_boxes_commands_and_a_conclusion(tmp_path):
    image = np.full((64, 64, 3), 90, np.uint8)
    for name in ("pruned/x-pruned-gammas", "pruned/x-pruned-channels", "pruned/x-pruned-pr", "pr_dense", "pr_pruned",
                 "baseline/curves", "sparse/curves", "tuned/curves"):
        write_picture(tmp_path / f"{name}.png", image)
    write_picture(tmp_path / "mistakes_pruned.jpg", image)
    for folder in ("images", "detect_dense", "detect_pruned"):
        write_picture(tmp_path / folder / "a.jpg", image)
    (tmp_path / "pruned" / "x-pruned.cfg").touch()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "commands.txt").write_text("python train.py --lr 1 <&>\n")
    draw_truth([tmp_path / "images" / "a.jpg"], tmp_path / "truth")
    words = conclusion([100, 20], [100, 30], [0.4, 0.1], [0.9, 0.88])
    assert "80 % fewer parameters, needs 70 % fewer multiply-adds and takes 25 % of the time" in words
    write_report(tmp_path, FinalTable([["a", "b"], ["c", 1]], ["yes"], words, "once"), "the end")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 8 + 3 + 1 and words in page and "python train.py --lr 1 &lt;&amp;&gt;" in page
