"""--keep-classes: a net of many classes as one of a few, its heads cut before anything else is pruned."""

from pathlib import Path
from typing import Callable

from torch import Tensor, nn

from utils.checkpoint import load_weights
from utils.class_names import numbered_names, read_names
from utils.data.data_config import DataConfig, named_classes
from utils.data.net_classes import given_names
from utils.layers import split_key
from utils.loading import defs_for_weights, names_of
from utils.parse_config import (
    class_count,
    head_anchors,
    head_entries,
    head_indices,
    integer,
    rebuild_heads,
    section_of,
    where,
)
from utils.text import CfgError


def kept_rows(defs: list[dict], head_i: int, kept: list[int]) -> list[int]:
    """Channels of the convolution before head `head_i` that classes `kept`, in that order, need: of each anchor the
    box, the objectness and those classes."""
    section = section_of(defs, head_i)
    entries = head_entries(section)
    first = entries - class_count(defs)
    own = [*range(first), *(first + label for label in kept)]
    return [anchor * entries + entry for anchor in range(len(head_anchors(section))) for entry in own]


def cut_heads(defs: list[dict], state: dict[str, Tensor], kept: list[int]) -> tuple[list[dict], dict[str, Tensor]]:
    """(module_defs, state_dict) of the net less the classes that are not in `kept` (class numbers, in their new order).
    What is kept is copied: boxes, objectness and logits are those of the whole net."""
    rows = {head_i - 1: kept_rows(defs, head_i, kept) for head_i in head_indices(defs)}
    for layer_i in rows:
        if integer(section_of(defs, layer_i), "groups", 1) > 1:
            raise CfgError(f"{where(section_of(defs, layer_i))}: found conv groups in the convolution before a head, "
                           "expected none: its classes cannot be cut")
    fresh = {}
    for key, value in state.items():
        own = rows.get(split_key(key)[0]) if value.ndim else None
        fresh[key] = value if own is None else value[own].clone()
    return rebuild_heads(defs, len(kept)), fresh


def kept_net(wanted: tuple[str, ...], net: Callable, files: tuple[Path, Path], data: DataConfig,
             class_path: str | None = None) -> tuple[nn.Module, dict, tuple[str, ...]]:
    """(the net of `files`, its cfg and weights, less all classes but `wanted`, the checkpoint without its weights, the
    names kept).

    net: module_defs -> Darknet; data: as its file says, whose order of the kept classes counts where it has them;
    class_path: a file of all names of the net. Raises CfgError on an unknown name, and where nothing names the classes.
    """
    cfg, weights = files
    whole = net(defs_for_weights(cfg, weights))
    _, content = load_weights(whole, weights)
    names = _all_names(class_path, cfg, weights, content, data, class_count(whole.module_defs))
    wanted = named_classes(wanted, names, str(weights))
    if set(wanted) <= set(data.names):
        wanted = tuple(name for name in data.names if name in wanted)
    kept = [names.index(name) for name in wanted]
    defs, state = cut_heads(whole.module_defs, whole.state_dict(), kept)
    model = net(defs)
    model.load_state_dict(state, assign=True)
    model.seen = whole.seen
    how = "classes of the heads put in the data's order"
    if len(kept) < len(names):
        how = f"heads cut from {len(names)} to {len(kept)} classes"
    print(f"{weights}: {how}: {', '.join(wanted)}")
    if any(integer(section_of(defs, i), "softmax") for i in head_indices(defs)):
        print("note: these heads share out a softmax: the same logits give other scores where fewer classes share it")
    return model, content, wanted


def _all_names(class_path: str | None, cfg: Path, weights: Path, content: dict, data: DataConfig,
               classes: int) -> tuple[str, ...]:
    """The names of all classes of the net: those of class_path, but of a net that was cut before its own."""
    given = read_names(class_path) if class_path else None
    own = names_of(cfg, weights, content, classes) if given is None or len(given) != classes else given
    own = own or given or (given_names(data) if data.classes == classes else None)
    if own is None or tuple(own) == numbered_names(classes):
        raise CfgError(f"{weights}: found no names of its {classes} classes, expected them in "
                       f"{Path(weights).with_suffix('.names')}, one per line, or in the file of --class_path")
    if len(own) != classes:
        raise CfgError(f"{class_path}: found {len(own)} names, expected {classes}, the classes of {weights}")
    return tuple(own)
