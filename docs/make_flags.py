"""Write docs/flags.md from the scripts' own parsers, so that it cannot disagree with --help.

    python docs/make_flags.py
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    "train.py",
    "test_prune.py",
    "test.py",
    "detect.py",
    "export.py",
    "config/create_hand_model.py",
    "data/converter.py",
    "data/import_dataset.py",
    "data/download_oxford.py",
    "data/download_egohands.py",
    "data/synthesize_hands.py",
    "weights/download_weights.py",
    "utils/doctor.py",
)


class _Caught(Exception):
    """A parser that was about to read the command line."""


def parser_of(script: Path) -> argparse.ArgumentParser:
    """The parser that a script's parse_args makes."""
    spec = importlib.util.spec_from_file_location(f"flags_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(script.parent), *sys.path]):
        spec.loader.exec_module(module)

    def catch(parser: argparse.ArgumentParser, *_, **__) -> None:
        raise _Caught(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch):
        try:
            module.parse_args([])
        except _Caught as caught:
            return caught.args[0]
    raise ValueError(f"{script}: parse_args made no parser")


def flag_rows(actions: list[argparse.Action], formatter: argparse.HelpFormatter) -> list[str]:
    """Markdown rows | flag | default | meaning | of the flags in one group."""
    rows = []
    for action in actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.dest}`"
        value = (
            ""
            if action.nargs == 0
            else action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
        )
        default = _default(action)
        meaning = (action.help or "") % {**vars(action), "prog": ""}
        cells = [f"{names} {value}".strip(), default, meaning]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return rows


def _default(action: argparse.Action) -> str:
    """What holds without the flag; empty where its meaning says it."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return {True: "on", False: "off", None: ""}[action.default]
    hidden = action.nargs == 0 or action.default is None or action.default in ("", (), argparse.SUPPRESS)
    return "" if hidden else f"`{_plain(action.default)}`"


def _plain(default: object) -> str:
    text = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
    return text.replace(f"{ROOT}/", "")  # a default inside the checkout, wherever that lies


def _called(script: str) -> str:
    """As one calls it: a module of a package by its name."""
    return f"python -m {script[:-3].replace('/', '.')}" if script.startswith("utils/") else script


def script_section(script: str) -> str:
    """The section of one script: what it is for, then a table per group of flags."""
    parser = parser_of(ROOT / script)
    lines = [f"## {_called(script)}", "", parser.description.strip().splitlines()[0], ""]
    for group in parser._action_groups:
        rows = flag_rows(group._group_actions, parser._get_formatter())
        if rows:
            title = group.title if group.title not in ("options", "positional arguments") else ""
            lines += [
                *([f"**{title}**", ""] if title else []),
                "| flag | default | meaning |",
                "|---|---|---|",
                *rows,
                "",
            ]
    return "\n".join(lines)


def flags_page() -> str:
    """The text of docs/flags.md."""
    head = ("# Flags of every script\n\nWritten by `python docs/make_flags.py` from the parsers. `-` and `_` inside a "
            "flag's name are the same (`--img-size`, `--img_size`).\n")
    return "\n".join([head, *(script_section(script) for script in SCRIPTS if (ROOT / script).is_file())])


def main() -> None:
    """Write the page beside this file."""
    sys.path.insert(0, str(ROOT))
    (ROOT / "docs" / "flags.md").write_text(flags_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
