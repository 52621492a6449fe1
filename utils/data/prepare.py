"""A net and the data it meets: heads, class names and datasets that fit each other."""

import os
from dataclasses import replace
from pathlib import Path

from utils import cli
from utils.checkpoint import is_torch_file, read_checkpoint, weights_classes
from utils.data.args import ReadOptions
from utils.data.data_config import DataConfig, parse_data_config
from utils.data.datasets import ListDataset
from utils.letterbox import reference_square
from utils.loading import TrainedNet, defs_for_weights, numbered_names, picture_defs, resolve_cfg
from utils.parse_config import CfgError, class_count, rebuild_heads


def defs_for_data(cfg: Path, data: DataConfig, quiet: bool = False) -> list[dict]:
    """module_defs of `cfg`, its heads rebuilt (and said so) when its class count is not the data's."""
    defs = picture_defs(cfg)
    if class_count(defs) != data.classes:
        if not quiet:
            print(f"{cfg}: made for {class_count(defs)} classes, {data.path} has {data.classes}: heads rebuilt for "
                  f"{data.classes}")
        defs = rebuild_heads(defs, data.classes)
    return defs


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
    return stored if stored and os.path.isfile(stored) else cli.DEFAULT_DATA


def given_names(data: DataConfig) -> list[str] | None:
    """The data's class names; None where it has numbers alone."""
    return None if data.names == numbered_names(data.classes) else list(data.names)


def scored_names(net: TrainedNet, data: DataConfig) -> tuple[str, ...]:
    """The data's class names, or the net's where the data has numbers alone. Warns where both name the classes, and not
    alike."""
    own = given_names(data)
    if own and net.names and list(net.names) != own and net.names != numbered_names(len(own)):
        print(f"warning: the net's classes are {', '.join(net.names)}, those of {data.path} {', '.join(own)}: they are "
              "matched by number")
    return data.names if own or not net.names else net.names


def data_for_net(net: TrainedNet, data: DataConfig) -> DataConfig:
    """The data for a trained net: where its classes are some of the data's, by their names, these alone (and says
    so)."""
    if not net.names or len(net.names) >= data.classes or not set(net.names) <= set(data.names):
        return data
    print(f"{data.path}: of its {data.classes} classes the net's count: {', '.join(net.names)}")
    kept = data.keeping(tuple(net.names))
    return replace(kept, names=tuple(net.names), written=data.names)


def model_and_data(cfg: str, data: str, class_path: str | None = None, quiet: bool = False,
                   keep: tuple[str, ...] = ()) -> tuple[Path, list[dict], DataConfig]:
    """(cfg path, module_defs, data description) of what --cfg, --data, --class_path and --keep-classes name."""
    described = parse_data_config(data, class_path, keep)
    found = resolve_cfg(cfg)
    return found, defs_for_data(found, described, quiet), described


def dataset(read: ReadOptions, data: DataConfig, part: str, size: tuple[int, int], **options) -> ListDataset:
    """Dataset of part "train" or "valid"; says what was left out and what --skip-bad skipped."""
    if part == "valid" and read.scorer == "reference":
        if size[0] != size[1]:
            raise ValueError(f"--scorer reference: found an input of {size[0]}x{size[1]}, expected a square, as the "
                             "reference's is; --img_size makes it one")
        options["to_canvas"] = reference_square
    names = data.written or data.names
    made = ListDataset(data.lists(part), size, len(names), skip_bad=read.skip_bad, cache_gb=read.cache_gb, **options)
    if data.written:
        made.keep_classes([names.index(name) for name in data.names])
    for note in made.notes:
        print(f"{part}: {note}")
    for message in made.skipped:
        print(f"skipped: {message}")
    if made.skipped:
        print(f"{part}: {len(made.skipped)} of {len(made.skipped) + len(made)} images skipped")
    return made


def labelled_dataset(read: ReadOptions, data: DataConfig, part: str, size: tuple[int, int],
                     **options) -> ListDataset:
    """`dataset` for what needs boxes: training, and every score. Raises DataError, naming where labels were looked
    for, when no image has one: a mean over no box would be 0 for every net, and a choice made by it none."""
    made = dataset(read, data, part, size, **options)
    made.require_boxes()
    return made
