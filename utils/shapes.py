"""Shapes and costs of a net, worked out from its module_defs alone: no tensor is made."""

import math
from dataclasses import dataclass

from utils.limits import MOST_LIVE_VALUES, MOST_PARAMETERS
from utils.parse_config import head_anchors, head_entries, input_size, integer, layer_inputs, where
from utils.text import CfgError


@dataclass(frozen=True)
class LayerCost:
    """Learned parameters and multiply-adds of one layer for one image."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class Window:
    """What a convolution or a pooling sees at a time: a square of `size` x `size` pixels, `dilation` apart, moved by
    `stride` (down, right). padding: pixels per side for a convolution, in all for a pooling."""

    size: int
    stride: tuple[int, int]
    padding: int
    dilation: int = 1

    def count(self, height: int, width: int, padding: int) -> tuple[int, int]:
        """(rows, columns) of the output of a (height, width) map with `padding` pixels in all."""
        reach = self.dilation * (self.size - 1) + 1
        return (height + padding - reach) // self.stride[0] + 1, (width + padding - reach) // self.stride[1] + 1


def _stride(section: dict) -> tuple[int, int]:
    stride = integer(section, "stride", 1)
    return integer(section, "stride_y", stride), integer(section, "stride_x", stride)


def conv_window(section: dict) -> Window:
    """Window of a [convolutional]: pads size // 2 for pad=1, else `padding`, times the dilation (darknet's im2col)."""
    size = integer(section, "size", 1)
    dilation = integer(section, "dilation", 1) if size > 1 else 1
    padding = size // 2 if integer(section, "pad") else integer(section, "padding")
    return Window(size, _stride(section), padding * dilation, dilation)


def pool_window(section: dict) -> Window:
    """Window of a [maxpool] or [local_avgpool]; Darknet pads size - 1 in all, the odd pixel at right and bottom."""
    size = integer(section, "size", integer(section, "stride", 1))
    return Window(size, _stride(section), integer(section, "padding", size - 1))


def layer_shapes(defs: list[dict], width: int | None = None, height: int | None = None) -> list[tuple[int, int, int]]:
    """(channels, height, width) of every layer's output; width and height of the image default to the cfg's.

    Raises CfgError where shapes do not fit (route or shortcut of different sizes, ...), and where the net would be
    larger than utils.limits allow.
    """
    cfg_width, cfg_height = input_size(defs)
    image = (integer(defs[0], "channels", 3), height or cfg_height, width or cfg_width)
    shapes: list[tuple[int, int, int]] = []
    parameters = 0
    for layer_i, section in enumerate(defs[1:]):
        place = where(section, layer_i)
        inputs = [image if j < 0 else shapes[j] for j in layer_inputs(layer_i, section)]
        shapes.append(_SHAPE_OF[section["type"]](section, inputs, place))
        if min(shapes[-1]) < 1:
            raise CfgError(f"{place}: found an output of {shapes[-1]} (channels, height, width), "
                           f"expected 1 or more of each; the image {image[2]}x{image[1]} is too small for this net")
        parameters += _kernel_values(section, inputs[0][0])
        if parameters > MOST_PARAMETERS:
            raise CfgError(f"{place}: found a net of {parameters:.3g} parameters up to here, expected at most "
                           f"{MOST_PARAMETERS:,}")
        _check_map(shapes[-1], place, image)
    _check_live(defs, shapes, image)
    return shapes


def _kernel_values(section: dict, channels: int) -> int:
    """Weights of a convolution of `channels` inputs; 0 for another layer."""
    if section["type"] != "convolutional":
        return 0
    return integer(section, "filters") * channels // integer(section, "groups", 1) * integer(section, "size", 1) ** 2


def _check_map(shape: tuple[int, int, int], place: str, image: tuple[int, int, int], words: str = "an output") -> None:
    """Raise CfgError where a map of (channels, height, width) `shape` alone is over the bound."""
    if math.prod(shape) > MOST_LIVE_VALUES:
        channels, height, width = (f"{side:.7g}" for side in shape)
        raise CfgError(f"{place}: found {words} of {channels} x {height} x {width} values (channels, height, width) "
                       f"for an image of {image[2]}x{image[1]}, expected at most {MOST_LIVE_VALUES:,} values")


def live_values(defs: list[dict], shapes: list[tuple[int, int, int]], image: tuple[int, int, int]) -> list[int]:
    """Values that a forward pass of one image holds while it computes each layer: its output, and what this layer or a
    later one still reads. shapes: of layer_shapes; image: (channels, height, width)."""
    inputs = [layer_inputs(layer_i, section) for layer_i, section in enumerate(defs[1:])]
    last_use = {j: layer_i for layer_i, layers in enumerate(inputs) for j in layers}
    freed: dict[int, int] = {}  # layer -> values that nothing reads after it
    for j, layer_i in last_use.items():
        freed[layer_i] = freed.get(layer_i, 0) + math.prod(image if j < 0 else shapes[j])
    live, found = math.prod(image), []
    for layer_i, shape in enumerate(shapes):
        live += math.prod(shape)
        found.append(live)
        live -= freed.get(layer_i, 0)
    return found


def _check_live(defs: list[dict], shapes: list[tuple[int, int, int]], image: tuple[int, int, int]) -> None:
    """Raise CfgError where maps that are held at the same time are over the bound."""
    live = live_values(defs, shapes, image)
    most = max(live)
    if most > MOST_LIVE_VALUES:
        layer_i = live.index(most)
        raise CfgError(f"{where(defs[1 + layer_i], layer_i)}: found {most:.3g} values in the maps held up to here for "
                       f"an image of {image[2]}x{image[1]}, expected at most {MOST_LIVE_VALUES:,}")


