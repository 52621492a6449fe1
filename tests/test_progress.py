"""Progress of long loops."""

import io

from conftest import ROOT
from utils.progress import Progress


def run(seconds_per_step, steps, capsys, **options):
    now = [0.0]
    progress = Progress(range(steps), steps, "epoch 1/9", 16, clock=lambda: now[0], **options)
    for step in progress:
        now[0] += seconds_per_step
        progress.note = f"loss {step}"
    return capsys.readouterr().out.splitlines()


def test_without_a_terminal_there_is_a_line_per_minute_with_speed_and_time_left(capsys):
    lines = run(10, 20, capsys)
    assert lines == [f"epoch 1/9: step {n}/20  1.6 images/s  {left} left  loss {n - 1}"
                     for n, left in ((6, "2:20"), (12, "1:20"), (18, "0:20"))]


def test_short_loops_and_hidden_ones_say_nothing(capsys):
    assert run(1, 20, capsys) == [] and run(100, 20, capsys, shown=False) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_with_the_note_and_no_lines(monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert run(100, 20, capsys) == []
    assert "epoch 1/9" in screen.getvalue() and "loss" in screen.getvalue()


def test_every_long_loop_of_the_project_reports_by_the_one_helper():
    files = [path for pattern in ("*.py", "config/*.py", "data/*.py", "utils/**/*.py", "weights/*.py")
             for path in ROOT.glob(pattern)]
    bars = [path.name for path in files if "tqdm(" in path.read_text(encoding="utf-8")]
    assert sorted(bars) == ["download.py", "progress.py"]  # a download counts bytes


def test_hours_are_written_as_hours():
    assert "  2:46:40 left" in Progress([], 1001, "x").describe(1, 10.0)
