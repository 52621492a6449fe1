"""utils/data/matlab.py: .mat files read in a process that may die."""

import os
import signal

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from utils.data import matlab
from utils.data.matlab import MatError, MatReader


@pytest.fixture
def reader():
    with MatReader() as reader:
        yield reader


def write_cell(path, count=1):
    cell = np.empty((1, count), object)
    for k in range(count):
        cell[0, k] = {"a": np.array([[10.0, 20.0 + k]]), "side": "L"}
    savemat(path, {"boxes": cell, "n": 3.0})
    return path


@pytest.mark.parametrize("count", [0, 1, 3])
def test_variables_are_those_that_scipy_reads(reader, tmp_path, count):
    path = write_cell(tmp_path / "a.mat", count)
    expected = {name: value for name, value in loadmat(path, simplify_cells=True).items() if not name.startswith("__")}
    np.testing.assert_equal(reader.read(path), expected)


def test_a_file_that_ends_the_reader_is_named_and_the_next_one_is_read(reader, tmp_path):
    good = write_cell(tmp_path / "good.mat")
    content = bytearray(good.read_bytes())
    crashes = 0
    for k, byte in ((304, 46), (312, 255), (400, 0)):
        (tmp_path / "bad.mat").write_bytes(content[:k] + bytes([byte]) + content[k + 1:])
        try:
            reader.read(tmp_path / "bad.mat")
        except MatError as error:
            crashes += 1
            assert str(error).startswith(f"{tmp_path / 'bad.mat'}: ") and "\n" not in str(error)
        assert "boxes" in reader.read(good)
    assert crashes


def test_one_process_reads_many_files_and_is_replaced_when_it_is_killed(reader, tmp_path):
    path = write_cell(tmp_path / "a.mat")
    reader.read(path)
    first = reader._process.pid
    reader.read(path)
    assert reader._process.pid == first
    os.kill(first, signal.SIGKILL)
    with pytest.raises(MatError, match="its reader ended"):
        reader.read(path)
    assert "n" in reader.read(path) and reader._process.pid != first


def test_a_reader_that_hangs_is_ended(reader, tmp_path, monkeypatch):
    path = write_cell(tmp_path / "a.mat")
    reader.read(path)
    os.kill(reader._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(matlab, "TIMEOUT_S", 0.05)
    with pytest.raises(MatError, match="its reader ended"):
        reader.read(path)


def test_a_file_over_the_bound_is_not_opened(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "MAX_FILE_BYTES", 100)
    with pytest.raises(MatError, match="expected a .mat file of at most 100"):
        reader.read(write_cell(tmp_path / "a.mat"))
    assert reader._process is None


def test_missing_file_is_an_os_error(reader, tmp_path):
    with pytest.raises(OSError):
        reader.read(tmp_path / "none.mat")
