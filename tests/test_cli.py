"""Sizes and times to reach, as the command line takes them."""

import argparse
import io

import pytest

from conftest import ROOT
from utils import cli

SIZE, TIME = cli.size_target, cli.time_target


@pytest.mark.parametrize("kind, text, value, ratio", [
    (SIZE, "0.2", 0.2, True), (SIZE, "1.2M", 1.2e6, False), (SIZE, "350K", 3.5e5, False), (SIZE, "0.8G", 8e8, False),
    (SIZE, "2500000", 2.5e6, False), (SIZE, "220k", 2.2e5, False), (SIZE, "1.2m", 1.2e6, False),
    (SIZE, "0.8g", 8e8, False), (TIME, "12MS", 0.012, False),
    (TIME, "0.5", 0.5, True), (TIME, "12ms", 0.012, False), (TIME, "2s", 2.0, False)])
def test_targets_are_ratios_or_amounts(kind, text, value, ratio):
    target = kind(text)
    assert target.value == pytest.approx(value) and target.is_ratio == ratio
    assert target.of(100) == pytest.approx(100 * value if ratio else value)
    assert kind is TIME or kind(target.text) == target


@pytest.mark.parametrize(
    "kind, text",
    [
        (SIZE, ""),
        (SIZE, "-1"),
        (SIZE, "0"),
        (SIZE, "12"),
        (SIZE, "12ms"),
        (SIZE, "12 parsecs"),
        (SIZE, "9" * 400 + "k"),
        (SIZE, "\u0663k"),
        (SIZE, "1.2.3"),
        (SIZE, "1e9x"),
        (TIME, "2500"),
        (TIME, "1.2M"),
        (TIME, "0ms"),
        (TIME, "2"),
    ],
)
def test_other_targets_are_refused(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a ratio"):
        kind(text)


def test_a_package_that_is_not_installed_is_named_with_the_command_and_a_module_of_ours_is_our_fault():
    missing = cli.input_fault(ModuleNotFoundError("No module named 'cv2'", name="cv2"))
    assert missing == f"the package cv2 is not installed: python -m pip install -r {ROOT / 'requirements.txt'}"
    assert cli.input_fault(ModuleNotFoundError("No module named 'utils.gone'", name="utils.gone")) is None


@pytest.mark.parametrize("names", [("person",), ("person, adult", "b"), ("a,b,c", "d", "e,")])
def test_class_names_with_commas_are_handed_on_as_they_are(names):
    assert cli.class_names(cli.joined_class_names(names)) == names


def test_a_console_without_the_letters_of_a_name_is_no_reason_to_end(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", console)
    cli.run(lambda: print("\u884c.png: 2 found"))
    console.flush()
    assert console.buffer.getvalue().decode().splitlines() == ["\\u884c.png: 2 found"]
