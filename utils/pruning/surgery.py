"""Exact removal: from masks to a compact net that computes what the masked one does, at every position.

A removed channel (gamma 0, beta kept) is not silent: it emits the constant act(beta), which travels through shortcuts,
routes, pooling and upsampling to the next convolutions. A convolution without padding sees the same sum everywhere: it
goes into the running mean of its batch norm, or its bias. A padded one sees less of it at the border, where zeros stand
in for part of the map. There one removed channel stays as the carrier of a constant (gamma 0, kernel 0, act(beta) = 1),
and the consumer's kernel for it is the sum of kernel x constant over all removed channels: they share one spatial
pattern.

Functions here take module_defs and a state_dict and return new ones; sums are taken in float64.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from utils.layers import LAYER_TYPES, LayerType, activation_of, carrier_beta, state_key
from utils.parse_config import integer, layer_inputs, section_of
from utils.pruning.channel_graph import ChannelGraph
from utils.shapes import conv_window

FOLDS = ("exact", "bias")


@dataclass
class Surgery:
    """A compact net: its module_defs and state_dict, the channels each layer kept, and how constants were carried."""

    module_defs: list[dict]
    state: dict[str, Tensor]
    kept: dict[int, Tensor]  # layer -> indices of its channels that stay, carriers among them
    carriers: dict[int, int] = field(default_factory=dict)  # layer -> number of carrier channels
    carried: dict[int, str] = field(default_factory=dict)  # consumer -> "folded", "carrier" or "approximate"


def shortcut_sum(sources: list[Tensor]) -> Tensor:
    """(C_0,) what a shortcut adds up of (C_i,) constants: those of another input where the first has that channel."""
    total = sources[0].clone()
    for source in sources[1:]:
        common = min(len(total), len(source))
        total[:common] += source[:common]
    return total


def propagate(defs: list[dict], graph: ChannelGraph, own: dict[int, Tensor], removed: Tensor) -> list[Tensor]:
    """Constant that each channel of each layer emits, (C_i,) float64 a layer; 0 for channels that are not in `removed`.

    own: layer -> (C_i,) constants that its convolutions emit; removed: (G,) bool.
    """
    out: list[Tensor] = []
    for layer_i, section in enumerate(defs[1:]):
        kind = section["type"]
        here = removed[graph.outputs[layer_i]]
        sources = [
            out[j] if j >= 0 else torch.zeros(len(graph.image), dtype=torch.float64)
            for j in layer_inputs(layer_i, section)
        ]
        if kind == "convolutional":
            value = own.get(layer_i, torch.zeros(len(here), dtype=torch.float64))
        elif kind == "route":
            groups, group_id = integer(section, "groups", 1), integer(section, "group_id")
            value = torch.cat([source.chunk(groups)[group_id] for source in sources])
        elif kind == "shortcut":
            value = activation_of(section)(shortcut_sum(sources))
        elif kind in ("scale_channels", "sam"):
            value = activation_of(section)(sources[0] * sources[1])
        elif kind == "reorg3d":
            value = sources[0].repeat(integer(section, "stride", 1) ** 2)
        elif constant := LAYER_TYPES.get(kind, LayerType()).constant:
            value = constant(section, sources[0])
        else:
            value = torch.zeros(len(here), dtype=torch.float64)  # what it reads cannot be cut
        out.append(torch.where(here, value, 0.0))
    return out


def input_constants(defs: list[dict], graph: ChannelGraph, constants: list[Tensor], layer_i: int) -> Tensor:
    """(inputs of layer_i,) constants of the channels it reads."""
    sources = layer_inputs(layer_i, section_of(defs, layer_i))
    return torch.cat([constants[j] if j >= 0 else torch.zeros(len(graph.image), dtype=torch.float64) for j in sources])


def constant_kernel(weight: Tensor, constant: Tensor, groups: int) -> Tensor:
    """Sum over input channels of kernel x constant, (out, k, k) float64. weight: (out, in / groups, k, k); constant:
    (in,)."""
    constant = constant.view(groups, 1, -1, 1, 1)
    silent = constant == 0  # 0 x kernel is left out, which also skips most of the work
    columns = (~silent).any(0).flatten().nonzero().flatten()
    blocks = weight.view(groups, -1, *weight.shape[1:])[:, :, columns].double()
    return (blocks * constant[:, :, columns]).sum(2).flatten(0, 1)


@dataclass(frozen=True)
class _Reader:
    """A convolution that reads removed channels with something to carry. constant: (inputs,) what they emit; groups:
    theirs."""

    layer_i: int
    constant: Tensor
    padded: bool
    groups: Tensor


def _readers(defs, graph: ChannelGraph, keep: Tensor, constants: list[Tensor]) -> list[_Reader]:
    found = []
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] != "convolutional" or not keep[graph.outputs[layer_i]].any():
            continue
        inputs = graph.inputs(layer_i, section)
        groups = integer(section, "groups", 1)
        if groups > 1 and groups == len(inputs):
            continue  # depthwise: an output goes with its input, so no kept output sees a constant
        constant = input_constants(defs, graph, constants, layer_i)
        if constant.any():
            gone = inputs[~keep[inputs]].unique()
            found.append(_Reader(layer_i, constant, conv_window(section).padding > 0, gone))
    return found


def _kernels(defs, state, graph: ChannelGraph, keep: Tensor, readers: list[_Reader]) -> dict[int, Tensor]:
    """Reader's layer -> (out, k, k) float64, the sum of kernel x constant of its kept outputs; readers for whom it is 0
    are left out."""
    kernels = {}
    for reader in readers:
        kernel = constant_kernel(
            state[state_key(reader.layer_i, "conv.weight")],
            reader.constant,
            integer(section_of(defs, reader.layer_i), "groups", 1),
        )
        kernel = kernel * keep[graph.outputs[reader.layer_i]].view(-1, 1, 1)
        if kernel.any():
            kernels[reader.layer_i] = kernel
    return kernels


def _choose_carriers(graph: ChannelGraph, readers: list[_Reader]) -> dict[int, int]:
    """Padded reader's layer -> group that carries its constant: as few channels in all as a greedy choice finds."""
    members = torch.cat([graph.outputs[i] for i in graph.normalised]).bincount(minlength=len(graph.frozen)).tolist()
    chosen: dict[int, int] = {}
    for reader in sorted((r for r in readers if r.padded), key=lambda r: (len(r.groups), r.layer_i)):
        groups, carrying = reader.groups.tolist(), set(chosen.values())
        taken = [group for group in groups if group in carrying]
        chosen[reader.layer_i] = taken[0] if taken else min(groups, key=lambda group: (members[group], group))
    return chosen


