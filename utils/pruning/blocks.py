"""Removing whole residual blocks: the shortcut and the layers of its branch. Pure functions on module_defs and
state_dicts.

A block whose last batch norm has gamma = beta = 0 adds act(0) = 0 to its stream, so the net without it computes the
same.
"""

from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from utils.layers import activation_name, activation_of, split_key, state_key
from utils.parse_config import integer, layer_inputs, renumbered, section_of
from utils.shapes import layer_shapes


@dataclass(frozen=True)
class Block:
    """A residual block: `shortcut` adds the branch of layers stream + 1 .. shortcut - 1 to the output of layer
    `stream`; `last` is the last convolution of the branch."""

    shortcut: int
    stream: int
    last: int


def residual_blocks(defs: list[dict]) -> list[Block]:
    """Blocks that can be left out: a plain shortcut of equal widths over a chain of convolutions, perhaps with dropout,
    that nothing else reads; the last convolution with batch norm and an activation that maps 0 to 0."""
    readers: dict[int, list[int]] = {}
    for layer_i, section in enumerate(defs[1:]):
        for j in layer_inputs(layer_i, section):
            readers.setdefault(j, []).append(layer_i)
    shapes = layer_shapes(defs)
    blocks = []
    for layer_i, section in enumerate(defs[1:]):
        inputs = layer_inputs(layer_i, section)
        if section["type"] != "shortcut" or activation_name(section) != "linear" or len(inputs) != 2:
            continue
        if shapes[inputs[0]] != shapes[inputs[1]]:
            continue
        branch = range(inputs[1] + 1, layer_i)
        kinds = {i: section_of(defs, i)["type"] for i in branch}
        convolutions = [i for i, kind in kinds.items() if kind == "convolutional"]
        chain = all(kind in ("convolutional", "dropout") and readers.get(i) == [i + 1] for i, kind in kinds.items())
        if not chain or not convolutions:
            continue
        last = section_of(defs, convolutions[-1])
        if integer(last, "batch_normalize") and activation_of(last)(torch.zeros(())) == 0:
            blocks.append(Block(layer_i, inputs[1], convolutions[-1]))
    return blocks


def weakest_blocks(blocks: list[Block], scores: Tensor, count: int) -> list[tuple[Block, float]]:
    """The `count` blocks of least score, in cfg order, each with its score. scores: (blocks,). Raises ValueError when
    there are fewer."""
    if count > len(blocks):
        raise ValueError(f"--layers: found {count}, expected at most {len(blocks)}, the residual blocks of this net")
    weakest = scores.argsort(stable=True)[:count].sort().values.tolist()
    return [(blocks[i], scores[i].item()) for i in weakest]


def silenced_state(state: dict[str, Tensor], blocks: list[Block]) -> dict[str, Tensor]:
    """state_dict in which the blocks add nothing: what the net without them has to reproduce."""
    silent = dict(state)
    for block in blocks:
        for part in ("weight", "bias"):
            key = state_key(block.last, f"batch_norm.{part}")
            silent[key] = torch.zeros_like(state[key])
    return silent


def new_places(defs: list[dict], blocks: Sequence[Block]) -> dict[int, int]:
    """Layer -> its index in the net without the blocks, of every layer that stays."""
    gone = {i for block in blocks for i in range(block.stream + 1, block.shortcut + 1)}
    return {old: new for new, old in enumerate(i for i in range(len(defs) - 1) if i not in gone)}


def remove_blocks(
    defs: list[dict], state: dict[str, Tensor], blocks: list[Block]
) -> tuple[list[dict], dict[str, Tensor]]:
    """(module_defs, state_dict) without the blocks, every reference to another layer renumbered."""
    stands_for = {block.shortcut: block.stream for block in blocks}
    place = {-1: -1} | new_places(defs, blocks)

    def moved(old: int) -> int:
        """New index of the layer that now gives what layer `old` gave."""
        while old in stands_for:
            old = stands_for[old]
        return place[old]

    where_now = {i: moved(i) for i in range(-1, len(defs) - 1) if i in place or i in stands_for}
    shallow = [defs[0].copy()]
    shallow += [renumbered(section_of(defs, i), i, place[i], where_now) for i in new_places(defs, blocks)]
    renamed = {}
    for key, value in state.items():
        layer_i, part = split_key(key)
        if layer_i in place:
            renamed[state_key(place[layer_i], part)] = value
    return shallow, renamed
