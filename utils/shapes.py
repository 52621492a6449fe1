"""Shapes and costs of a net, worked out from its module_defs alone: no tensor is made."""

from dataclasses import dataclass

from utils.parse_config import CfgError, input_size, integer, layer_inputs, number, numbers, where


@dataclass(frozen=True)
class LayerCost:
    """Learned parameters and multiply-adds of one layer for one image."""

    parameters: int
    macs: int


def conv_padding(section: dict) -> int:
    """Zero padding of a [convolutional] section in pixels a side: size // 2 for pad=1, else `padding`."""
    return integer(section, "size") // 2 if integer(section, "pad") else integer(section, "padding")


def pool_padding(section: dict) -> tuple[int, int, int]:
    """(size, stride, total padding) of a [maxpool]; Darknet pads size - 1 in all, the odd pixel at right and bottom."""
    stride = integer(section, "stride", 1)
    size = integer(section, "size", stride)
    return size, stride, integer(section, "padding", size - 1)


def layer_shapes(defs: list[dict], width: int | None = None, height: int | None = None) -> list[tuple[int, int, int]]:
    """(channels, height, width) of every layer's output; width and height of the image default to the cfg's.

    Raises CfgError where shapes do not fit (route of different sizes, shortcut of different channels, ...).
    """
    cfg_width, cfg_height = input_size(defs)
    image = (integer(defs[0], "channels", 3), height or cfg_height, width or cfg_width)
    shapes: list[tuple[int, int, int]] = []
    for layer_i, section in enumerate(defs[1:]):
        inputs = [image if j < 0 else shapes[j] for j in layer_inputs(layer_i, section)]
        shapes.append(_SHAPE_OF[section["type"]](section, inputs, where(section, layer_i)))
        if min(shapes[-1]) < 1:
            raise CfgError(f"{where(section, layer_i)}: found an output of {shapes[-1]} (channels, height, width), "
                           f"expected 1 or more of each; the image {image[2]}x{image[1]} is too small for this net")
    return shapes


def _conv(section, inputs, place):
    channels, height, width = inputs[0]
    groups, filters = integer(section, "groups", 1), integer(section, "filters")
    if channels % groups or filters % groups:
        raise CfgError(f"{place}: found groups={groups} with {channels} input and {filters} output channels, "
                       "expected a divisor of both")
    size, stride, padding = integer(section, "size"), integer(section, "stride", 1), conv_padding(section)
    return filters, (height + 2 * padding - size) // stride + 1, (width + 2 * padding - size) // stride + 1


def _maxpool(section, inputs, place):
    channels, height, width = inputs[0]
    size, stride, padding = pool_padding(section)
    return channels, (height + padding - size) // stride + 1, (width + padding - size) // stride + 1


def _upsample(section, inputs, place):
    stride = integer(section, "stride", 2)
    if number(section, "scale", 1.0) != 1.0:
        raise CfgError(f"{place}: found scale={section['scale']}, expected 1 (scaled upsampling is not supported)")
    return inputs[0][0], inputs[0][1] * stride, inputs[0][2] * stride


