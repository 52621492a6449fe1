"""The pages under docs/ say what the program does."""

import importlib.util
import re

import pytest

from conftest import ROOT

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def make_flags():
    spec = importlib.util.spec_from_file_location("make_flags", ROOT / "docs" / "make_flags.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flags_page_is_what_the_parsers_say():
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == make_flags().flags_page(), (
        "run: python docs/make_flags.py"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_code_that_pages_name_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:utils|config|data|docs|tests|weights)/[\w/]+\.py|models\.py)`", text):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_functions_and_tables_that_the_map_names_are_where_it_says():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`(?: and `(\w+)`)? (?:in|of) `([\w/]+\.py)`", text)
    assert len(named) > 5
    for *names, path in named:
        for name in filter(None, names):
            assert re.search(rf"^(def |class |){name}\b", (ROOT / path).read_text(encoding="utf-8"), re.M), (name, path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_pages_name_exist(page):
    known = set(re.findall(r"`(-{1,2}[\w-]+)`", make_flags().flags_page()))
    text = re.sub(r"torchrun[^\n]*? -- ", "", page.read_text(encoding="utf-8"))
    for command in re.findall(r"^ {4,}python ((?:train|test|test_prune|detect|export)\.py .*(?:\\\n.*)*)", text, re.M):
        for flag in re.findall(r"(?<=\s)(-{1,2}[A-Za-z][\w-]*)", re.sub(r'"[^"]*"', "", command)):
            assert flag in known, f"{page.name}: {flag}"
