"""Which channels of a net belong together, from module_defs alone.

Every output channel of every layer gets an id. Layers that pass channels on one for one (utils.layers.LAYER_TYPES:
pooling, upsample, dropout) and plain routes pass the ids on. Two channels that can only be removed together are tied:
those that a shortcut adds (of inputs of different widths the common ones), a depthwise convolution maps one to one, or
that sit at the same place of each group of a grouped convolution or route (so that all groups keep equal counts). The
connected components of the ties are the groups that are scored and cut as one. A group that holds a frozen id (a
channel something depends on by its number) cannot be cut.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from utils.layers import LAYER_TYPES, LayerType
from utils.parse_config import integer, layer_inputs, section_of
from utils.shapes import layer_shapes

STRATEGIES = ("group", "skip")


@dataclass(frozen=True)
class ChannelGraph:
    """Groups of channels.

    outputs: for each layer (C_i,) long, the group of each of its output channels; image: (C,) those of the input
    image. normalised: layers that are convolutions with batch norm. frozen: (G,) bool, cannot be cut. All on the CPU.
    reasons: layer -> why channels of it cannot be cut, for the convolutions where this is so of all or of some ("3 of 8
    channels: ...").
    """

    outputs: list[Tensor]
    image: Tensor
    normalised: list[int]
    frozen: Tensor
    reasons: dict[int, str]

    @cached_property
    def prunable(self) -> list[int]:
        """Layers with at least one channel that can be cut."""
        return [i for i in self.normalised if not self.frozen[self.outputs[i]].all()]

    def inputs(self, layer_i: int, section: dict) -> Tensor:
        """Group of each channel that layer `layer_i` reads, inputs one after the other."""
        return torch.cat([self.image if j < 0 else self.outputs[j] for j in layer_inputs(layer_i, section)])

    def narrowed(self, staying: Tensor) -> "ChannelGraph":
        """The graph of the net without the groups that are not in `staying`, (n_groups,) bool; groups keep their
        numbers."""
        return replace(self, outputs=[group[staying[group]] for group in self.outputs])


class _Builder:
    """Collects ids, ties and frozen ids while walking through the layers."""

    def __init__(self):
        self.count = 0
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.frozen: dict[int, str] = {}

    def fresh(self, channels: int) -> np.ndarray:
        """(channels,) new ids."""
        ids = np.arange(self.count, self.count + channels)
        self.count += channels
        return ids

    def tie(self, some: np.ndarray, others: np.ndarray) -> None:
        """Bind ids pair by pair; both of one shape."""
        self.ties.append((np.asarray(some).ravel(), np.asarray(others).ravel()))

    def tie_groups(self, ids: np.ndarray, groups: int) -> None:
        """Tie the channels at the same place of each of `groups` equal parts."""
        parts = ids.reshape(groups, -1)
        self.tie(np.broadcast_to(parts[0], parts[1:].shape), parts[1:])

    def freeze(self, ids: np.ndarray, reason: str) -> None:
        """Forbid cutting these ids; the first reason given stays."""
        for i in ids.tolist():
            self.frozen.setdefault(i, reason)


def _convolution(build: _Builder, section: dict, inputs: list[np.ndarray]) -> np.ndarray:
    groups, filters = integer(section, "groups", 1), integer(section, "filters")
    ids = build.fresh(filters)
    if groups > 1 and groups == len(inputs[0]):  # depthwise, perhaps with several outputs an input
        build.tie(np.repeat(inputs[0], filters // groups), ids)
    elif groups > 1:
        build.tie_groups(inputs[0], groups)
        build.tie_groups(ids, groups)
    if not integer(section, "batch_normalize"):
        build.freeze(ids, "it has no batch norm, so no gamma")
    return ids


def _route(build: _Builder, section: dict, inputs: list[np.ndarray]) -> np.ndarray:
    groups = integer(section, "groups", 1)
    if groups > 1:
        for ids in inputs:
            build.tie_groups(ids, groups)
    parts = [ids.reshape(groups, -1)[integer(section, "group_id")] for ids in inputs]
    return np.concatenate(parts)


def _shortcut(build: _Builder, section: dict, inputs: list[np.ndarray]) -> np.ndarray:
    for ids in inputs[1:]:
        common = min(len(inputs[0]), len(ids))  # the others of a wider input are passed on or left out
        build.tie(inputs[0][:common], ids[:common])
    return inputs[0]


def _tied(build: _Builder, section: dict, inputs: list[np.ndarray]) -> np.ndarray:
    for ids in inputs[1:]:
        build.tie(inputs[0], ids)
    return inputs[0]


def _reorg(build: _Builder, section: dict, inputs: list[np.ndarray]) -> np.ndarray:
    build.freeze(inputs[0], "it feeds a reorg, which mixes channels with places")
    ids = build.fresh(len(inputs[0]) * integer(section, "stride", 1) ** 2)
    build.freeze(ids, "reorg")
    return ids


def _reorg3d(build: _Builder, section: dict, inputs: list[np.ndarray]) -> np.ndarray:
    return np.tile(inputs[0], integer(section, "stride", 1) ** 2)


def _head(build: _Builder, section: dict, inputs: list[np.ndarray]) -> np.ndarray:
    build.freeze(inputs[0], "it is a detection head")
    return inputs[0]


_OUTPUT_OF = {"convolutional": _convolution, "route": _route, "shortcut": _shortcut, "sam": _tied,
              "scale_channels": _tied, "reorg": _reorg, "reorg3d": _reorg3d,
              "yolo": _head, "region": _head, "Gaussian_yolo": _head}


def _unknown(build: _Builder, section: dict, inputs: list[np.ndarray], channels: int) -> np.ndarray:
    """A layer of a type of which nothing is known: nothing that it reads or gives is cut."""
    for ids in inputs:
        build.freeze(ids, f"it feeds a [{section['type']}], through which pruning does not follow channels")
    ids = build.fresh(channels)
    build.freeze(ids, section["type"])
    return ids


def channel_graph(defs: list[dict], strategy: str = "group") -> ChannelGraph:
    """Groups of module_defs. strategy "group": everything above; "skip": the reference rule, nothing that feeds a
    shortcut or an upsample is cut (42 layers of yolov3). Raises ValueError on another strategy, CfgError on a net that
    cannot be built."""
    if strategy not in STRATEGIES:
        raise ValueError(f"found strategy {strategy!r}, expected one of {', '.join(STRATEGIES)}")
    shapes = layer_shapes(defs)  # a net that cannot be built is reported there
    build = _Builder()
    image = build.fresh(integer(defs[0], "channels", 3))
    build.freeze(image, "it is the image")
    ids: list[np.ndarray] = []
    for layer_i, section in enumerate(defs[1:]):
        inputs = [image if j < 0 else ids[j] for j in layer_inputs(layer_i, section)]
        if strategy == "skip" and section["type"] in ("shortcut", "upsample"):
            for some in inputs:
                build.freeze(some, f"it feeds a {section['type']} (--strategy skip)")
        if make := _OUTPUT_OF.get(section["type"]):
            ids.append(make(build, section, inputs))
        elif LAYER_TYPES.get(section["type"], LayerType()).constant:
            ids.append(inputs[0])
        else:
            ids.append(_unknown(build, section, inputs, shapes[layer_i][0]))
    return _connect(defs, build, image, ids)


def _connect(defs: list[dict], build: _Builder, image: np.ndarray, ids: list[np.ndarray]) -> ChannelGraph:
    none = np.zeros(0, dtype=int)
    some = np.concatenate([none] + [tie[0] for tie in build.ties])
    others = np.concatenate([none] + [tie[1] for tie in build.ties])
    ties = coo_matrix((np.ones(len(some), dtype=np.int8), (some, others)), shape=(build.count, build.count))
    n_groups, group = connected_components(ties, directed=False)
    group = group.astype(np.int64)
    frozen = np.zeros(n_groups, dtype=bool)
    frozen[group[list(build.frozen)]] = True
    why = {group[i]: reason for i, reason in reversed(build.frozen.items())}
    convolutions = [i for i, section in enumerate(defs[1:]) if section["type"] == "convolutional"]
    outputs = [group[layer_ids] for layer_ids in ids]
    reasons = {}
    for i in convolutions:
        stuck = frozen[outputs[i]]
        if stuck.any():
            first = stuck.argmax()
            own = build.frozen.get(ids[i][first])  # its own reason before that of a channel it is tied to
            part = "" if stuck.all() else f"{stuck.sum()} of {len(stuck)} channels: "
            reasons[i] = part + (own or f"it is tied to a channel that cannot be cut: {why[outputs[i][first]]}")
    normalised = [i for i in convolutions if integer(section_of(defs, i), "batch_normalize")]
    return ChannelGraph([torch.from_numpy(own) for own in outputs], torch.from_numpy(group[image]), normalised,
                        torch.from_numpy(frozen), reasons)


def prunable_layers(defs: list[dict], strategy: str = "group") -> list[int]:
    """Layers that `strategy` can prune, in cfg order."""
    return channel_graph(defs, strategy).prunable
