"""Data descriptions: which image lists, which classes. Darknet .data files or YAML."""

import os
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import yaml

from utils.class_names import numbered_names, read_names
from utils.limits import MOST_CLASSES, MOST_YAML_BYTES
from utils.origin import missing, origin
from utils.text import HASH_AFTER_BLANK, MARK_FIRST, CfgError, read_lines, shown

PART_KEYS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
NAMES_MAY_BE = "a list of names, names by number, or a file of names"


@dataclass(frozen=True)
class DataConfig:
    """What a .data or YAML file says: image lists or folders of each part (YAML may name several), classes in order.

    Paths are resolved against the working directory or the file's folder; one that does not exist is kept as written.
    """

    path: Path
    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    names: tuple[str, ...]
    written: tuple[str, ...] | None = None  # the classes of the label files, where `names` are some of them

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def keeping(self, wanted: tuple[str, ...]) -> "DataConfig":
        """This data without the labels of other classes than `wanted`, in its own order. Raises CfgError on an unknown
        name."""
        kept = set(named_classes(wanted, self.names, str(self.path)))
        if len(kept) == len(self.names):
            return self
        return replace(self, names=tuple(name for name in self.names if name in kept), written=self.names)

    def lists(self, part: str) -> tuple[Path, ...]:
        """The image lists (or folders) of "train" or "valid". Raises CfgError when none is named or one is missing."""
        values = getattr(self, part)
        if not values:
            raise CfgError(f"{self.path}:1: found no {part!r} entry, expected {part}=LIST")
        for value in values:
            if not os.path.exists(value):  # Path.exists() raises on a name that is too long
                raise CfgError(f"{self.path}: found {part}={value}, which does not exist (from the working directory "
                               f"or from {self.path.parent}); expected a list of images or a folder{origin(value)}")
        return values


def named_classes(wanted: tuple[str, ...], names: tuple[str, ...], owner: str) -> tuple[str, ...]:
    """`wanted`, found among `names` as written or else in other capitals, each once. Raises CfgError that lists near
    ones."""
    small, found = {name.lower(): name for name in reversed(names)}, []
    for name in wanted:
        if (own := name if name in names else small.get(name.lower())) is None:
            near = [small[close] for close in get_close_matches(name.lower(), small, n=3, cutoff=0.6)]
            words = f"did you mean {' or '.join(near)}?" if near else f"it has {shown(', '.join(names))}"
            raise CfgError(f"--keep-classes: found {shown(name)}, expected classes of {owner}; {words}")
        if names.count(own) > 1:
            raise CfgError(f"{owner}: found {shown(own)} as the name of {names.count(own)} classes, expected one: "
                           "which is meant is not known")
        found.append(own)
    return tuple(dict.fromkeys(found))


