"""A network as a Darknet pair, .weights with its .cfg (and .names) beside it, for OpenCV, ncnn and Darknet itself.

Before the files get their names they are read back and run beside the network, by this program and by OpenCV.
"""

import copy
import re
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
import torch
from torch import nn

from utils.batch_norm import usual_scale
from utils.compare import TOLERANCE, deviation, probe_image
from utils.deploy.opencv_log import quiet_opencv
from utils.layers import ACTIVATIONS
from utils.output import one_step, replacing, write_text
from utils.parse_config import explicit, format_model_config, integers, resized, section_of
from utils.shapes import largest_stride, layer_shapes
from utils.text import CfgError

OPENCV_TOLERANCE = 1e-3  # of the largest raw value; OpenCV's fast convolutions round otherwise than torch's


def export_darknet(model: nn.Module, rescale: float, path: Path, size: tuple[int, int],
                   names: Sequence[str] | None = None) -> str:
    """Write a Darknet (in eval mode) as `path`, the .cfg beside it, made for (width, height) `size`, and its class
    names as .names.

    Returns in words how far the file is from the network. Prints a warning where OpenCV cannot read the pair or
    computes something else: Darknet's own rules count. Raises ValueError where reading it back gives another network;
    then nothing is written.
    """
    model = model if next(model.parameters()).device.type == "cpu" else copy.deepcopy(model).cpu()
    small = check_size(model.module_defs, size)
    # the cfg last: whoever finds it finds its weights
    with one_step(), replacing(path.with_suffix(".cfg")) as cfg, replacing(path) as weights:
        if names:
            write_text(path.with_suffix(".names"), "\n".join(names) + "\n")
        read = write_pair(model, rescale, cfg, weights, size)
        worst = deviation(model, read, small)
        if not worst <= TOLERANCE:  # NaN as well
            raise ValueError(f"{path}: the file is off by {worst:.1e} of the network's largest raw value, expected at "
                             f"most {TOLERANCE:g}; it was not written")
        words = f"checked: read back it is within {worst:.1e} of the network's largest raw value"
        if not hasattr(cv2.dnn, "readNetFromDarknet"):
            words += f"; not compared with OpenCV, whose version {cv2.__version__} reads no Darknet files (4.x does)"
        elif complaint := opencv_complaint(cfg, weights, read, small):
            print(f"warning: {path}: {complaint}")
        else:
            words += ", and OpenCV computes the same"
    return words


def write_pair(model: nn.Module, rescale: float, cfg: Path, weights: Path, size: tuple[int, int]) -> nn.Module:
    """Write a Darknet (in eval mode, on the CPU) as a pair of files, not checked; returns the net that reading them
    gives."""
    usual_scale(model, rescale).save_darknet_weights(weights)
    cfg.write_text(format_model_config(explicit(resized(model.module_defs, *size))), encoding="utf-8",
                   newline="\n")
    read = type(model)(cfg, initialise=False).eval()
    read.load_darknet_weights(weights)
    return read


def check_size(defs: list[dict], size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a small input, not square, that shows whether two readings of a net agree; `size` where none
    fits."""
    stride = largest_stride(defs)
    small = min(3 * stride, size[0]), min(2 * stride, size[1])
    try:
        layer_shapes(defs, *small)
    except CfgError:
        return size
    return small


def opencv_complaint(cfg: Path, weights: Path, model: nn.Module, size: tuple[int, int]) -> str:
    """In words what OpenCV makes of a pair other than `model` (a Darknet in eval mode on the CPU) does, on a random
    image of (width, height) `size`; "" where it computes the same."""
    image = probe_image(model, size)
    try:
        with quiet_opencv():
            net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
            net.setInput(image.numpy())
            last = _last_layers(net)
            found = net.forward([last[i - 1] for i in model.head_layers()])
    except (cv2.error, KeyError) as error:
        return f"OpenCV cannot read this pair ({_reason(error)})"
    with torch.inference_mode():
        ours = model.raw_maps(image)
    worst = max(_off(raw.numpy(), theirs) for raw, theirs in zip(ours, found))
    if worst <= OPENCV_TOLERANCE:
        return ""
    place = _first_off(cfg, weights, model, image)
    return f"OpenCV computes it differently: off by {worst:.2g} of the largest raw value{place}"


def _off(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest value; infinite for another shape or NaN."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return np.inf
    return float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-12))


def _last_layers(net: cv2.dnn.Net) -> dict[int, str]:
    """cfg layer index -> name of the last of the layers that OpenCV made of it: of conv_3, bn_3, leaky_4 (sic) the
    activation; of permute_3, detection_out, what a [region] becomes, the latter."""
    last, layer_i = {}, 0
    for name in net.getLayerNames():  # in the order of the cfg
        kind, _, number = name.rpartition("_")
        if number.isdecimal():
            layer_i = int(number) - (kind in ACTIVATIONS)
        last[layer_i] = name
    return last


def _first_off(cfg: Path, weights: Path, model: nn.Module, image: torch.Tensor) -> str:
    """The first layer whose output differs, in words."""
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.enableFusion(False)  # fused layers have no output of their own
    net.setInput(image.numpy())
    last = _last_layers(net)
    outputs: dict[int, np.ndarray] = {}
    keep = lambda i: lambda module, inputs, output: outputs.__setitem__(i, output.clone().numpy())
    hooks = [module.register_forward_hook(keep(i)) for i, module in enumerate(model.module_list)
             if i in last and i not in model.head_layers()]
    with torch.inference_mode():
        model.raw_maps(image)
    for hook in hooks:
        hook.remove()
    for layer_i, ours in outputs.items():
        if not _off(ours, net.forward(last[layer_i])) <= OPENCV_TOLERANCE:
            section = section_of(model.module_defs, layer_i)
            several = section["type"] == "shortcut" and len(integers(section, "from")) > 1
            why = ", of whose several inputs it adds but one" * several
            return f", from layer {layer_i} [{section['type']}] on{why}"
    return ""


def _reason(error: Exception) -> str:
    """The words of an OpenCV error without its place in OpenCV's source."""
    text = " ".join(str(error).split())
    return re.sub(r"^OpenCV\(.*?\).*?error: (\(.*?\) )?", "", text).strip()
