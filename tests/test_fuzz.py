"""The fuzzer: its cases can be repeated, what fails is seen and kept, and a slice of it finds nothing."""

import sys

import numpy as np
import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT))  # as `python -m tests.fuzz` has it
from tests.fuzz import corpus, targets  # noqa: E402
from tests.fuzz.mutate import mutated, replaced  # noqa: E402
from tests.fuzz.targets import SHARES, Targets  # noqa: E402
from tests.fuzz.watch import Watcher  # noqa: E402
from tests.fuzz.worker import run_case  # noqa: E402

QUICK = [kind for kind in SHARES if kind != "export"]  # whose sound files take half a minute to make


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return Targets(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("kind", QUICK)
def test_the_sound_files_of_every_kind_are_accepted(sound, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(targets, "mutated", lambda rng, content, others: content)
    monkeypatch.setattr(targets, "replaced", lambda rng, value, odd=(): value)
    accepted = 0
    for case in range(6):
        folder = tmp_path / str(case)
        folder.mkdir()
        accepted += run_case(sound, 0, case, [kind], folder)["verdict"] == "accepted"
    assert accepted == 6 or (kind == "mat" and accepted)  # of .mat files some hold no boxes


def test_a_case_is_the_same_whenever_it_is_made(sound, tmp_path):
    content = corpus.NET.encode()
    one, two = (mutated(np.random.default_rng((3, 7)), content, [content]) for _ in range(2))
    assert one == two and one != mutated(np.random.default_rng((3, 8)), content, [content])
    value = {"a": [1, {"b": 2}], "c": 3}
    changed = [replaced(np.random.default_rng(i), value) for i in range(20)]
    assert value == {"a": [1, {"b": 2}], "c": 3} and all(other != value for other in changed)
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        run_case(sound, 5, 11, ["cfg"], folder)
    assert (tmp_path / "1" / "input.cfg").read_bytes() == (tmp_path / "2" / "input.cfg").read_bytes()


@pytest.mark.parametrize("error, verdict", [(KeyError("x"), "crash"), (ValueError("found nothing"), "nameless"),
                                            (ValueError("{folder}/a.cfg:1: found x, expected y"), "refused")])
def test_an_error_is_judged_by_its_kind_and_by_whether_it_names_a_file(sound, tmp_path, monkeypatch, error, verdict):
    def read(self, folder, rng):
        raise type(error)(*(text.format(folder=folder) for text in error.args))
    monkeypatch.setattr(Targets, "cfg", read)
    assert run_case(sound, 0, 0, ["cfg"], tmp_path)["verdict"] == verdict


@pytest.mark.parametrize("code, verdict", [
    ("import os; os.kill(os.getpid(), 11)", "died"), ("data = bytearray(700 << 20)", "memory"),
    ("while True: pass", "hang"), ("raise KeyError(3)", "crash"), ("pass", "accepted")])
def test_what_ends_fills_or_holds_up_the_process_is_seen_and_kept(tmp_path, monkeypatch, code, verdict):
    monkeypatch.setattr("tests.fuzz.watch.MOST_BYTES", 1100 << 20)
    monkeypatch.setattr("tests.fuzz.watch.MOST_CPU_S", 1.0)
    if verdict == "hang":  # of processor time
        monkeypatch.setattr("tests.fuzz.watch.STARTING_S", 1.0)
    patch = (f"import tests.fuzz.targets as t\ndef read(self, folder, rng):\n    {code}\nt.Targets.cfg = read\n"
             "from tests.fuzz.worker import serve; serve({seed}, {kinds})")
    with Watcher(1, ["cfg"], tmp_path / "kept", patch) as watcher:
        result = watcher.run([4])
    assert result.last["verdict"] == verdict
    kept = tmp_path / "kept" / "seed1-case4" / "report.txt"
    assert kept.is_file() == (verdict != "accepted")
    if kept.is_file():
        assert "python -m tests.fuzz --seed 1 --case 4 --kinds cfg" in kept.read_text()


def test_a_slice_of_damaged_input_neither_crashes_nor_hangs_nor_fills_the_memory(tmp_path):
    """Each error names its file; python -m tests.fuzz goes on from here."""
    with Watcher(20261126, QUICK, tmp_path) as watcher:
        result = watcher.run(range(2000))
    assert not result.failures, [f"{failure['kind']} {failure['case']}: {failure['verdict']}: {failure['words'][-500:]}"
                                 for failure in result.failures]
    counts = {kind: sum(n for (of, _), n in result.counts.items() if of == kind) for kind in QUICK}
    assert min(counts.values()) > 30 and sum(n for (_, verdict), n in result.counts.items() if verdict == "accepted")
