"""Output files are whole or not there."""

import json
from pathlib import Path

import pytest
import torch

from utils.checkpoint import save_checkpoint
from utils.output import replacing, write_json, write_text


def test_a_failed_writer_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "new folder" / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("ha")
        assert target.read_text() == "old"
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_finished_writer_replaces_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    write_json(target, {"path": Path("x"), "n": [1, 2.5]})
    assert json.loads(target.read_text()) == {"path": "x", "n": [1, 2.5]}
    assert list(tmp_path.iterdir()) == [target]


def test_a_checkpoint_that_cannot_be_written_does_not_harm_the_one_before(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {"model": {}, "epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "last.pth", {"model": {}, "epoch": 2, "unpicklable": lambda: 0})
    assert torch.load(tmp_path / "last.pth", weights_only=True)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]
