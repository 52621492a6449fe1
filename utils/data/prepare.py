"""A net and the data it meets: heads, class names and datasets that fit each other."""

import os
from pathlib import Path

from utils import cli
from utils.checkpoint import is_torch_file, read_checkpoint, weights_classes
from utils.data.args import ReadOptions
from utils.data.data_config import DataConfig, parse_data_config
from utils.data.datasets import ListDataset
from utils.data.net_classes import by_name, require_classes
from utils.letterbox import reference_square
from utils.loading import defs_for_weights, picture_defs, resolve_cfg, stored_names
from utils.origin import origin
from utils.parse_config import class_count, rebuild_heads


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
        require_classes(class_count(defs), weights, data)
    return defs


def data_of(weights: str | os.PathLike) -> str:
    """The data description that the checkpoint `weights` was trained on, where it is still there; else the default."""
    known = Path(weights).is_file() and is_torch_file(weights)
    stored = read_checkpoint(weights, mapped=True).get("data") if known else None
    if stored and not os.path.isfile(stored):
        print(f"warning: {stored}, on which {weights} was trained, is not there{origin(stored)}: {cli.DEFAULT_DATA} in "
              "its place (--data names another)")
        return cli.DEFAULT_DATA
    return stored or cli.DEFAULT_DATA


def model_and_data(cfg: str, data: str, class_path: str | None = None, quiet: bool = False,
                   keep: tuple[str, ...] = (),
                   start: str | os.PathLike | None = None) -> tuple[Path, list[dict], DataConfig]:
    """(cfg path, module_defs, data description) of what --cfg, --data, --class_path and --keep-classes name. start:
    weights to begin with: where they know the very classes of the data in another order, theirs holds."""
    described = parse_data_config(data, class_path, keep)
    found = resolve_cfg(cfg)
    known = stored_names(found, start) if start else None
    if known and sorted(known) == sorted(described.names):
        described = by_name(described, known, quiet)
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