def _removed_constants(defs, state, graph: ChannelGraph, keep: Tensor) -> list[Tensor]:
    """What the groups not in `keep` emit in each layer, (C_i,) float64."""
    betas = {i: state[state_key(i, "batch_norm.bias")].double() for i in graph.normalised}
    own = {i: activation_of(section_of(defs, i))(beta) for i, beta in betas.items()}
    return propagate(defs, graph, own, ~keep)


def vectors_of(model: nn.Module) -> dict[str, Tensor]:
    """The part of a Darknet's state that `staying_groups` reads, on the CPU: kernels, which have no say in it, are most
    of what would be copied from a GPU."""
    return {key: value.detach().cpu() for key, value in model.state_dict().items() if value.ndim == 1}


def staying_groups(defs: list[dict], state: dict[str, Tensor], graph: ChannelGraph, keep: Tensor) -> Tensor:
    """(G,) bool: `keep` and the carriers that an exact removal of the rest would need, without making it. An upper
    bound: a carrier for kernels that happen to sum to 0 is counted here and not made there."""
    staying = keep.clone()
    readers = _readers(defs, graph, keep, _removed_constants(defs, state, graph, keep))
    staying[list(_choose_carriers(graph, readers).values())] = True
    return staying


def _carrier_constants(defs, graph: ChannelGraph, carriers: dict[int, int]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Beta of every channel of every layer in a carrier group, and the constants they give downstream.

    Each carrier emits 1 in its first layer and, where several layers add up in a shortcut, 0 in the later ones.
    """
    groups = sorted(set(carriers.values()))
    is_carrier = torch.zeros(len(graph.frozen), dtype=torch.bool)
    is_carrier[groups] = True
    layers = [i for i in graph.normalised if is_carrier[graph.outputs[i]].any()]
    betas, own, later = {}, {}, _later_terms(defs, graph)
    for i in layers:
        section, width = section_of(defs, i), len(graph.outputs[i])
        function = activation_of(section)
        betas[i] = torch.full((width,), carrier_beta(section), dtype=torch.float64)
        own[i] = function(betas[i])
        if function(torch.zeros((), dtype=torch.float64)) == 0:
            betas[i][:later.get(i, 0)] = 0.0
            own[i][:later.get(i, 0)] = 0.0
    return betas, propagate(defs, graph, own, is_carrier)


def _later_terms(defs: list[dict], graph: ChannelGraph) -> dict[int, int]:
    """Convolutions whose output only ever enters a shortcut as its newer term (the last layer of a residual block)
    -> how many of their channels, from the first, are added to an older term each time."""
    users: dict[int, list[tuple[int, dict]]] = {}
    for layer_i, section in enumerate(defs[1:]):
        for j in layer_inputs(layer_i, section):
            users.setdefault(j, []).append((layer_i, section))
    later = {}
    for i in graph.normalised:
        added = [max((len(graph.outputs[older]) for older in layer_inputs(j, section) if older < i), default=0)
                 if section["type"] == "shortcut" else 0 for j, section in users.get(i, [])]
        later[i] = min(added, default=0)
    return later


def _write_carriers(defs, state, graph: ChannelGraph, carrier: Tensor, betas: dict[int, Tensor]) -> None:
    """Turn the channels of the (G,) groups in `carrier` into emitters of a constant, deaf and ignored by every
    convolution."""
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] != "convolutional":
            continue
        own = carrier[graph.outputs[layer_i]]
        inputs = carrier[graph.inputs(layer_i, section)]
        weight = state[state_key(layer_i, "conv.weight")]
        groups = integer(section, "groups", 1)
        # a group's place holds its carrier in every part of a grouped convolution
        if inputs.any() and groups < len(inputs):
            weight[:, inputs.view(groups, -1)[0]] = 0
        if own.any():
            weight[own] = 0
            for part, value in (
                ("weight", 0.0),
                ("bias", betas[layer_i][own]),
                ("running_mean", 0.0),
                ("running_var", 1.0),
            ):
                tensor = state[state_key(layer_i, f"batch_norm.{part}")]
                tensor[own] = torch.as_tensor(value, dtype=tensor.dtype)


def _write_kernel(weight: Tensor, kernel: Tensor, constant: Tensor, places: Tensor, groups: int) -> None:
    """Give the input channels `places` (one in every part of a grouped convolution) the kernel of all removed ones."""
    per_part, rows = len(constant) // groups, len(weight) // groups
    done = set()
    for place in places.tolist():
        part, column = divmod(place, per_part)
        if part not in done:  # a route may bring the same channel twice; one of them carries
            done.add(part)
            own = slice(part * rows, (part + 1) * rows)
            weight[own, column] = (kernel[own] / constant[place]).to(weight)


def _write_offset(state, layer_i: int, offset: Tensor) -> None:
    """Add `offset` (out,) to what the convolution gives: off the running mean of its batch norm, or onto its bias."""
    mean, bias = state_key(layer_i, "batch_norm.running_mean"), state_key(layer_i, "conv.bias")
    if mean in state:
        state[mean] = (state[mean].double() - offset).to(state[mean])
    else:
        state[bias] = (state[bias].double() + offset).to(state[bias])


def narrow_defs(defs: list[dict], graph: ChannelGraph, staying: Tensor) -> list[dict]:
    """module_defs with the widths that the (G,) groups in `staying` leave."""
    compact = [section.copy() for section in defs]
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] != "convolutional":
            continue
        section_of(compact, layer_i)["filters"] = str(int(staying[graph.outputs[layer_i]].sum()))
        inputs = graph.inputs(layer_i, section)
        groups = integer(section, "groups", 1)
        if groups > 1 and groups == len(inputs):
            section_of(compact, layer_i)["groups"] = str(int(staying[inputs].sum()))
    return compact


def init_weights_from_loose_model(defs: list[dict], state: dict[str, Tensor], graph: ChannelGraph,
                                  staying: Tensor) -> tuple[list[dict], dict[str, Tensor], dict[int, Tensor]]:
    """Slice the full-width net down to the (G,) groups in `staying`: (module_defs, state_dict, layer -> kept indices),
    all new."""
    sliced, kept = {}, {}
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] != "convolutional":
            continue
        rows = staying[graph.outputs[layer_i]].nonzero().flatten()
        inputs = staying[graph.inputs(layer_i, section)]
        groups = integer(section, "groups", 1)
        weight = state[state_key(layer_i, "conv.weight")][rows]
        if groups == 1 or groups < len(inputs):
            weight = weight[:, inputs.view(groups, -1)[0]]  # tied: every part keeps the same places
        sliced[state_key(layer_i, "conv.weight")] = weight.contiguous()
        for part in (
            "conv.bias",
            "batch_norm.weight",
            "batch_norm.bias",
            "batch_norm.running_mean",
            "batch_norm.running_var",
        ):
            if (key := state_key(layer_i, part)) in state:
                sliced[key] = state[key][rows]
        if (key := state_key(layer_i, "batch_norm.num_batches_tracked")) in state:
            sliced[key] = state[key].clone()
        kept[layer_i] = rows
    return narrow_defs(defs, graph, staying), sliced, kept


def masked_state(state: dict[str, Tensor], masks: dict[int, Tensor]) -> dict[str, Tensor]:
    """state_dict with the gammas of removed channels zeroed, betas kept: the net that removal has to reproduce."""
    masked = dict(state)
    for layer_i, mask in masks.items():
        key = state_key(layer_i, "batch_norm.weight")
        masked[key] = state[key] * mask.to(state[key])
    return masked


def compact_net(
    defs: list[dict], state: dict[str, Tensor], graph: ChannelGraph, keep: Tensor, fold: str = "exact"
) -> Surgery:
    """Remove the groups not in `keep` (G,) from a net, the constants that they emit moved on to their consumers.

    fold: "exact"; "bias" (padded consumers get the sum for the whole kernel, wrong at the border, as in the reference
    implementation). Arguments stay untouched; the new state_dict lies on the CPU, wherever the old one does.
    """
    if fold not in FOLDS:
        raise ValueError(f"found fold {fold!r}, expected one of {', '.join(FOLDS)}")
    state = {key: value.detach().cpu() for key, value in state.items()}
    readers = _readers(defs, graph, keep, _removed_constants(defs, state, graph, keep))
    kernels = _kernels(defs, state, graph, keep, readers)
    readers = [reader for reader in readers if reader.layer_i in kernels]
    carriers = _choose_carriers(graph, readers) if fold == "exact" else {}
    staying = keep.clone()
    staying[list(carriers.values())] = True
    compact, sliced, kept = init_weights_from_loose_model(defs, state, graph, staying)
    left = graph.narrowed(staying)
    betas, emitted = _carrier_constants(compact, left, carriers)
    _write_carriers(compact, sliced, left, staying & ~keep, betas)
    how = {}
    for reader in readers:
        i, section = reader.layer_i, section_of(compact, reader.layer_i)
        kernel = kernels[i][kept[i]]
        if i in carriers:
            places = (left.inputs(i, section) == carriers[i]).nonzero().flatten()
            constant, groups = input_constants(compact, left, emitted, i), integer(section, "groups", 1)
            _write_kernel(sliced[state_key(i, "conv.weight")], kernel, constant, places, groups)
            how[i] = "carrier"
        else:
            _write_offset(sliced, i, kernel.sum((1, 2)))
            how[i] = "approximate" if reader.padded else "folded"
    extra = staying & ~keep
    count = {i: int(extra[graph.outputs[i]].sum()) for i in graph.normalised}
    return Surgery(compact, sliced, kept, {i: n for i, n in count.items() if n}, how)
