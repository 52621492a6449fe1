"""The pages under docs/ say what the program does."""

import importlib.util
import re
import shlex

import pytest

from conftest import ROOT

FOLDERS = (".", "docs", "config", "weights", "examples")
PAGES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))


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


def commands_of(page):
    """The words of every command line of a page that runs one of the project's Python files, without its comment."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?: {4,}|- `|`)?(?:\$ )?((?:python|torchrun) [^`\n]*)", text, re.M):
        words = shlex.split(line, comments=True)
        script = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        if script is not None:
            yield words[script], words[script + 1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_its_script_takes(page, capsys):
    flags, refused = make_flags(), []
    for script, words in commands_of(page):
        script = script if (ROOT / script).is_file() else f"data/{script}"  # README: cd data && python converter.py
        try:
            flags.parser_of(ROOT / script).parse_args(words)
        except SystemExit:
            refused.append(f"python {script} {shlex.join(words)}: {capsys.readouterr().err}")
    assert not refused


def test_the_pages_are_full_of_commands():
    assert sum(1 for page in PAGES for _ in commands_of(page)) > 40


def test_the_page_of_results_lists_every_folder_of_them():
    listed = re.findall(r"`(\d{4}-\d\d-\d\d_\w+)`", (ROOT / "results" / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(folder.name for folder in (ROOT / "results").iterdir() if folder.is_dir())
