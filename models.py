"""Darknet networks from a cfg: one module a layer, one uniform forward pass.

B images, C channels, H x W cells, A anchors of a head, K classes, N = boxes of all heads.
"""

import copy
import os
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.darknet_weights import LoadReport, read_darknet_weights, write_darknet_weights
from utils.layers import activation, activation_name, module_name
from utils.parse_config import DEFAULT_CLASSES, head_anchors, integer, layer_inputs, number, parse_model_config
from utils.shapes import conv_window, layer_shapes, pool_window
from utils.tensors import values

BN_EPS = 1e-6  # Darknet's and OpenCV's; torch's 1e-5 is off by up to 1 % on nets others trained


class MaxPool(nn.Module):
    """Darknet's max pooling: `padding` pixels in all, the odd one at right and bottom, never winning.

    stride: one for both directions, or (down, right). Padding repeats the map's edge, of which every window that
    reaches it holds a pixel: the same as -inf, which other runtimes read as 0 (ncnn) and which leaves an 8-bit range
    no steps.
    """

    def __init__(self, size: int, stride: int | tuple[int, int], padding: int):
        super().__init__()
        self.size, self.stride = size, stride if isinstance(stride, tuple) else (stride, stride)
        self.before, self.after = padding // 2, padding - padding // 2
        sides = (self.before, self.after) * 2
        nothing_else = self.after >= size  # what some window holds
        self.padded = nn.ConstantPad2d(sides, float("-inf")) if nothing_else else nn.ReplicationPad2d(sides)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> pooled."""
        if self.before == self.after and 2 * self.before <= self.size:
            return F.max_pool2d(x, self.size, self.stride, self.before)
        return F.max_pool2d(self.padded(x) if any(self.reached(x)) else x, self.size, self.stride)

    def reached(self, x: Tensor) -> tuple[int, int, int, int]:
        """Padding (left, right, top, bottom) without what no window reaches at right and bottom, which would only cost
        a copy."""
        beside = self.before + self.after - self.size
        spare = [(length + beside) % stride for length, stride in zip(x.shape[2:], self.stride)]
        return self.before, max(self.after - spare[1], 0), self.before, max(self.after - spare[0], 0)


class LocalAvgPool(MaxPool):
    """Darknet's average pooling over a window: the mean of those of its pixels that lie in the map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> pooled."""
        inside = F.pad(torch.ones_like(x[:1, :1]), self.reached(x))
        share = F.avg_pool2d(inside, self.size, self.stride)
        return F.avg_pool2d(F.pad(x, self.reached(x)), self.size, self.stride) / share


