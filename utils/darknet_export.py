"""A network as a Darknet pair, .weights with its .cfg beside it, for OpenCV, ncnn and Darknet itself."""

import copy
from pathlib import Path
from typing import Callable

from torch import nn

from utils.deviation import TOLERANCE, deviation
from utils.parse_config import write_model_config
from utils.rescale import rescale_gammas, restoring_factor
from utils.writing import replacing


def usual_scale(model: nn.Module, rescale: float) -> nn.Module:
    """A copy whose gammas are at their usual scale, same function: a Darknet file has no place to note the factor `rescale` that they carry."""
    plain = copy.deepcopy(model)
    if rescale != 1.0:
        rescale_gammas(plain, restoring_factor(plain))
    return plain


def export_darknet(model: nn.Module, rescale: float, path: Path, size: tuple[int, int], build: Callable[[list[dict]], nn.Module]) -> str:
    """Write a Darknet (in eval mode, on the CPU) as `path` and the .cfg beside it; returns in words how far the file is from it.

    The file is read back and run beside the network on a random (width, height) image first; raises ValueError when they differ, and
    writes nothing then. build: module_defs -> Darknet.
    """
    with replacing(path) as temporary:
        usual_scale(model, rescale).save_darknet_weights(temporary)
        read = build(model.module_defs).eval()
        read.load_darknet_weights(temporary)
        worst = deviation(model, read, size)
        if not worst <= TOLERANCE:  # NaN as well
            raise ValueError(f"{path}: the file is off by {worst:.1e} of the network's largest raw value, expected at most {TOLERANCE:g}; nothing was written")
        write_model_config(path.with_suffix(".cfg"), model.module_defs)
    return f"checked: read back it is within {worst:.1e} of the network's largest raw value"
