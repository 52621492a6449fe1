"""What is exported: a net with its batch norms folded and its decoding written so that every converter can follow it.

B images, A anchors of a head, K classes, H x W cells, N = boxes of all heads.
"""

import torch
from torch import Tensor, nn

from utils.shapes import largest_stride, layer_shapes
from utils.text import CfgError


class DeployGraph(nn.Module):
    """A copy of a Darknet for the converters: images (B, 3, H, W) RGB 0..1 -> (B, N, 5 + K), as Darknet in eval mode.

    Grids are made from the maps' own shapes; pixels per cell are constants. half: weights and maps in float16; input,
    decoding and output stay in float32, since a float16 coordinate over 256 is off by up to 1/8 pixel.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], half: bool = False):
        super().__init__()
        # channels-last would be traced as transposes
        self.net = model.optimize().cpu().to(memory_format=torch.contiguous_format)
        self.net = self.net.half() if half else self.net.float()
        self.half_precision = half
        self.strides, self.stride = head_strides(model, size), largest_stride(model.module_defs)
        for head in self.net.heads():
            head.anchors = head.anchors.float()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, 5 + K): cx, cy, w, h in input pixels, objectness, class probabilities."""
        raws = self.net.raw_maps(images.half() if self.half_precision else images)
        decoded = [
            head.decode_cells(raw.float(), cell) for head, raw, cell in zip(self.net.heads(), raws, self.strides)
        ]
        return torch.cat(decoded, dim=1)


def head_strides(model: nn.Module, size: tuple[int, int]) -> list[list[float]]:
    """[x, y] input pixels per cell of every head of a Darknet, for a (width, height) input."""
    shapes = layer_shapes(model.module_defs, *size)
    return [[size[0] / shapes[i][2], size[1] / shapes[i][1]] for i in model.head_layers()]


def takes_any_size(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether one file can serve every multiple of the net's stride: pixels per cell are the same at other sizes (they
    are not where a convolution is not padded)."""
    stride = largest_stride(model.module_defs)
    others = [(size[0] + stride, size[1] + 2 * stride), (2 * size[0], 3 * size[1])]
    try:
        return all(head_strides(model, other) == head_strides(model, size) for other in others)
    except CfgError:
        return False
