"""From command-line arguments to the objects that every script needs: module_defs that fit the data, datasets, names."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from torch import nn

from utils import cli
from utils.checkpoint import is_torch_file, load_weights, read_checkpoint, weights_classes
from utils.compat import reference_square
from utils.data_config import DataConfig, parse_data_config, read_names
from utils.datasets import ListDataset
from utils.parse_config import CfgError, class_count, integer, parse_model_config, rebuild_heads, resized


def picture_defs(cfg: Path) -> list[dict]:
    """module_defs of `cfg`. Raises CfgError when it is made for neither colour nor grey pictures."""
    defs = parse_model_config(cfg)
    if (channels := integer(defs[0], "channels", 3)) not in (1, 3):
        raise CfgError(f"{cfg}: found channels={channels} in [net], expected 3 (red, green and blue) or 1 (brightness)")
    return defs


def defs_for_data(cfg: Path, data: DataConfig, quiet: bool = False) -> list[dict]:
    """module_defs of `cfg`, its heads rebuilt (and said so) when its class count is not the data's."""
    defs = picture_defs(cfg)
    if class_count(defs) != data.classes:
        if not quiet:
            print(f"{cfg}: made for {class_count(defs)} classes, {data.path} has {data.classes}: heads rebuilt for {data.classes}")
        defs = rebuild_heads(defs, data.classes)
    return defs


def defs_for_weights(cfg: Path, weights: str | os.PathLike) -> list[dict]:
    """module_defs of `cfg` for a net that is not trained further: with the heads that the file `weights` holds (said
    where they are not the cfg's) and the input size that it was trained at."""
    defs = picture_defs(cfg)
    if not Path(weights).is_file():
        return defs  # said when it is loaded
    trained = weights_classes(weights, defs)
    if trained is not None and trained != class_count(defs):
        print(f"{cfg}: made for {class_count(defs)} classes, {weights} for {trained}: heads rebuilt for {trained}")
        defs = rebuild_heads(defs, trained)
    size = read_checkpoint(weights, mapped=True).get("size") if is_torch_file(weights) else None
    return resized(defs, *size) if size else defs


def defs_to_prune(cfg: Path, weights: str | os.PathLike, data: DataConfig, scored: bool) -> list[dict]:
    """module_defs of `cfg` for a net that is pruned, and where `scored` is set scored on `data`. Pruning keeps the
    heads it was given.

    Only a start for training is taken with heads that nobody trained: a cfg made for the data, with weights of other
    classes or of a backbone. Raises CfgError where the weights were trained for other classes than the data's.
    """
    own = picture_defs(cfg)
    trained = weights_classes(weights, own) if Path(weights).is_file() else None
    if scored and (trained is None or class_count(own) == data.classes != trained):
        return defs_for_data(cfg, data)
    defs = defs_for_weights(cfg, weights)
    if scored:
        require_classes(defs, weights, data)
    return defs


def require_classes(defs: list[dict], weights: str | os.PathLike, data: DataConfig) -> None:
    """Raise CfgError when a trained net cannot be scored on `data`, its class count being another."""
    if class_count(defs) != data.classes:
        raise CfgError(f"{weights}: made for {class_count(defs)} classes, but {data.path} has {data.classes}; name the "
                       "data it was trained on (--data), or train it for this one (train.py --data "
                       f"{data.path} --weights {weights})")


def data_of(weights: str | os.PathLike) -> str:
    """The data description that the checkpoint `weights` was trained on, where it is still there; else the default."""
    known = Path(weights).is_file() and is_torch_file(weights)
    stored = read_checkpoint(weights, mapped=True).get("data") if known else None
    return stored if stored and Path(stored).is_file() else cli.DEFAULT_DATA


def numbered_names(classes: int) -> tuple[str, ...]:
    """What classes are called that nobody named."""
    return tuple(f"class{i}" for i in range(classes))


