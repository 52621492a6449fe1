"""Data descriptions: which image lists, which classes. Darknet .data files or YAML."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from utils.origin import missing, origin
from utils.parse_config import CfgError


@dataclass(frozen=True)
class DataConfig:
    """What a .data or YAML file says. Paths as in the file, resolved against the working directory or the file's folder."""

    path: Path
    train: Path | None
    valid: Path | None
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def list_file(self, part: str) -> Path:
        """The image list (or folder) of part "train" or "valid". Raises CfgError when the file names none or it is missing."""
        value = getattr(self, part)
        if value is None:
            raise CfgError(f"{self.path}:1: found no {part!r} entry, expected {part}=LIST")
        if not value.exists():
            raise CfgError(f"{self.path}: found {part}={value}, which does not exist; expected a list of images or a "
                           f"folder{origin(value)}")
        return value


def parse_data_config(path: str | os.PathLike, class_path: str | os.PathLike | None = None) -> DataConfig:
    """Read a Darknet .data file (key=value) or a YAML one (train, val or valid, nc, names). `class_path` replaces its names.

    Raises CfgError ("file: found, expected", with the line where one is to blame) or FileNotFoundError.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "data file")
    options = _read_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else _read_key_values(path)
    base = _near(path, str(options["path"])) if options.get("path") else None
    names = read_names(class_path) if class_path else options.get("names")
    count = options.get("classes", options.get("nc"))
    if count is not None and not str(count).isdigit():
        raise CfgError(f"{path}: found nc {count!r}, expected a whole number of classes")
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=lambda key: (isinstance(key, str), key))]
    if isinstance(names, str):
        names = read_names(_near(path, names))
    if names is None:
        names = [f"class{i}" for i in range(int(count or 1))]
    if not isinstance(names, (list, tuple)):
        raise CfgError(f"{path}: found names {names!r}, expected a list of names, names by number, or a file of names")
    if count is not None and int(count) != len(names):
        raise CfgError(f"{path}: found classes={count} but {len(names)} names, expected as many names as classes")
    parts = {"train": options.get("train"), "valid": options.get("valid", options.get("val", options.get("test")))}
    for part, value in parts.items():
        if value is not None and not isinstance(value, str):
            raise CfgError(f"{path}: found {part} {value!r}, expected one path, of an image list or a folder")
    train, valid = (None if value is None else _near(path, value, base) for value in parts.values())
    return DataConfig(path, train, valid, tuple(str(name) for name in names))


def _read_key_values(path: Path) -> dict[str, str]:
    options = {}
    for line_i, raw in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise CfgError(f"{path}:{line_i}: found {line!r}, expected key=value")
        if key == "classes" and not value.isdigit():
            raise CfgError(f"{path}:{line_i}: found classes={value}, expected a whole number")
        options[key] = value
    return options


def _read_yaml(path: Path) -> dict:
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise CfgError(f"{path}:{mark.line + 1 if mark else 1}: found {getattr(error, 'problem', 'bad YAML')}, expected YAML") from None
    if not isinstance(options, dict):
        raise CfgError(f"{path}:1: found {type(options).__name__}, expected keys train, val, names")
    return options


def _near(data_file: Path, value: str, base: Path | None = None) -> Path:
    """`value` as an existing path: under `base`, from the working directory, or beside the data file."""
    value = value.replace("\\", "/")
    tries = [Path(value)] if base is None else [base / value, Path(value)]
    tries.append(data_file.parent / value)
    return next((path for path in tries if path.exists()), tries[0])


def read_names(path: str | os.PathLike) -> list[str]:
    """Class names, one a line; blank lines are skipped. Raises FileNotFoundError or CfgError when empty."""
    path = Path(path)
    if not path.is_file():
        raise missing(path, "class names file")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise CfgError(f"{path}:1: found no name, expected one class name a line")
    return names