class Upsample(nn.Module):
    """Nearest-neighbour enlargement by an integer, times `scale`."""

    def __init__(self, stride: int, scale: float = 1.0):
        super().__init__()
        self.stride, self.scale = stride, scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H s, W s)."""
        large = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        return large if self.scale == 1 else large * self.scale


class Route(nn.Module):
    """Concatenate the inputs' channels; with groups, group `group_id` of each."""

    def __init__(self, groups: int, group_id: int):
        super().__init__()
        self.groups, self.group_id = groups, group_id

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs (B, C_i, H, W) -> one map."""
        if self.groups > 1:
            inputs = [x.chunk(self.groups, dim=1)[self.group_id] for x in inputs]
        return inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)


class Shortcut(nn.Module):
    """Sum of the inputs, then an activation (a sum is a new tensor, so an in-place activation is safe).

    Where another input has fewer channels than the first, the first's others pass; where it has more, its others are
    left out. Where its map is s times as large, the cells at 0, s, 2 s ... are added (darknet's shortcut_cpu).
    """

    def __init__(self, act: str):
        super().__init__()
        self.act = activation(act)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Maps (B, C_i, s_i H, s_i W) with s_0 = 1 -> their sum (B, C_0, H, W), activated."""
        total, channels = first, first.shape[1]
        for other in others:
            step = other.shape[3] // first.shape[3]
            if step > 1:
                other = other[:, :, ::step, ::step]
            lacking = channels - other.shape[1]
            if lacking:  # pads with zeros, or where negative cuts
                other = F.pad(other, (0, 0, 0, 0, 0, lacking))
            total = total + other
        return self.act(total)


class Scale(nn.Module):
    """Product of a map with per-channel scales (scale_channels) or with a map of its size (sam), then an activation."""

    def __init__(self, act: str):
        super().__init__()
        self.act = activation(act)

    def forward(self, scale: Tensor, x: Tensor) -> Tensor:
        """scale (B, C, 1, 1) or of x's shape; x (B, C, H, W)."""
        return self.act(x * scale)


class Reorg(nn.Module):
    """Darknet's space-to-depth, with its own order: it reads the map as C / s^2 planes of (H s) x (W s). In five axes:
    ncnn has no sixth."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C s^2, H / s, W / s)."""
        B, C, H, W = x.shape
        s = self.stride
        # of all planes row h * s + offset // s, column w * s + offset % s
        planes = x.reshape(B, C // (s * s) * H, s, W, s)
        return planes.permute(0, 2, 4, 1, 3).reshape(B, C * s * s, H // s, W // s)


class Reorg3d(nn.Module):
    """Space-to-depth, AlexeyAB's [reorg3d]: channel `offset C + c` is channel c at row offset // s, column offset % s
    of each s x s square."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C s^2, H / s, W / s)."""
        B, C, H, W = x.shape
        s = self.stride
        squares = x.reshape(B, C, H // s, s, W // s, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(B, C * s * s, H // s, W // s)


class YOLOLayer(nn.Module):
    """A detection head's decoder; it learns nothing. In the net it passes the raw map through.

    Redmon and Farhadi 2018 (YOLOv3), section 2.1; scale_x_y and new_coords as in darknet yolo_layer.c (Bochkovskiy et
    al. 2020, section 3.3). anchors: (A, 2) width, height in input pixels.
    """

    objectness_entry = 4  # among the channels of an anchor
    softmax = False  # whether the classes of a box share one softmax

    def __init__(self, section: dict):
        super().__init__()
        self.classes = integer(section, "classes", DEFAULT_CLASSES)
        self.scale_xy = number(section, "scale_x_y", 1.0)
        self.new_coords = bool(integer(section, "new_coords"))
        self.sizes = head_anchors(section)  # the anchors as numbers
        self.register_buffer("anchors", torch.tensor(self.sizes), persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        """The raw map, as it is."""
        return raw

    def split(self, raw: Tensor) -> Tensor:
        """(B, A (5 + K), H, W) -> (B, A, H, W, 5 + K)."""
        B, _, H, W = raw.shape
        return raw.view(B, len(self.anchors), -1, H, W).permute(0, 1, 3, 4, 2)

    def anchors_px(self, stride: Tensor) -> Tensor:
        """(A, 2) anchors in input pixels."""
        return self.anchors

    def sizes_px(self, stride: tuple[float, float]) -> list[tuple[float, float]]:
        """The same as numbers, which no GPU is asked for. stride: (width, height) of a cell in input pixels."""
        return self.sizes

    def boxes(self, t_xy: Tensor, t_wh: Tensor, cell_xy: Tensor, anchor_px: Tensor, stride: Tensor) -> Tensor:
        """(..., 4) cx, cy, w, h in input pixels from raw offsets and sizes, cell indices (x, y) and anchors.
        Broadcasts."""
        return torch.cat([self.centres(t_xy, cell_xy, stride), self.extents(t_wh, anchor_px)], dim=-1)

    def centres(self, t_xy: Tensor, cell_xy: Tensor, stride: Tensor) -> Tensor:
        """cx, cy in input pixels from raw offsets and cell indices (x, y). Broadcasts."""
        xy = t_xy if self.new_coords else t_xy.sigmoid()
        return (xy * self.scale_xy - (self.scale_xy - 1) / 2 + cell_xy) * stride

    def extents(self, t_wh: Tensor, anchor_px: Tensor) -> Tensor:
        """w, h in input pixels from raw sizes and anchors. Broadcasts."""
        # exp is held at e^8 so that an untrained or half-precision net cannot reach infinity
        return ((2 * t_wh) ** 2 if self.new_coords else t_wh.clamp(max=8.0).exp()) * anchor_px

    def start(self, bias: Tensor) -> None:
        """Set the (A (5 + K),) biases of the convolution before an untrained head: an objectness of 1 %."""
        bias.view(len(self.anchors), -1)[:, self.objectness_entry] = -4.6

    def probabilities(self, t: Tensor, dim: int = -1) -> Tensor:
        """(..., 1 + K) objectness and class probabilities of raw scores, which stand on axis `dim`."""
        return t if self.new_coords else t.sigmoid()

    def decode(self, raw: Tensor, image_width: int, image_height: int) -> Tensor:
        """(B, A (5 + K), H, W) -> (B, A H W, 5 + K): cx, cy, w, h in input pixels, objectness, class probabilities;
        anchor by anchor, then row, then column."""
        return self.decode_cells(raw, [image_width / raw.shape[3], image_height / raw.shape[2]])

    def decode_cells(self, raw: Tensor, cell_px: list[float]) -> Tensor:
        """`decode`, given the (width, height) of a cell in input pixels. No tensor has over five axes, so that every
        converter follows."""
        B, channels, H, W = raw.shape
        A = len(self.anchors)
        maps = self.decode_maps(raw.reshape(B, A, channels // A, H * W), (H, W), cell_px)
        return maps.permute(0, 1, 3, 2).reshape(B, A * H * W, 5 + self.classes)

    def decode_maps(self, t: Tensor, grid: tuple[int, int], cell_px: list[float]) -> Tensor:
        """(B, A, 5 + K, H W) raw entries of a map of `grid` (H, W) cells -> the same, decoded. The cells stand on the
        last axis, where runtimes compute many at once: two numbers there cost a narrow net up to an eighth of its
        time."""
        (H, W), stride = grid, values(cell_px, t)
        rows, columns = torch.meshgrid(torch.arange(H, device=t.device, dtype=t.dtype),
                                       torch.arange(W, device=t.device, dtype=t.dtype), indexing="ij")
        cell_xy = torch.stack([columns, rows]).reshape(1, 1, 2, H * W)
        anchors = self.anchors_px(stride).to(t.dtype).reshape(1, len(self.anchors), 2, 1)
        centres = self.centres(t[:, :, 0:2], cell_xy, stride.reshape(2, 1))
        return torch.cat([centres, self.extents(t[:, :, 2:4], anchors), self.probabilities(t[:, :, 4:], dim=2)], dim=2)


class RegionLayer(YOLOLayer):
    """YOLOv2's head (Redmon and Farhadi 2016, section 2): anchors in cells, classes by softmax where the cfg says
    softmax=1."""

    def __init__(self, section: dict):
        super().__init__(section)
        self.softmax = bool(integer(section, "softmax"))

    def anchors_px(self, stride: Tensor) -> Tensor:
        """(A, 2) anchors in input pixels."""
        return self.anchors.to(stride.dtype) * stride

    def sizes_px(self, stride: tuple[float, float]) -> list[tuple[float, float]]:
        """(width, height) of the anchors in input pixels, as numbers. stride: of a cell in input pixels."""
        return [(width * stride[0], height * stride[1]) for width, height in self.sizes]

    def probabilities(self, t: Tensor, dim: int = -1) -> Tensor:
        """(..., 1 + K) objectness and class probabilities of raw scores, which stand on axis `dim`."""
        if not self.softmax:
            return t.sigmoid()
        objectness, classes = t.split([1, self.classes], dim)
        return torch.cat([objectness.sigmoid(), classes.softmax(dim)], dim)


class GaussianYOLOLayer(YOLOLayer):
    """The head of Choi et al. 2019 (Gaussian YOLOv3), as in darknet gaussian_yolo_layer.c: beside each of the four
    numbers of a box stands its uncertainty, which lowers the score. The loss is that of [yolo]: it teaches no
    uncertainty."""

    ENTRIES = (0, 2, 4, 6)  # of x, y, w, h, each followed by its uncertainty; then come objectness and classes
    objectness_entry = 8

    def split(self, raw: Tensor) -> Tensor:
        """(B, A (9 + K), H, W) -> (B, A, H, W, 5 + K): without the uncertainties."""
        t = super().split(raw)
        return torch.cat([t[..., i:i + 1] for i in self.ENTRIES] + [t[..., self.objectness_entry:]], dim=-1)

    def start(self, bias: Tensor) -> None:
        """Set the (A (9 + K),) biases before an untrained head: an objectness and uncertainties of 1 %."""
        super().start(bias)
        bias.view(len(self.anchors), -1)[:, [i + 1 for i in self.ENTRIES]] = -4.6

    def decode_maps(self, t: Tensor, grid: tuple[int, int], cell_px: list[float]) -> Tensor:
        """(B, A, 9 + K, H W) -> (B, A, 5 + K, H W) as [yolo]'s, objectness times 1 - the mean uncertainty."""
        entries = [t[:, :, i:i + 1] for i in self.ENTRIES] + [t[:, :, self.objectness_entry:]]
        plain = super().decode_maps(torch.cat(entries, dim=2), grid, cell_px)
        uncertainty = sum(t[:, :, i + 1:i + 2].sigmoid() for i in self.ENTRIES) / len(self.ENTRIES)
        return torch.cat([plain[:, :, :4], plain[:, :, 4:5] * (1 - uncertainty), plain[:, :, 5:]], dim=2)


def _convolution(layer_i: int, section: dict, channels: int, initialise: bool) -> nn.Sequential:
    normalised = bool(integer(section, "batch_normalize"))
    filters = integer(section, "filters")
    make = nn.Conv2d if initialise else partial(nn.utils.skip_init, nn.Conv2d)
    window = conv_window(section)
    conv = make(channels, filters, window.size, window.stride, window.padding, window.dilation,
                integer(section, "groups", 1), not normalised)
    modules = nn.Sequential()
    modules.add_module(module_name("conv", layer_i), conv)
    if normalised:
        modules.add_module(module_name("batch_norm", layer_i), nn.BatchNorm2d(filters, eps=BN_EPS))
    if (name := activation_name(section)) != "linear":
        modules.add_module(module_name(name, layer_i), activation(name))
    return modules


def _pool(kind: type[MaxPool], section: dict) -> MaxPool:
    window = pool_window(section)
    return kind(window.size, window.stride, window.padding)


# the module of a section, [convolutional] apart
MODULE_OF = {
    "maxpool": lambda s: _pool(MaxPool, s),
    "local_avgpool": lambda s: _pool(LocalAvgPool, s),
    "avgpool": lambda s: nn.AdaptiveAvgPool2d(1),
    "upsample": lambda s: Upsample(integer(s, "stride", 2), number(s, "scale", 1.0)),
    "route": lambda s: Route(integer(s, "groups", 1), integer(s, "group_id")),
    "shortcut": lambda s: Shortcut(activation_name(s)),
    "scale_channels": lambda s: Scale(activation_name(s)),
    "sam": lambda s: Scale(activation_name(s)),
    "dropout": lambda s: nn.Dropout(number(s, "probability", 0.5)),
    "reorg": lambda s: Reorg(integer(s, "stride", 1)),
    "reorg3d": lambda s: Reorg3d(integer(s, "stride", 1)),
    "yolo": YOLOLayer,
    "Gaussian_yolo": GaussianYOLOLayer,
    "region": RegionLayer,
}


def create_modules(defs: list[dict], initialise: bool = True) -> nn.ModuleList:
    """One module a layer of module_defs; module i takes the outputs of layer_inputs(i). Without `initialise` kernels
    hold whatever their memory held. Raises CfgError on shapes that do not fit."""
    shapes = layer_shapes(defs)
    modules = nn.ModuleList()
    for layer_i, section in enumerate(defs[1:]):
        if section["type"] == "convolutional":
            channels = shapes[layer_i - 1][0] if layer_i else integer(defs[0], "channels", 3)
            modules.append(_convolution(layer_i, section, channels, initialise))
        else:
            modules.append(MODULE_OF[section["type"]](section))
    return modules


class Darknet(nn.Module):
    """A network built from a Darknet cfg.

    config: path of a cfg, or module_defs ([net] first; copied, never edited). `model.train()(images)` returns the list
    of raw maps, (B, A (5 + K), H, W) each, in cfg order; `model.eval()(images)` returns (B, N, 5 + K): cx, cy, w, h in
    input pixels, objectness, class probabilities; head by head, anchor by anchor, then row, then column.
    images: (B, `channels`, height, width) in 0..1, RGB or grey. Raises CfgError when the cfg cannot be built.
    initialise=False leaves the kernels undefined, for a net whose whole state_dict is loaded next: drawing 61 million
    random numbers twice takes half a second.
    """

    def __init__(self, config: str | os.PathLike | list[dict], initialise: bool = True):
        super().__init__()
        defs = config if isinstance(config, list) else parse_model_config(config)
        self.module_defs = [section.copy() for section in defs]
        self.module_list = create_modules(self.module_defs, initialise)
        self.seen = 0  # images trained on, as the .weights header counts them
        self._inputs = [layer_inputs(i, section) for i, section in enumerate(self.module_defs[1:])]
        last_use = {j: i for i, inputs in enumerate(self._inputs) for j in inputs}
        self._freed = [[j for j, use in last_use.items() if use == i] for i in range(len(self._inputs))]
        if initialise:
            self._initialise()

    def _initialise(self) -> None:
        """He et al. 2015 for leaky ReLU; heads small, with an objectness of about 1 % (Lin et al. 2017, section
        4.1)."""
        for _, conv, bn in self.convolutions():
            if bn is not None:
                nn.init.kaiming_normal_(conv.weight, a=0.1, mode="fan_out" if conv.groups == 1 else "fan_in")
        for head_i in self.head_layers():
            head = self.module_list[head_i]
            conv = (
                self.module_list[head_i - 1][0]
                if head_i and isinstance(self.module_list[head_i - 1], nn.Sequential)
                else None
            )
            if conv is not None and conv.bias is not None:
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)
                # the scores of new_coords are what the convolution's own activation makes of these biases
                if not head.new_coords or activation_name(self.module_defs[head_i]) == "logistic":
                    head.start(conv.bias.data)

    @property
    def channels(self) -> int:
        """Channels of the images it takes: 3, red, green and blue, or 1, brightness."""
        return integer(self.module_defs[0], "channels", 3)

    def convolutions(self):
        """Yields (layer index, Conv2d, BatchNorm2d or None) of every convolutional layer, in cfg order."""
        for layer_i, module in enumerate(self.module_list):
            if isinstance(module, nn.Sequential):
                bn = module[1] if len(module) > 1 and isinstance(module[1], nn.BatchNorm2d) else None
                yield layer_i, module[0], bn

    def head_layers(self) -> list[int]:
        """Layer indices of the detection layers, in cfg order."""
        return [i for i, module in enumerate(self.module_list) if isinstance(module, YOLOLayer)]

    def heads(self) -> list[YOLOLayer]:
        """The detection layers, in cfg order."""
        return [self.module_list[i] for i in self.head_layers()]

    def raw_maps(self, images: Tensor) -> list[Tensor]:
        """Raw maps of the heads, (B, A (5 + K), H, W) each, whatever the mode. An output is freed after its last
        use."""
        outputs = {-1: images}
        raws = []
        for layer_i, module in enumerate(self.module_list):
            outputs[layer_i] = module(*[outputs[j] for j in self._inputs[layer_i]])
            if isinstance(module, YOLOLayer):
                raws.append(outputs[layer_i])
            for j in self._freed[layer_i]:
                del outputs[j]
        return raws

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """(B, C, H, W) -> raw maps in train mode, (B, N, 5 + K) in eval mode; see the class."""
        raws = self.raw_maps(images)
        if self.training:
            return raws
        height, width = images.shape[2:]
        return torch.cat([head.decode(raw, width, height) for head, raw in zip(self.heads(), raws)], dim=1)

    def optimize(self) -> "Darknet":
        """A copy for inference: batch norms folded into their convolutions, channels-last, eval mode. Same output."""
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        for layer_i, conv, bn in list(twin.convolutions()):
            if bn is not None:
                modules = list(twin.module_list[layer_i].named_children())
                fused = nn.utils.fusion.fuse_conv_bn_eval(conv, bn)
                twin.module_list[layer_i] = nn.Sequential()
                for name, module in [(modules[0][0], fused), *modules[2:]]:
                    twin.module_list[layer_i].add_module(name, module)
        return twin.to(memory_format=torch.channels_last)

    def load_darknet_weights(self, path: str | os.PathLike) -> LoadReport:
        """Load a .weights file, old header or new; see utils.darknet_weights for files shorter than the net or with
        other heads."""
        return read_darknet_weights(self, path)

    def save_darknet_weights(self, path: str | os.PathLike) -> None:
        """Write a .weights file, header 0.2.5 and a 64-bit count of images seen."""
        write_darknet_weights(self, path)


def load(cfg: str | os.PathLike, weights: str | os.PathLike | None = None, device: str = "",
         img_size: int | None = None, backend: str | None = None, **thresholds: float):
    """A trained net to detect with: `load("X.cfg", "X.weights").detect(image)`, or `load("X.onnx").detect(image)`.

    weights: a checkpoint, a Darknet file, or what export.py wrote (which needs no cfg); device: as --device; img_size:
    a square input (default: that of the training, else the cfg's); backend: as --backend (default: torch, of an
    exported file the fastest that takes it); thresholds: conf_thres and nms_thres. Returns a
    utils.deploy.detector.Detector: detect(image) takes (H, W, 3) RGB uint8, a PIL image or a path and returns (n, 6)
    x1, y1, x2, y2 in pixels, score, class; names are the class names. Raises CfgError, CheckpointError, WeightsError,
    FileNotFoundError, ValueError.
    """
    from utils.checkpoint import is_exported
    from utils.class_names import numbered_names
    from utils.deploy.backends import make_backend
    from utils.deploy.detector import Detector
    from utils.deploy.runtimes import open_on_cpu
    from utils.loading import load_net, resolve_cfg, select_device

    if is_exported(weights or cfg):
        file = open_on_cpu(weights or cfg, backend or "auto", img_size, device)
        return Detector(file, file.metadata.names, file.size, file.predict, **thresholds)
    if weights is None:
        raise ValueError(f"{cfg}: found no weights given with it, expected load(cfg, weights) or an exported file")
    net = load_net(resolve_cfg(cfg), weights, Darknet, img_size)
    names = net.names or numbered_names(net.model.heads()[0].classes)
    model = net.model.to(select_device(device))
    _, predict = make_backend(backend or "torch", model, net.size, weights=weights)
    return Detector(model, names, net.size, predict, **thresholds)
