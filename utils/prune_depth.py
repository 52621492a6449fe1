"""Removing whole residual blocks: the shortcut and the convolutions of its branch. Pure functions on module_defs and state_dicts.

A block whose last batch norm has gamma = beta = 0 adds act(0) = 0 to its stream, so the net without it computes the same.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.parse_config import integer, integers, layer_inputs
from utils.prune_surgery import activation_of, prefix


@dataclass(frozen=True)
class Block:
    """A residual block: `shortcut` adds the branch of layers stream + 1 .. shortcut - 1 to the output of layer `stream`."""

    shortcut: int
    stream: int

    @property
    def last(self) -> int:
        """Layer whose output is added."""
        return self.shortcut - 1


def residual_blocks(defs: list[dict]) -> list[Block]:
    """Blocks that can be left out: a plain shortcut over a chain of convolutions that nothing else reads, the last one with batch
    norm and an activation that maps 0 to 0."""
    readers: dict[int, list[int]] = {}
    for layer_i, section in enumerate(defs[1:]):
        for j in layer_inputs(layer_i, section):
            readers.setdefault(j, []).append(layer_i)
    blocks = []
    for layer_i, section in enumerate(defs[1:]):
        inputs = layer_inputs(layer_i, section)
        if section["type"] != "shortcut" or section.get("activation", "linear") != "linear" or len(inputs) != 2:
            continue
        block = Block(layer_i, inputs[1])
        branch = range(block.stream + 1, layer_i)
        chain = all(defs[1 + i]["type"] == "convolutional" and readers.get(i) == [i + 1] for i in branch)
        if len(branch) and chain and integer(defs[1 + block.last], "batch_normalize"):
            if activation_of(defs[1 + block.last])(torch.zeros(())) == 0:
                blocks.append(block)
    return blocks


def weakest_blocks(defs: list[dict], state: dict[str, Tensor], count: int) -> list[tuple[Block, float]]:
    """The `count` blocks that add least to their streams, and the mean |gamma| of their last batch norm, which is what they add in
    standard deviations. Raises ValueError when the net has fewer."""
    blocks = residual_blocks(defs)
    if count > len(blocks):
        raise ValueError(f"--layers: found {count}, expected at most {len(blocks)}, the residual blocks of this net")
    strength = {block: state[prefix(block.last, "batch_norm.weight")].abs().mean().item() for block in blocks}
    weakest = sorted(blocks, key=lambda block: (strength[block], block.shortcut))[:count]
    return [(block, strength[block]) for block in sorted(weakest, key=lambda block: block.shortcut)]


def silenced_state(state: dict[str, Tensor], blocks: list[Block]) -> dict[str, Tensor]:
    """state_dict in which the blocks add nothing: what the net without them has to reproduce."""
    silent = dict(state)
    for block in blocks:
        for part in ("weight", "bias"):
            key = prefix(block.last, f"batch_norm.{part}")
            silent[key] = torch.zeros_like(state[key])
    return silent


def remove_blocks(defs: list[dict], state: dict[str, Tensor], blocks: list[Block]) -> tuple[list[dict], dict[str, Tensor]]:
    """(module_defs, state_dict) without the blocks, every reference to another layer renumbered."""
    stands_for = {block.shortcut: block.stream for block in blocks}
    gone = {i for block in blocks for i in range(block.stream + 1, block.shortcut + 1)}
    kept = [i for i in range(len(defs) - 1) if i not in gone]
    place = {-1: -1} | {old: new for new, old in enumerate(kept)}

    def moved(old: int) -> int:
        """New index of the layer that now gives what layer `old` gave."""
        while old in stands_for:
            old = stands_for[old]
        return place[old]

    shallow = [defs[0].copy()]
    for layer_i in kept:
        section = defs[1 + layer_i].copy()
        for key in {"route": ("layers",), "shortcut": ("from",), "scale_channels": ("from",), "sam": ("from",)}.get(section["type"], ()):
            targets = layer_inputs(layer_i, section)[-len(integers(section, key)):]
            relative = [ref < 0 for ref in integers(section, key)]
            section[key] = ",".join(str(moved(j) - place[layer_i] if back else moved(j)) for j, back in zip(targets, relative))
        shallow.append(section)
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"module_list\.(\d+)\.(\w+)_\1\.(\w+)", key)
        if match and int(match[1]) in place:
            renamed[f"module_list.{place[int(match[1])]}.{match[2]}_{place[int(match[1])]}.{match[3]}"] = value
    return shallow, renamed