def given_names(data: DataConfig) -> list[str] | None:
    """The data's class names; None where it has numbers alone."""
    return None if data.names == numbered_names(data.classes) else list(data.names)


@dataclass(frozen=True)
class TrainedNet:
    """A net with its weights, and what its files say about it."""

    model: nn.Module  # a Darknet
    names: tuple[str, ...] | None  # of its classes, where a file says
    size: tuple[int, int]  # (width, height) of its input in pixels
    content: dict  # the checkpoint without its weights
    words: str  # what was loaded


def load_net(cfg: Path, weights: str | os.PathLike, build: Callable[[list[dict]], nn.Module],
             img_size: int | None = None) -> TrainedNet:
    """The net of `cfg` with all of `weights`, heads and input size being those of the weights (img_size: another square
    one).

    build: module_defs -> Darknet. Raises CfgError, CheckpointError, WeightsError, FileNotFoundError.
    """
    defs = defs_for_weights(cfg, weights)
    size = cli.checked_size(img_size, defs)
    model = build(defs)
    words, content = load_weights(model, weights)
    return TrainedNet(model, names_of(cfg, weights, content, class_count(defs)), size, content, words)


def names_of(cfg: Path, weights: str | os.PathLike, content: dict, classes: int) -> tuple[str, ...] | None:
    """Class names that the checkpoint `content` holds, else those of the .names file beside the weights or the cfg;
    None without any.

    Raises ValueError when there are not as many as the net has classes.
    """
    source, names = weights, content.get("names")
    for path in (Path(weights), Path(cfg)):
        if not names and path.with_suffix(".names").is_file():
            source = path.with_suffix(".names")
            names = read_names(source)
    if names and len(names) != classes:
        raise ValueError(f"{source}: found {len(names)} names, expected {classes}, the classes of {weights}")
    return tuple(str(name) for name in names) if names else None


def scored_names(net: TrainedNet, data: DataConfig) -> tuple[str, ...]:
    """The data's class names, or the net's where the data has numbers alone. Warns where both name the classes, and not
    alike."""
    own = given_names(data)
    if own and net.names and list(net.names) != own and net.names != numbered_names(len(own)):
        print(f"warning: the net's classes are {', '.join(net.names)}, those of {data.path} {', '.join(own)}: they are "
              "matched by number")
    return data.names if own or not net.names else net.names


def model_and_data(args: argparse.Namespace, quiet: bool = False) -> tuple[Path, list[dict], DataConfig]:
    """(cfg path, module_defs, data description) of --cfg, --data and --class_path."""
    data = parse_data_config(args.data, args.class_path)
    cfg = cli.resolve_cfg(args.cfg)
    return cfg, defs_for_data(cfg, data, quiet), data


def dataset(args: argparse.Namespace, data: DataConfig, part: str, size: tuple[int, int], **options) -> ListDataset:
    """Dataset of part "train" or "valid"; says what was left out and what --skip-bad skipped."""
    if part == "valid" and args.scorer == "reference":
        if size[0] != size[1]:
            raise ValueError(f"--scorer reference: found an input of {size[0]}x{size[1]}, expected a square, as the "
                             "reference's is; --img_size makes it one")
        options["to_canvas"] = reference_square
    made = ListDataset(data.lists(part), size, data.classes, skip_bad=args.skip_bad, cache_gb=args.cache_gb, **options)
    for note in made.notes:
        print(f"{part}: {note}")
    for message in made.skipped:
        print(f"skipped: {message}")
    if made.skipped:
        print(f"{part}: {len(made.skipped)} of {len(made.skipped) + len(made)} images skipped")
    return made


def labelled_dataset(args: argparse.Namespace, data: DataConfig, part: str, size: tuple[int, int],
                     **options) -> ListDataset:
    """`dataset` for what needs boxes: training, and every score. Raises DataError, naming where labels were looked
    for, when no image has one: a mean over no box would be 0 for every net, and a choice made by it none."""
    made = dataset(args, data, part, size, **options)
    made.require_boxes()
    return made