def _conv(section, inputs, place):
    channels, height, width = inputs[0]
    groups, filters = integer(section, "groups", 1), integer(section, "filters")
    if channels % groups or filters % groups:
        raise CfgError(f"{place}: found groups={groups} with {channels} input and {filters} output channels, "
                       "expected a divisor of both")
    window = conv_window(section)
    _check_padded(2 * window.padding, inputs[0], place)
    if window.dilation > 1 and 2 * window.padding != window.dilation * (window.size - 1):
        raise CfgError(
            f"{place}: found dilation={window.dilation} with size={window.size} and {window.padding} pixels "
            "of padding, expected an odd size and pad=1 (Darknet fills another size of map than it computes)"
        )
    return filters, *window.count(height, width, 2 * window.padding)


def _pool(section, inputs, place):
    channels, height, width = inputs[0]
    window = pool_window(section)
    _check_padded(window.padding, inputs[0], place)
    return channels, *window.count(height, width, window.padding)


def _check_padded(padding: int, shape: tuple[int, int, int], place: str) -> None:
    """Raise CfgError where a map is too large once it has `padding` pixels more in each direction."""
    if padding:
        channels, height, width = shape
        _check_map((channels, height + padding, width + padding), place, shape, "a padded map")


def _upsample(section, inputs, place):
    stride = integer(section, "stride", 2)
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


def _shortcut(section, inputs, place):
    _, height, width = inputs[0]
    steps = [max(h // height, 1) for _, h, _ in inputs]
    if any((h, w) != (step * height, step * width) for (_, h, w), step in zip(inputs, steps)):
        raise CfgError(f"{place}: found inputs of {inputs} (channels, height, width), expected equal sizes, "
                       "or later inputs larger by a whole factor (channels may differ)")
    return inputs[0]  # where channels differ the common ones are added


def _sam(section, inputs, place):
    if any(shape != inputs[0] for shape in inputs):
        raise CfgError(f"{place}: found inputs of {inputs} (channels, height, width), expected equal shapes")
    return inputs[0]


def _scale_channels(section, inputs, place):
    scale, scaled = inputs
    if scale != (scaled[0], 1, 1):
        raise CfgError(f"{place}: found scales of {scale}, expected {(scaled[0], 1, 1)}, one a channel")
    return scaled


def _reorg(section, inputs, place):
    channels, height, width = inputs[0]
    stride = integer(section, "stride", 1)
    unit = stride * stride if section["type"] == "reorg" else 1  # [reorg] reads planes stride times as high and wide
    if height % stride or width % stride or channels % unit:
        raise CfgError(f"{place}: found {inputs[0]} (channels, height, width), expected height and width divisible by "
                       f"{stride} and channels by {unit}")
    return channels * stride * stride, height // stride, width // stride


def _detect(section, inputs, place):
    anchors, entries = len(head_anchors(section)), head_entries(section)
    if inputs[0][0] != anchors * entries:
        raise CfgError(f"{place}: found {inputs[0][0]} input channels, expected {anchors * entries} = {anchors} "
                       "anchors "
                       f"x {entries} (box, objectness and classes); set filters={anchors * entries} in the convolution "
                       "before it")
    return inputs[0]


_SHAPE_OF = {"convolutional": _conv, "maxpool": _pool, "local_avgpool": _pool, "upsample": _upsample, "route": _route,
             "shortcut": _shortcut, "sam": _sam, "scale_channels": _scale_channels, "reorg": _reorg, "reorg3d": _reorg,
             "yolo": _detect, "region": _detect, "Gaussian_yolo": _detect,
             "avgpool": lambda section, inputs, place: (inputs[0][0], 1, 1),
             "dropout": lambda section, inputs, place: inputs[0]}


def layer_costs(defs: list[dict], width: int | None = None, height: int | None = None) -> list[LayerCost]:
    """Cost of every layer. Parameters: weights and biases, gamma and beta (running statistics are not learned).
    MACs: one per weight and output position of a convolution; batch norm is counted as folded away, other layers as
    0."""
    shapes = layer_shapes(defs, width, height)
    costs = []
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] != "convolutional":
            costs.append(LayerCost(0, 0))
            continue
        filters, out_height, out_width = shapes[layer_i]
        inputs = shapes[layer_i - 1][0] if layer_i else integer(defs[0], "channels", 3)
        weights = filters * inputs // integer(section, "groups", 1) * conv_window(section).size ** 2
        bias = 2 * filters if integer(section, "batch_normalize") else filters
        costs.append(LayerCost(weights + bias, weights * out_height * out_width))
    return costs


def total_cost(defs: list[dict], width: int | None = None, height: int | None = None) -> LayerCost:
    """Parameters and MACs of the whole net for one image."""
    costs = layer_costs(defs, width, height)
    return LayerCost(sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs))


def largest_stride(defs: list[dict]) -> int:
    """How many input pixels a cell of the coarsest map spans, those behind an average over the whole map left out;
    image sides must be multiples of it."""
    strides: list[float] = []
    for layer_i, section in enumerate(defs[1:]):
        stride = max(strides[j] if j >= 0 else 1.0 for j in layer_inputs(layer_i, section))
        if section["type"] in ("convolutional", "maxpool", "local_avgpool", "reorg", "reorg3d"):
            stride *= max(_stride(section))
        elif section["type"] == "upsample":
            stride /= integer(section, "stride", 2)
        strides.append(0.0 if section["type"] == "avgpool" else stride)
    return int(max(1.0, *strides))
