"""python -m utils.doctor: what it says of a machine, of packages and of a net, and how much memory a net needs."""

import importlib.metadata
import sys

import pytest
import torch

from models import Darknet
from utils import cli, doctor
from utils.doctor import BAD, NOTE, Requirement
from utils.memory import at_least, kept_values, machine_memory, needs
from utils.parse_config import parse_model_config
from utils.shapes import layer_shapes, total_cost


def kept_by_autograd(cfg, size, half=False, frozen=0):
    """Bytes per image that torch keeps for the backward pass, besides weights and statistics."""
    model = Darknet(cfg).train()
    model.module_list[:frozen].requires_grad_(False).eval()
    known = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    storages, tensors = {}, []

    def pack(tensor):
        tensors.append(tensor)  # alive, so that no address is used twice
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast(
            "cpu", torch.bfloat16, enabled=half):
        model(torch.zeros(2, model.channels, *size[::-1]))
    return sum(count for address, count in storages.items() if address not in known) / 2


def test_the_maps_of_a_training_step_are_counted_as_torch_keeps_them(families):
    for cfg in families.values():
        defs, size = parse_model_config(cfg), (96, 64)
        counted = 4 * sum(kept_values(defs, layer_shapes(defs, *size), (3, size[1], size[0])))
        assert counted == pytest.approx(kept_by_autograd(cfg, size), rel=0.02), cfg


@pytest.mark.parametrize("half, frozen", [(False, 0), (True, 0), (False, 5), (True, 5)])
def test_a_step_takes_more_than_what_it_is_said_to_take_at_least(families, half, frozen):
    """And, where every layer learns in full precision, not much more: a bound that is too low would let a batch in that
    cannot fit."""
    for cfg in families.values():
        defs, size = parse_model_config(cfg), (96, 64)
        bound = at_least(defs, 1000, size, half, frozen)
        kept = 4 * total_cost(defs, *size).parameters + 1000 * kept_by_autograd(cfg, size, half, frozen)
        assert bound <= kept and (half or frozen or kept <= 1.12 * bound), cfg


def test_what_a_net_needs_grows_with_batch_and_size(tiny_cfg):
    defs = parse_model_config(tiny_cfg)
    one, more, larger = needs(defs, 1), needs(defs, 3), needs(defs, 1, (128, 64))
    assert one.weights == more.weights < one.inference < one.training < more.training and larger.training > one.training
    assert larger.training - needs(defs, 1, (64, 64)).training == pytest.approx(
        (more.training - one.training) / 2, rel=1e-6)  # twice the pixels: as much as another image


def machine_files(root, available=8 << 20, limit=None, swap=None):
    (root / "proc").mkdir()
    (root / "proc" / "meminfo").write_text(f"MemTotal:  {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n" +
                                           f"SwapTotal: {2 << 20} kB\n" * (swap is not None))
    if limit:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.swap.max").write_text(swap or "max\n")
        (root / "sys/fs/cgroup/memory.max").write_text(limit)
        (root / "sys/fs/cgroup/memory.current").write_text(str(1 << 30))
    return machine_memory(root)


@pytest.mark.parametrize("limit, total, available", [(None, 16, 8), ("max\n", 16, 8), (str(4 << 30), 4, 3)])
def test_memory_is_the_machines_or_that_of_its_container(tmp_path, limit, total, available):
    found = machine_files(tmp_path, limit=limit)
    assert (found.total >> 30, found.available >> 30) == (total, available)


@pytest.mark.parametrize("limit, swap, most", [(None, None, 16), (None, "", 18), (str(4 << 30), "max\n", 6),
                                               (str(4 << 30), "0\n", 4)])
def test_what_there_is_at_most_counts_the_swap_that_may_be_used(tmp_path, limit, swap, most):
    assert machine_files(tmp_path, limit=limit, swap=swap).most >> 30 == most


def test_a_system_that_does_not_say_is_no_error(tmp_path):
    assert machine_memory(tmp_path).available is None
    assert doctor.judge("x takes", 1 << 40, None, "memory", "less").mark == NOTE
    assert doctor.abilities("")[0].mark == NOTE


def test_what_a_processor_has_and_lacks_is_said():
    words = doctor.abilities("flags : fpu avx2 avx512f avx_vnni\n")[0].words
    assert words == "instructions: AVX2, AVX-512, 8-bit products (VNNI); without bfloat16, AMX"


@pytest.mark.parametrize("version, bounds, fits", [
    ("2.6.0+cpu", ">=2.6", True), ("2.5.9", ">=2.6", False), ("4.10", ">=4.9,<5", True), ("5.0", ">=4.9,<5", False),
    ("3", "", True), ("1.0.20250503", ">=1.0.20250503", True), ("2.10.0rc1", ">2.9", True)])
def test_versions_are_compared_by_their_numbers(version, bounds, fits):
    assert doctor.fits(version, bounds) == fits


def test_every_line_of_the_requirements_is_read():
    for name in ("requirements.txt", "requirements-optional.txt"):
        lines = [line for line in (doctor.ROOT / name).read_text().splitlines() if line and line[0] != "#"]
        found = list(doctor.requirements(doctor.ROOT / name))
        assert len(found) == len(lines) and all(one.bounds for one in found)


def test_a_missing_package_comes_with_its_pip_command(monkeypatch):
    missing = Requirement("no-such-package", ">=1.2", "export.py")
    assert doctor.judged(missing, NOTE) == [doctor.Finding(
        NOTE, "no-such-package: not installed (for export.py): pip install 'no-such-package>=1.2'")]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1")
    assert "0.1 is installed, expected >=1.2" in doctor.judged(missing, BAD)[0].words
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.3")
    assert doctor.judged(missing, BAD) == []


def said(monkeypatch, capsys, *words):
    """Exit status and text of the doctor."""
    monkeypatch.setattr("sys.argv", ["doctor.py", *words])
    try:
        cli.run(doctor.main)
        status = 0
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr()


def test_it_says_whether_memory_suffices_for_a_net(tiny_cfg, monkeypatch, capsys):
    status, out = said(monkeypatch, capsys, "--cfg", str(tiny_cfg), "--batch", "2", "--img-size", "64")
    assert status == 0 and "training takes about" in out.out and "for an image of 64x64" in out.out
    assert "processor:" in out.out and "disk:" in out.out and "CUDA" in out.out.upper()
    status, out = said(monkeypatch, capsys, "--cfg", "config/yolov3-hand.cfg", "--batch", "60000")
    assert status == 1 and f"  {BAD}  training takes about" in out.out and "take a smaller --batch_size" in out.out


def test_where_a_needed_package_is_missing_it_says_so_and_needs_none_itself(monkeypatch, capsys):
    whole = importlib.metadata.version

    def version(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return whole(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    status, out = said(monkeypatch, capsys, "--cfg", "config/yolov3-hand.cfg")
    assert status == 1 and f"{BAD}  torch: not installed" in out.out and "machine" not in out.out


@pytest.mark.parametrize("words, wrong", [(["--cfg", "nowhere.cfg"], "nowhere.cfg: no such cfg file"),
                                          (["--batch", "0"], "argument --batch_size/--batch: found 0"),
                                          (["--cfg", "config/yolov3-hand.cfg", "--img_size", "100"], "--img_size")])
def test_wrong_words_are_one_line(monkeypatch, capsys, words, wrong):
    status, out = said(monkeypatch, capsys, *words)
    assert status == 2 and wrong in out.err and out.err.count("\n") == 1
