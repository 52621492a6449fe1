"""Output files are whole or not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT, small_disk
from models import Darknet
from utils.checkpoint import save_checkpoint
from utils.lock import Lock
from utils.output import (
    _is_alive,
    one_step,
    replacing,
    replacing_all,
    write_csv,
    write_json,
    write_text,
)
from utils.places import OutputError

NET = [{"type": "net", "width": "32", "height": "32", "channels": "3"},
       {"type": "convolutional", "filters": "64", "size": "3", "activation": "linear"}]


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


def test_text_and_tables_are_utf_8_with_the_same_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "手\n")
    write_csv(tmp_path / "a.csv", [{"name": "手", "n": 1}])
    assert (tmp_path / "a.txt").read_bytes() == "手\n".encode()
    assert (tmp_path / "a.csv").read_bytes() == "name,n\n手,1\n".encode()


def test_a_checkpoint_that_cannot_be_written_does_not_harm_the_one_before(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {"model": {}, "epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "last.pth", {"model": {}, "epoch": 2, "unpicklable": lambda: 0})
    assert torch.load(tmp_path / "last.pth", weights_only=True)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


FULL = "cannot be written .File too large.*the file that was there before is whole"


@pytest.mark.parametrize("name, write", [
    ("a.txt", lambda path: write_text(path, "a" * 5000)),
    ("a.pth", lambda path: save_checkpoint(path, {"model": torch.zeros(5000)})),
    ("a.csv", lambda path: write_csv(path, [{"x": "a" * 5000}])),
    ("a.weights", lambda path: Darknet([*NET]).save_darknet_weights(path)),
])
def test_on_a_full_disk_the_error_names_the_file_and_what_is_left(tmp_path, name, write):
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(OutputError, match=f"{name}: {FULL}"), small_disk():
        write(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def several(folder):
    with replacing_all(folder / "a.xml") as unfinished:
        (unfinished / "a.bin").write_bytes(b"a" * 5000)


@pytest.mark.parametrize("write", [lambda folder: write_text(folder / "a.xml", "a" * 5000), several])
def test_on_a_full_disk_one_file_or_several_the_error_names_what_was_to_be_written(tmp_path, write):
    with pytest.raises(OutputError, match="a.xml: cannot be written .File too large.; nothing was left there"):
        with small_disk():
            write(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("write", [lambda path: write_text(path, "a"), lambda path: several(path.parent)])
def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder_are_named(tmp_path, write):
    (tmp_path / "a.xml").mkdir()
    with pytest.raises(OutputError, match="a.xml: found a folder, expected the name of a file to write"):
        write(tmp_path / "a.xml")
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match="/file: found a file, expected a folder to write to"):
        write(tmp_path / "file" / "new" / "a.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xml", "file"]


@pytest.mark.parametrize("block, name", [(replacing, ""), (replacing_all, "a.xml")])
@pytest.mark.parametrize("error", [lambda path: ValueError(f"{path}: a fault"), lambda path: OSError(2, "no", path)])
def test_an_error_about_a_file_in_the_making_names_its_place(tmp_path, block, name, error):
    with pytest.raises((ValueError, OSError)) as raised, block(tmp_path / "a.xml") as temporary:
        raise error(str(temporary / name))
    assert str(tmp_path / "a.xml") in str(raised.value) and "tmp" not in str(raised.value).replace(str(tmp_path), "")


def test_a_table_is_utf8_where_the_systems_own_letters_are_others(tmp_path):
    command = "from utils.output import write_csv; write_csv('a.csv', [{'class': '\\u732b'}])"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, env=os.environ | plain, check=True)
    assert (tmp_path / "a.csv").read_bytes() == "class\n猫\n".encode()


def test_where_no_open_file_can_be_removed_a_lock_is_closed_first_and_lets_go_in_any_case(tmp_path, monkeypatch):
    """As on Windows, which has no fcntl either."""
    monkeypatch.setattr("utils.lock.fcntl", None)
    lock, closed = Lock(tmp_path / ".lock", "here"), []

    def busy(path, missing_ok):
        closed.append(lock.file.closed)
        raise PermissionError(13, "in use")
    monkeypatch.setattr(Path, "unlink", busy)
    lock.release()
    assert closed == [True]


def test_where_no_signal_can_ask_every_process_is_taken_to_live(tmp_path, monkeypatch, dead):
    """On Windows signal 0 is Ctrl-C: it would end whoever is asked."""
    monkeypatch.setattr("platform.system", lambda: "Windows")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process was sent a signal"))
    assert _is_alive(dead, 1) and not _is_alive(os.getpid(), -1)


def test_a_set_of_files_is_replaced_in_one_step_in_the_order_of_writing(tmp_path, monkeypatch):
    names, order = ["a.weights", "sub/a.cfg", "a.names"], []
    for name in names:
        write_text(tmp_path / name, "old")
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: order.append(Path(target).name) or rename(source, target))
    with one_step():
        for name in names:
            write_text(tmp_path / name, "new")
            assert (tmp_path / name).read_text() == "old"
    assert order == ["a.weights", "a.cfg", "a.names"]
    assert {(tmp_path / name).read_text() for name in names} == {"new"}


@pytest.mark.parametrize("fails_at", range(3))
def test_a_set_whose_rename_fails_leaves_all_as_it_was(tmp_path, monkeypatch, fails_at):
    write_text(tmp_path / "a", "old a")
    write_text(tmp_path / "c", "old c")
    rename, seen = os.replace, []

    def failing(source, target):
        seen.append(target)
        if len(seen) == fails_at + 1:
            raise OSError("no")
        rename(source, target)
    with pytest.raises(OSError, match="no"), one_step():
        for name in "abc":
            write_text(tmp_path / name, "new")
        monkeypatch.setattr(os, "replace", failing)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old a", "c": "old c"}


def test_a_set_that_is_not_finished_leaves_all_as_it_was(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), one_step():
        write_text(tmp_path / "a", "new")
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def owned_by(temporary, process):
    """The name of a file in the making, were it another process's."""
    return temporary.with_name(temporary.name.replace(f"-{os.getpid()}-", f"-{process}-"))


def test_what_a_killed_process_left_is_removed_by_the_next_writer_and_a_living_ones_stays(tmp_path, dead):
    with replacing(tmp_path / "a") as temporary:
        left, living = owned_by(temporary, dead), owned_by(temporary, os.getppid())
        left.touch()
        living.touch()
        temporary.touch()
    write_text(tmp_path / "a", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", living.name])


def test_what_an_earlier_process_of_the_same_number_left_is_removed(tmp_path):
    """In a container a program is often process 1, or 7, each time that it runs."""
    with replacing(tmp_path / "a") as temporary:
        temporary.touch()
    temporary.with_name(f"{temporary.name.rpartition('-')[0]}-1.tmp").touch()  # of a thread that is not there
    write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_unfinished_folder_of_a_killed_export_is_removed_by_the_next_and_a_living_ones_stays(tmp_path, dead):
    with replacing_all(tmp_path / "net.xml") as folder:
        (folder / "net.bin").write_text("new")
    for process in (dead, os.getppid()):
        owned_by(folder, process).mkdir()
        (owned_by(folder, process) / "net.bin").write_text("half")
    with replacing_all(tmp_path / "net.xml") as folder:
        write_text(folder / "net.xml", "new")
        assert not (tmp_path / "net.xml").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["net.bin", "net.xml", owned_by(folder, os.getppid()).name])


def test_several_files_of_a_writer_that_fails_leave_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing_all(tmp_path / "net.xml") as folder:
        (folder / "net.bin").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
