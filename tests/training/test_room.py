"""train.py with more images in a batch than the machine has memory for, and with as many as it has."""

from pathlib import Path

import pytest

import train
from utils import cli
from utils.memory import Memory, at_least
from utils.parse_config import parse_model_config
from utils.training import room


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys, tiny_cfg, tiny_data):
    """A function that runs train.py for an epoch on a machine of so many bytes; its exit status and what it said."""
    monkeypatch.chdir(tmp_path)

    def on(memory, *flags):
        monkeypatch.setattr(room, "machine_memory", lambda: memory)
        monkeypatch.setattr("sys.argv", ["train.py", "--cfg", str(tiny_cfg), "--data", str(tiny_data), "--epochs", "1",
                                         "--n_cpu", "0", "--no-pictures", "--device", "cpu", "--name", "a", *flags])
        try:
            cli.run(train.main, several_processes=True)
            return 0, capsys.readouterr().err
        except SystemExit as end:
            return end.code, capsys.readouterr().err
    return on


def test_a_batch_that_cannot_fit_is_refused_in_one_line_before_it_is_tried(trained):
    before = set(Path().rglob("*"))
    status, error = trained(Memory(52 << 10, 52 << 10, swap=52 << 10), "--batch_size", "4", "--img_size", "64")
    assert status == 2 and error.count("\n") == 1 and set(Path().rglob("*")) == before
    assert error.startswith("train.py: --batch_size 4: training on 4 images of 64x64 takes at least ")
    assert "this machine with its swap has 0.1 MB: take a smaller --batch_size" in error and "--img_size" in error


def test_what_just_fits_is_trained_however_little_is_free(trained, tiny_cfg):
    enough = at_least(parse_model_config(tiny_cfg), 4, (64, 64))
    flags = ("--batch_size", "4", "--img_size", "64")
    assert trained(Memory(enough - 1, 0), *flags)[0] == 2
    assert trained(Memory(enough, 0), *flags) == (0, "")


def test_a_batch_holds_no_more_images_than_there_are(trained):
    assert trained(Memory(1 << 30, 0), "--batch_size", "60000", "--img_size", "64") == (0, "")


def test_where_the_system_does_not_say_all_is_tried(trained):
    assert trained(Memory(None, None), "--batch_size", "4", "--img_size", "64") == (0, "")


def test_one_image_whose_last_map_is_one_cell_is_refused_and_two_are_trained(trained):
    status, error = trained(Memory(None, None), "--batch_size", "1", "--img_size", "8")
    assert status == 2 and error.count("\n") == 1 and "one value a channel" in error and "--img_size" in error
    assert trained(Memory(None, None), "--batch_size", "2", "--img_size", "8") == (0, "")