def _route(section, inputs, place):
    groups, group_id = integer(section, "groups", 1), integer(section, "group_id")
    if not 0 <= group_id < groups:
        raise CfgError(f"{place}: found group_id={group_id} with groups={groups}, expected 0 to {groups - 1}")
    for channels, height, width in inputs:
        if (height, width) != inputs[0][1:]:
            raise CfgError(f"{place}: found inputs of {[f'{w}x{h}' for _, h, w in inputs]}, expected one size "
                           "(is the image size a multiple of the net's largest stride?)")
        if channels % groups:
            raise CfgError(f"{place}: found {channels} channels, expected a multiple of groups={groups}")
    return sum(channels // groups for channels, _, _ in inputs), *inputs[0][1:]


def _same(section, inputs, place):
    if section.get("weights_type", "none") != "none":
        raise CfgError(f"{place}: found weights_type={section['weights_type']}, expected none (weighted shortcuts are not supported)")
    if any(shape != inputs[0] for shape in inputs):
        raise CfgError(f"{place}: found inputs of {inputs} (channels, height, width), expected equal shapes")
    return inputs[0]


def _scale_channels(section, inputs, place):
    if integer(section, "scale_wh"):
        raise CfgError(f"{place}: found scale_wh=1, expected per-channel scales (scale_wh is not supported)")
    scale, scaled = inputs
    if scale != (scaled[0], 1, 1):
        raise CfgError(f"{place}: found scales of {scale}, expected {(scaled[0], 1, 1)}, one a channel")
    return scaled


def _reorg(section, inputs, place):
    channels, height, width = inputs[0]
    stride = integer(section, "stride", 1)
    if integer(section, "reverse"):
        raise CfgError(f"{place}: found reverse=1, expected a plain reorg (reverse is not supported)")
    if height % stride or width % stride or channels % (stride * stride):
        raise CfgError(f"{place}: found {inputs[0]} (channels, height, width), expected height and width divisible by "
                       f"{stride} and channels by {stride * stride}")
    return channels * stride * stride, height // stride, width // stride


def _detect(section, inputs, place):
    anchors = numbers(section, "mask") if "mask" in section else numbers(section, "anchors")[::2]
    expected = len(anchors) * (5 + integer(section, "classes"))
    if inputs[0][0] != expected:
        raise CfgError(f"{place}: found {inputs[0][0]} input channels, expected {expected} = {len(anchors)} anchors x "
                       f"(5 + {section['classes']} classes); set filters={expected} in the convolution before it")
    return inputs[0]


_SHAPE_OF = {"convolutional": _conv, "maxpool": _maxpool, "upsample": _upsample, "route": _route, "shortcut": _same,
             "sam": _same, "scale_channels": _scale_channels, "reorg": _reorg, "yolo": _detect, "region": _detect,
             "avgpool": lambda section, inputs, place: (inputs[0][0], 1, 1),
             "dropout": lambda section, inputs, place: inputs[0]}


def layer_costs(defs: list[dict], width: int | None = None, height: int | None = None) -> list[LayerCost]:
    """Cost of every layer. Parameters: weights and biases, gamma and beta (running statistics are not learned).
    MACs: one per weight and output position of a convolution; batch norm is counted as folded away, other layers as 0."""
    shapes = layer_shapes(defs, width, height)
    costs = []
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] != "convolutional":
            costs.append(LayerCost(0, 0))
            continue
        filters, out_height, out_width = shapes[layer_i]
        inputs = shapes[layer_i - 1][0] if layer_i else integer(defs[0], "channels", 3)
        weights = filters * inputs // integer(section, "groups", 1) * integer(section, "size") ** 2
        bias = 2 * filters if integer(section, "batch_normalize") else filters
        costs.append(LayerCost(weights + bias, weights * out_height * out_width))
    return costs


def total_cost(defs: list[dict], width: int | None = None, height: int | None = None) -> LayerCost:
    """Parameters and MACs of the whole net for one image."""
    costs = layer_costs(defs, width, height)
    return LayerCost(sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs))


def largest_stride(defs: list[dict]) -> int:
    """How many input pixels a cell of the coarsest map spans, those behind an average over the whole map left out; image sides must be
    multiples of it."""
    strides: list[float] = []
    for layer_i, section in enumerate(defs[1:]):
        stride = max(strides[j] if j >= 0 else 1.0 for j in layer_inputs(layer_i, section))
        if section["type"] in ("convolutional", "maxpool", "reorg"):
            stride *= integer(section, "stride", 1)
        elif section["type"] == "upsample":
            stride /= integer(section, "stride", 2)
        strides.append(0.0 if section["type"] == "avgpool" else stride)
    return int(max(1.0, *strides))
