"""Progress of long loops."""

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
    assert lines == [f"epoch 1/9: step {n}/20  1.6 images/s  {left} left  loss {n - 1}" for n, left in ((6, "2:20"), (12, "1:20"), (18, "0:20"))]


def test_short_loops_and_hidden_ones_say_nothing(capsys):
    assert run(1, 20, capsys) == [] and run(100, 20, capsys, shown=False) == []


def test_hours_are_written_as_hours():
    assert "  2:46:40 left" in Progress([], 1001, "x").describe(1, 10.0)