def parse_data_config(path: str | os.PathLike, class_path: str | os.PathLike | None = None,
                      keep: tuple[str, ...] = ()) -> DataConfig:
    """Read a Darknet .data file (key=value) or a YAML one (train, val or valid, nc, names); `class_path` names others;
    of classes that `keep` names, where it does, alone.

    Raises CfgError or TextError ("file: found, expected", with the line where one is to blame) or FileNotFoundError.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise missing(path, "data file")
    options = read_options(path)
    bases = _bases(path, options.get("path"), _is_yaml(path))
    names = _names(path, options, bases, class_path)
    train = _part(path, options, PART_KEYS["train"], bases)
    valid = _part(path, options, PART_KEYS["valid"] + PART_KEYS["test"], bases)
    config = DataConfig(path, train, valid, names)
    return config.keeping(keep) if keep else config


# ---- reading

def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def read_options(path: Path) -> dict:
    """Keys and values of a data file, scalars as text. Raises CfgError or TextError."""
    return _read_yaml(path) if _is_yaml(path) else _read_key_values(path)


def _read_key_values(path: Path) -> dict[str, str]:
    """Keys and values of a .data file. Darknet's comments: # or ; at the start of a line, a value may hold them."""
    options = {}
    for line_i, raw in enumerate(read_lines(path, "a .data file", MARK_FIRST, MOST_YAML_BYTES), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise CfgError(f"{path}:{line_i}: found {shown(line)}, expected key=value")
        if key == "classes":  # a number: what follows # can only be a comment
            value = value.partition("#")[0].strip()
            if not re.fullmatch("[0-9]+", value):
                raise CfgError(f"{path}:{line_i}: found classes={value[:40]}, expected a whole number")
        quoted = len(value) > 2 and value[0] == value[-1] and value[0] in "\"'"  # as in shells; no path begins so
        options[key] = value[1:-1] if quoted else value
    return options


class _Loader(yaml.BaseLoader):
    """Scalars as they are written: a class may be called `no`, `1.0` or `2024-01-01`. A key is there once."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        """A dict of the node. Raises ConstructorError on equal keys, of which yaml's own keeps the last."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key that is there twice", node.start_mark)
        return mapping


def _read_yaml(path: Path) -> dict:
    """Keys and values of a YAML file that are not empty, scalars as text."""
    text = "\n".join(read_lines(path, "a YAML file", HASH_AFTER_BLANK, MOST_YAML_BYTES))
    try:
        options = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise CfgError(f"{path}: found values nested too deep, expected keys train, val, names") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "bad YAML"
        problem = re.sub("^(but )?found ", "", problem)[:100]
        raise CfgError(f"{path}:{mark.line + 1 if mark else 1}: found {problem}, expected YAML") from None
    if not isinstance(options, dict):
        kind = {list: "a list", str: "a text"}.get(type(options), "nothing")
        raise CfgError(f"{path}:1: found {kind}, expected keys train, val, names")
    return {key: value for key, value in options.items() if value not in ("", "~", "null")}


# ---- paths

def _bases(data_file: Path, root: object, is_yaml: bool) -> list[Path]:
    """Folders that paths of a data file may start from, the likeliest first.

    A .data file is written for the working directory, as in Darknet; a YAML one for its `path:`, else its own folder.
    """
    here, beside = Path(), data_file.parent
    if root is None:
        return [beside, here] if is_yaml else [here, beside]
    if not isinstance(root, str):
        raise CfgError(f"{data_file}: found path {shown(root)}, expected one folder")
    return [_find(root, [beside, here]), here, beside]


def _find(value: str, bases: list[Path]) -> Path:
    """`value` as an existing path below one of `bases`, else as it is written.

    Exported sets name ../train/images what lies beside the file; others drop the ../ where there is no such path.
    """
    return next((path for path in _tries(value, bases) if os.path.exists(path)), Path(value.replace("\\", "/")))


def _tries(value: str, bases: list[Path]) -> list[Path]:
    """The paths that `value` may mean, the likeliest first."""
    value = value.replace("\\", "/")
    spellings = dict.fromkeys([value, re.sub(r"^(\.\./)+", "", value), re.split(r"\s#", value, maxsplit=1)[0].rstrip()])
    return list(dict.fromkeys(base / spelling for spelling in spellings if spelling for base in bases))


def _part(data_file: Path, options: dict, keys: tuple[str, ...], bases: list[Path]) -> tuple[Path, ...]:
    """The lists and folders of the first of `keys` that is there; empty where the file has none."""
    key = next((key for key in keys if key in options), None)
    value = options.get(key, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(entry, str) and entry for entry in values):
        raise CfgError(f"{data_file}: found {key} {shown(value)}, expected the path of an image list or a folder, or a "
                       "list of such paths")
    return tuple(_find(entry, bases) for entry in values)


# ---- classes

def _names(data_file: Path, options: dict, bases: list[Path], class_path: str | os.PathLike | None) -> tuple[str, ...]:
    """Class names of `class_path`, else of the file, else numbered; as many as the file counts."""
    names = read_names(class_path) if class_path else options.get("names")
    count = _count(data_file, options.get("classes", options.get("nc")))
    if isinstance(names, str):
        if not os.path.isfile(found := _find(names, bases)):
            tried = ", ".join(map(str, _tries(names, bases)))
            raise CfgError(f"{data_file}: found names {shown(names)}, expected {NAMES_MAY_BE}; there is no such file "
                           f"(tried {tried[:300]})")
        names = read_names(found)
    if isinstance(names, dict):
        names = _in_order(data_file, names)
    if names is None:
        names = list(numbered_names(count or 1))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CfgError(f"{data_file}: found names {shown(names)}, expected {NAMES_MAY_BE}")
    if count is not None and count != len(names):
        raise CfgError(f"{data_file}: found classes={count} but {len(names)} names, expected as many names as classes")
    # on one line, and not empty, as a .names file beside the weights will hold them
    return tuple(re.sub(r"\s*[\r\n]\s*", " ", name).strip() or f"class{i}" for i, name in enumerate(names))


def _count(data_file: Path, value: object) -> int | None:
    """The number of classes that a file states."""
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch("[0-9]{1,9}", value) or int(value) > MOST_CLASSES:
        raise CfgError(f"{data_file}: found nc {shown(value)}, expected a whole number of classes, at most "
                       f"{MOST_CLASSES}")
    return int(value)


def _in_order(data_file: Path, names: dict) -> list:
    """Names by class number, in that order."""
    numbers = [int(key) if re.fullmatch("[0-9]{1,9}", key) else -1 for key in names]
    if sorted(numbers) != list(range(len(names))):
        raise CfgError(f"{data_file}: found names by {shown(list(names))}, expected the numbers 0 to {len(names) - 1}, "
                       "each once")
    return [name for _, name in sorted(zip(numbers, names.values()))]
