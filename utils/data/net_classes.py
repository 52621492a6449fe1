"""Which classes count where a trained net meets data: matched by their names where both have them, else by number."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Sequence

from utils.class_names import numbered_names
from utils.data.data_config import DataConfig, named_classes
from utils.text import CfgError


def given_names(data: DataConfig) -> list[str] | None:
    """The data's class names; None where it has numbers alone."""
    return None if data.names == numbered_names(data.classes) else list(data.names)


def by_name(data: DataConfig, names: Sequence[str] | None, quiet: bool = False) -> DataConfig:
    """`data` with the classes `names` of a net alone, numbered as the net's are, where it has all of them (and says
    so, unless quiet); as it is where it has not, or names none. Raises CfgError where it has one of them twice."""
    own = given_names(data)
    if not names or not own or list(names) == own or not set(names) <= set(own):
        return data
    named_classes(tuple(names), data.names, str(data.path))
    fewer = f"of its {data.classes} classes the net's count" if len(names) < data.classes else "numbered as the net's"
    if not quiet:
        print(f"{data.path}: {fewer}: {', '.join(names)}")
    return replace(data, names=tuple(names), written=data.written or data.names)


def require_classes(classes: int, weights: str | os.PathLike, data: DataConfig) -> None:
    """Raise CfgError when a trained net of `classes` classes cannot be scored on `data`, which has another count."""
    if classes != data.classes:
        trains = Path(weights).suffix in (".pth", ".pt", ".weights")  # an exported file does not
        other = f", or train it for this one (train.py --data {data.path} --weights {weights})" if trains else ""
        raise CfgError(f"{weights}: made for {classes} classes, but {data.path} has {data.classes}; name the data it "
                       f"was trained on (--data){other}")


def data_for_net(data: DataConfig, names: Sequence[str] | None, classes: int,
                 weights: str | os.PathLike) -> DataConfig:
    """`data` as a trained net of `classes` classes, called `names` where a file says so, meets it: `by_name`; else
    class i is class i, with the net's names where the data has numbers alone, and a warning where both name them
    otherwise. Raises CfgError as `by_name` and `require_classes` do."""
    data = by_name(data, names)
    require_classes(classes, weights, data)
    own = given_names(data)
    if not names or tuple(names) == numbered_names(classes):
        return data
    if own is None:
        return replace(data, names=tuple(names))
    if own != list(names):
        print(f"warning: the net's classes are {', '.join(names)}, those of {data.path} {', '.join(own)}: they are "
              "matched by number")
    return data
